"""The image that the base tier starts from: of a registry, of debootstrap, or any other that the settings name."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from actors.images.engine import LABEL_KEY, LABEL_TIER, Engine
from actors.images.outcomes import BuildCancelled
from actors.images.recipes import tag_of
from actors.images.rootfs import SUITES, Rootfs, apt_mirror, make_rootfs
from actors.settings import BuildSettings
from events.errors import InfraError, InputError
from store.locks import LockWaitCancelled, file_lock

__all__ = ["RootImage", "python_versions", "root_image"]

PLACEHOLDER = "{python_version}"


class RootImage(msgspec.Struct, frozen=True):
    """An image on the engine, and ``identity``: what stays the same when it is imported again."""

    image_id: str
    identity: str


def python_versions(settings: BuildSettings) -> Sequence[str]:
    """The Python versions that these settings have a base image for."""
    return list(SUITES) if settings.provider == "debootstrap" else list(settings.python_versions)


def root_image(
    engine: Engine,
    *,
    settings: BuildSettings,
    python_version: str,
    cache_dir: Path,
    log: BinaryIO,
    cancel: threading.Event,
) -> RootImage:
    """Finds, pulls or makes the root image of a Python version.

    Raises:
        InputError: the provider has no image of that version; names those that it has.
        InfraError: the registry, the mirror or the engine refuses or is away, with its message.
        EnvironmentNotReady: debootstrap is missing.
        BuildCancelled: ``cancel`` was set.
    """
    version = _checked(settings, python_version)
    if settings.provider == "registry":
        return _pulled(engine, settings.base_image.replace(PLACEHOLDER, version), log=log, cancel=cancel)
    rootfs = Rootfs(suite=SUITES[version], mirror=settings.debian_mirror or apt_mirror(), folder=cache_dir / "rootfs")
    tag = tag_of("root", rootfs.suite, key=rootfs.key)
    try:
        with file_lock(cache_dir / "locks" / f"root-{rootfs.key}.lock", cancel=cancel):
            found = engine.image(tag)
            if found is None:
                make_rootfs(rootfs, log=log, cancel=cancel)
                _import(engine, rootfs, tag=tag, log=log)
                found = engine.image(tag)
    except LockWaitCancelled as exc:
        raise BuildCancelled(stage="base") from exc
    if found is None:
        raise InfraError(f"{tag} is gone again just after its import; does something prune images on this engine?")
    return RootImage(str(found["Id"]), rootfs.key)


def _checked(settings: BuildSettings, python_version: str) -> str:
    if settings.provider == "registry" and PLACEHOLDER not in settings.base_image:
        return python_version
    known = python_versions(settings)
    wanted = ".".join(python_version.split(".")[:2]) if settings.provider == "debootstrap" else python_version
    if wanted not in known:
        raise InputError(
            f"python_version {python_version!r}: the {settings.provider} provider has {', '.join(known)}; "
            "choose one of these or change [build] provider, base_image or python_versions"
        )
    return wanted


def _pulled(engine: Engine, name: str, *, log: BinaryIO, cancel: threading.Event) -> RootImage:
    found = engine.image(name)
    if found is None:
        repository, _, tag = name.rpartition(":") if ":" in name.rpartition("/")[2] else (name, "", "latest")
        log.write(f"pulling {name}\n".encode())
        with engine.translated(f"pull {name}"):
            for entry in engine.api.pull(repository, tag=tag, stream=True, decode=True):
                if cancel.is_set():
                    raise BuildCancelled(stage="base")
                if "error" in entry:
                    raise InfraError(f"cannot pull {name}: {entry['error']}")
        found = engine.image(name)
    if found is None:
        raise InfraError(f"the engine pulled {name} and does not have it; try again")
    return RootImage(str(found["Id"]), str(found["Id"]))


def _import(engine: Engine, rootfs: Rootfs, *, tag: str, log: BinaryIO) -> None:
    repository, _, short = tag.rpartition(":")
    log.write(f"importing {rootfs.path.name} as {tag}\n".encode())
    log.flush()
    changes = [f"LABEL {LABEL_TIER}=root {LABEL_KEY}={rootfs.key}", 'CMD ["/bin/bash"]']
    with engine.translated(f"import {rootfs.path}"), rootfs.path.open("rb") as file:
        engine.api.import_image_from_data(file, repository=repository, tag=short, changes=changes)
