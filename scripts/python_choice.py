"""Which Python a pull request gets: one that its project allows, that was current then, and that images exist for.

The rule, in order: of the versions that images exist for and ``Requires-Python`` allows, the newest that had been out
for ``SETTLED`` at the pull request's date and is in the project's Trove classifiers; if none of those settled is
classified, the one nearest to what is; failing settled ones, the oldest that was out at all; failing these, the oldest
there is, with a note, since it is younger than the pull request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from actors.images.rootfs import SUITES
from actors.settings import BuildSettings

__all__ = ["SETTLED", "ChosenPython", "NoPythonFits", "available_pythons", "choose_python", "released"]

RELEASED: Mapping[str, str] = {
    "3.3": "2012-09-29",
    "3.4": "2014-03-16",
    "3.5": "2015-09-13",
    "3.6": "2016-12-23",
    "3.7": "2018-06-27",
    "3.8": "2019-10-14",
    "3.9": "2020-10-05",
    "3.10": "2021-10-04",
    "3.11": "2022-10-24",
    "3.12": "2023-10-02",
    "3.13": "2024-10-07",
    "3.14": "2025-10-07",
}
"""Days of CPython's final releases, as its release schedules (PEPs 398 to 745) tell."""

SETTLED = timedelta(days=183)
"""How long a Python must have been out before projects are assumed to work on it."""

LATE_PATCH = 15
"""``Requires-Python`` is asked about a late patch release, which is what images hold."""

CLASSIFIER = re.compile(r"Programming Language :: Python :: (3\.\d+)\s*")


class NoPythonFits(Exception):
    """``Requires-Python`` allows none of the Pythons that images exist for."""


class ChosenPython(msgspec.Struct, frozen=True):
    """``version`` like ``3.11``; ``younger`` when it came out only after the pull request; ``note`` says so."""

    version: str
    younger: bool = False
    note: str = ""


def available_pythons(build: BuildSettings) -> list[str]:
    """The versions that this provider has base images for, oldest first."""
    return sorted(SUITES if build.provider == "debootstrap" else build.python_versions, key=_minor)


def released(version: str) -> datetime | None:
    """When a Python came out; ``None``: not known to this program, so after everything that is."""
    day = RELEASED.get(version)
    return datetime.fromisoformat(day).replace(tzinfo=UTC) if day else None


def choose_python(
    *, requires_python: str | None, classifiers: Iterable[str], at: datetime, available: Sequence[str]
) -> ChosenPython:
    """Chooses by the rule above.

    Args:
        requires_python: the project's ``Requires-Python``; what is no version specifier is taken as no demand.
        classifiers: the project's Trove classifiers.
        at: the pull request's date.
        available: versions that images exist for.

    Raises:
        NoPythonFits: with the reason as its message.
    """
    allowed = sorted((version for version in available if _allows(requires_python, version)), key=_minor)
    if not allowed:
        raise NoPythonFits(f"Requires-Python {requires_python!r} allows none of {', '.join(available)}")
    out = [version for version in allowed if _age(version, at) >= timedelta(0)]
    settled = [version for version in out if _age(version, at) >= SETTLED]
    classified = {match[1] for match in map(CLASSIFIER.fullmatch, classifiers) if match}
    if settled:
        listed = [version for version in settled if version in classified]
        if listed or not classified:
            return ChosenPython((listed or settled)[-1])
        newest = max(map(_minor, classified))
        nearest = min(settled, key=lambda version: (abs(_minor(version) - newest), _minor(version)))
        return ChosenPython(nearest, note=f"python {nearest} is not in its classifiers")
    if out:
        return ChosenPython(out[0], note=f"python {out[0]} was new then")
    return ChosenPython(allowed[0], younger=True, note=f"python {allowed[0]} is younger than this pull request")


def _minor(version: str) -> int:
    return int(version.partition(".")[2])


def _age(version: str, at: datetime) -> timedelta:
    day = released(version)
    return at - day if day else timedelta.min


def _allows(requires_python: str | None, version: str) -> bool:
    try:
        return SpecifierSet(requires_python or "").contains(f"{version}.{LATE_PATCH}", prereleases=True)
    except InvalidSpecifier:
        return True
