"""One pull request's environment: its Python and its pins, from its project's files at its commit and its date.

What is pinned together: what the project runs on, what builds it (so that the build needs no isolation and no newer
tools) and what its tests need. If no versions fit all of these, the tests' own requirements are given up, pytest
excepted, and the report says so.

When the Python is younger than the pull request (none of its time is available), tools of that time do not run on it:
the test runner and the build tools are then taken as of the day on which that Python had settled, and, if that does not
fit, everything is. The report says so.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec

from events.work import PullRequest
from scripts.pinning import Pinner, Unresolvable
from scripts.project_metadata import ProjectNeeds, read_needs
from scripts.python_choice import SETTLED, ChosenPython, NoPythonFits, choose_python, released
from store.sources import Mirror
from store.timeline import parse_env_payload, parse_moment

__all__ = ["Environment", "Resolver"]

TOOLS = (
    "attrs",
    "cython",
    "exceptiongroup",
    "importlib-metadata",
    "iniconfig",
    "more-itertools",
    "packaging",
    "pip",
    "pluggy",
    "py",
    "pygments",
    "pyparsing",
    "pytest",
    "setuptools",
    "setuptools-scm",
    "six",
    "toml",
    "tomli",
    "typing-extensions",
    "wheel",
    "zipp",
)
"""The test runner and the build tools, and what these need themselves."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What fills a row, and the notes on how it was come by."""

    payload: str
    python_version: str
    notes: list[str]

    @property
    def summary(self) -> str:
        """One line for people."""
        pins = len(parse_env_payload(self.payload))
        return "; ".join([f"python {self.python_version}, {pins} requirements", *self.notes])


class _Way(msgspec.Struct, frozen=True, kw_only=True):
    requirements: list[str]
    at: datetime
    at_by_package: list[tuple[str, datetime]]
    wheels_only: bool
    notes: list[str]


class Resolver:
    """Resolves pull requests one by one; safe to call from many threads."""

    def __init__(self, pinner: Pinner, *, pythons: Sequence[str], wheels_only: bool) -> None:
        self._pinner, self._pythons, self._wheels_only = pinner, pythons, wheels_only

    def resolve(self, row: PullRequest, mirror: Mirror, *, force: bool) -> Environment:
        """The environment of a pull request; what its row has already is kept unless ``force``.

        Raises:
            Unresolvable: no Python or no set of versions fits; the reason is of the way that was tried first.
            InfraError: the mirror cannot be read.
            EnvironmentNotReady: the index cannot be reached.
        """
        needs = _needs(row, mirror)
        at = parse_moment(row.created_at)
        python = self._python(row, needs, at, force=force)
        notes = [python.note] if python.note else []
        if row.env_payload is not None and not force:
            return Environment(payload=row.env_payload, python_version=python.version, notes=notes)
        first: Unresolvable | None = None
        for way in self._ways(needs, python, at):
            try:
                pins = self._pinner.pin(
                    way.requirements,
                    python_version=python.version,
                    at=way.at,
                    wheels_only=way.wheels_only,
                    at_by_package=way.at_by_package,
                )
            except Unresolvable as exc:
                first = first or exc
            else:
                payload = msgspec.json.encode({"dependencies": pins}).decode()
                return Environment(
                    payload=payload, python_version=python.version, notes=[*notes, *way.notes, *needs.notes]
                )
        raise first or Unresolvable("nothing was tried")

    def _python(self, row: PullRequest, needs: ProjectNeeds, at: datetime, *, force: bool) -> ChosenPython:
        if row.python_version is not None and not force:
            day = released(row.python_version)
            return ChosenPython(row.python_version, younger=day is not None and day > at)
        try:
            return choose_python(
                requires_python=needs.requires_python, classifiers=needs.classifiers, at=at, available=self._pythons
            )
        except NoPythonFits as exc:
            raise Unresolvable(str(exc)) from exc

    def _ways(self, needs: ProjectNeeds, python: ChosenPython, at: datetime) -> Iterator[_Way]:
        """What to try, the best first."""
        dates: list[tuple[datetime, list[tuple[str, datetime]], list[str]]] = [(at, [], [])]
        day = released(python.version)
        if python.younger and day is not None:
            settled = day + SETTLED
            dates = [
                (at, [(tool, settled) for tool in TOOLS], [f"its tools are as of {settled:%Y-%m-%d}"]),
                (settled, [], [f"everything is as of {settled:%Y-%m-%d}"]),
            ]
        base = [*needs.run, *needs.build]
        sets = [([*base, *needs.test], list[str]())]
        if needs.test != ["pytest"]:
            sets.append(([*base, "pytest"], ["its test requirements do not fit and were given up, but for pytest"]))
        for requirements, given_up in sets:
            for moment, by_package, dated in dates:
                for wheels_only in (True,) if self._wheels_only else (True, False):
                    built = [] if wheels_only else ["some requirements have no wheels"]
                    yield _Way(
                        requirements=requirements,
                        at=moment,
                        at_by_package=by_package,
                        wheels_only=wheels_only,
                        notes=[*given_up, *dated, *built],
                    )


def _needs(row: PullRequest, mirror: Mirror) -> ProjectNeeds:
    root = posixpath.normpath(row.primary_root or ".")
    prefix = "" if root == "." else f"{root}/"

    def read(path: str) -> str | None:
        content = mirror.read_file(row.commit, posixpath.normpath(prefix + path))
        return None if content is None else content.decode(errors="replace")

    files = {path.removeprefix(prefix) for path in mirror.list_files(row.commit) if path.startswith(prefix)}
    return read_needs(read, files=files, fallback_name=row.repo)
