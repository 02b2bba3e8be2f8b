"""The requirements that a pull request names (CONTRACTS.md section 1), and which of them are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from actors.verifier.image.installed import Distribution

__all__ = ["environment_of", "missing", "requirements_of"]


def requirements_of(env_payload: str) -> Iterator[Requirement]:
    """The requirements of a pull request; what cannot be read names nothing."""
    try:
        payload = msgspec.json.decode(env_payload or "[]")
    except msgspec.DecodeError:
        return
    entries = payload.get("dependencies") if isinstance(payload, dict) else payload
    for entry in entries if isinstance(entries, list) else []:
        try:
            yield Requirement(str(entry))
        except InvalidRequirement:
            continue


def environment_of(version: str) -> dict[str, str]:
    """The values of environment markers in an image whose Python is ``version`` (``3.11``)."""
    found = {key: str(value) for key, value in default_environment().items()}
    found |= {"python_version": version, "python_full_version": f"{version}.0"}
    return found | {"sys_platform": "linux", "os_name": "posix", "platform_system": "Linux", "extra": ""}


def missing(env_payload: str, installed: Sequence[Distribution], *, version: str) -> list[str]:
    """Canonical names of distributions that a pull request requires, in its order, and that are not installed.

    Args:
        env_payload: the requirements.
        installed: the image's distributions, of whatever version.
        version: of the image's Python, for the requirements' markers.
    """
    there = {item.name for item in installed}
    environment = environment_of(version)
    wanted = (one for one in requirements_of(env_payload) if one.marker is None or one.marker.evaluate(environment))
    return [name for name in dict.fromkeys(canonicalize_name(one.name) for one in wanted) if name not in there]
