"""Are the tests that a run collected the tests that the commit has?

What the runner inside reports is held against the host's own list (``expected.py``). Nothing is tolerated of what is
certain: an item from a file that the commit does not have, a certain test that is missing although its file was
imported, a file that was never looked at, and a test that was collected and then not run, all count unless the commit's
own files explain them.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from actors.verifier.defences import Defence, Finding
from actors.verifier.suite.expected import Expected, ExpectedTest
from events.work import FailureClass

__all__ = ["Collected", "CollectorReport", "compare", "written_in"]

NAMED = 5
MAX_LINKS = 16

CHECKS = frozenset(
    {"flake8", "black", "isort", "mypy", "mypy-status", "ruff", "ruff::format", "pylint", "pycodestyle", "pydocstyle"}
    | {"pep8", "pyflakes", "codestyle", "docstyle", "pylama"}
)
"""Names, in lower case, of the one item that a linter's plug-in adds for each file, generated ones included."""


class CollectorReport(msgspec.Struct, frozen=True):
    """How the collection of one node that is no test ended: a module, a class, a package, or all (``nodeid`` empty)."""

    nodeid: str
    outcome: Literal["passed", "skipped", "failed"]


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What the runner inside reports when pytest's collection is over.

    ``collected``: node ids before any hook of the repository could take some away; ``selected``: those that are to be
    run; ``modules``: every module's report, and that of every other collector which did not pass.
    """

    collected: list[str]
    selected: list[str]
    modules: list[CollectorReport]


def compare(expected: Expected, collected: Collected, *, not_installed: Sequence[str] = ()) -> list[Finding]:
    """What is wrong with a collection; nothing for an honest one.

    Args:
        expected: the commit's own list.
        collected: what was reported; the node ids are pytest's, from its root folder.
        not_installed: distributions that the pull request requires and that are missing.
    """
    seen = _Seen(expected, collected)
    findings = [_foreign(seen), _missing(seen), _unreached(seen), _deselected(seen)]
    findings += [_left_out(seen, not_installed)] if not_installed else []
    return [found for found in [*findings, _in_submodules(seen)] if found is not None]


def written_in(expected: Expected, collected: Collected) -> dict[str, tuple[str, str]]:
    """By node id, the file of the commit that certainly has a collected test, and its name there; others are left out.
    The name has the test's classes (``TestShop::test_opens``), one of which may have inherited it."""
    certain = {(test.file, test.name) for test in expected.tests if test.certain_in_file}
    items = _Seen(expected, collected).items
    return {nodeid: place for nodeid, place in items.items() if place in certain}


class _Seen:
    """A report with its node ids as paths of the commit and names."""

    def __init__(self, expected: Expected, collected: Collected) -> None:
        self.expected, self.collected = expected, collected
        self.root = _root(expected, collected)
        self.items = {nodeid: self._parsed(nodeid) for nodeid in collected.collected}
        self.names: dict[str, set[str]] = {}
        for path, name in self.items.values():
            self.names.setdefault(path, set()).add(name)
        self.reports = {self._parsed(report.nodeid): report.outcome for report in collected.modules}
        self.excused = {place for place, outcome in self.reports.items() if outcome != "passed"}

    def is_excused(self, path: str, name: str = "") -> bool:
        """Whether a collector above a test, or the one of a file, was skipped or failed."""
        parts = name.split("::") if name else []
        inner = [(path, "::".join(parts[:number])) for number in range(len(parts))]
        folders = [(folder, "") for folder in ("", *_above(path))]
        packages = [(posixpath.join(folder, "__init__.py"), "") for folder, _ in folders]
        return any(place in self.excused for place in [*inner, (path, ""), *folders, *packages])

    def _parsed(self, nodeid: str) -> tuple[str, str]:
        path, _, name = nodeid.partition("::")
        place = self._place(path)
        return place, name.partition("[")[0].replace("()::", "")

    def _place(self, path: str) -> str:
        joined = posixpath.normpath(posixpath.join(self.root, path)) if path else self.root
        place = "" if joined == "." else joined
        for _ in range(MAX_LINKS):
            step = next((link for link in (*_above(place), place) if link in self.expected.links), None)
            if step is None:
                break
            target = posixpath.join(posixpath.dirname(step), self.expected.links[step])
            place = posixpath.normpath(target + place[len(step) :])
        return place


def _foreign(seen: _Seen) -> Finding | None:
    """Items from files that the commit does not have."""
    strange = [
        nodeid
        for nodeid, (path, name) in seen.items.items()
        if path not in seen.expected.files
        and name.lower() not in CHECKS
        and not _below(path, seen.expected.submodules)
        and not _is_installed_copy(path, seen.expected)
    ]
    return _finding(f"{len(strange)} tests come from files that the commit does not have", strange)


def _in_submodules(seen: _Seen) -> Finding | None:
    strange = [nodeid for nodeid, (path, _) in seen.items.items() if _below(path, seen.expected.submodules)]
    found = _finding(f"{len(strange)} tests come from submodules, which the commit does not hold", strange)
    return None if found is None else msgspec.structs.replace(found, failure_class=FailureClass.RECIPE)


def _missing(seen: _Seen) -> Finding | None:
    """Certain tests of imported files that were not collected."""
    gone = [
        test
        for test in _looked_for(seen)
        if test.certain_in_file
        and (test.file, "") in seen.reports
        and not seen.is_excused(test.file, test.name)
        and test.name not in seen.names.get(test.file, ())
    ]
    return _finding(f"{len(gone)} tests of the commit were not collected from files that were", map(_name, gone))


def _unreached(seen: _Seen) -> Finding | None:
    """Files with certain tests that pytest never looked at."""
    gone = {
        test.file
        for test in _looked_for(seen)
        if test.certain
        and (test.file, "") not in seen.reports
        and test.file not in seen.names
        and not seen.is_excused(test.file)
    }
    return _finding(f"{len(gone)} test files of the commit were not looked at", sorted(gone))


def _left_out(seen: _Seen, not_installed: Sequence[str]) -> Finding | None:
    """Files with tests that the commit leaves out, perhaps for want of what it requires."""
    tested = {test.file for test in seen.expected.tests}
    gone = {path for path in tested if path not in seen.names and not _taken_out(seen, path)}
    names = ", ".join(not_installed[:NAMED])
    message = f"{names}, which the requirements name, is not installed, and {len(gone)} files of tests are left out"
    found = _finding(message, sorted(gone))
    return None if found is None else msgspec.structs.replace(found, failure_class=FailureClass.RECIPE)


def _looked_for(seen: _Seen) -> Iterable[ExpectedTest]:
    return (test for test in seen.expected.tests if not _taken_out(seen, _name(test)))


def _deselected(seen: _Seen) -> Finding | None:
    """Tests that were collected and are not to be run, without a reason in the commit.

    A hook of the commit may leave tests out, and nobody can tell here which. That it leaves out most of them, and not
    for marks that it speaks of, is not what it was written for; a configuration that selects says so itself.
    """
    if seen.expected.config.options.selections:
        return None
    selected = set(seen.collected.selected)
    gone = [
        nodeid
        for nodeid in seen.collected.collected
        if nodeid not in selected
        and not _taken_out(seen, nodeid)
        and not any(
            selection.explains(nodeid, seen.expected.mentions.get(seen.items[nodeid][0], selection.words))
            for selection in seen.expected.selections
        )
    ]
    if seen.expected.deselecting:
        gone = [nodeid for nodeid in gone if seen.items[nodeid][0] not in seen.expected.marked]
        if len(gone) <= len(selected):
            return None
        found = _finding(f"{len(gone)} tests, more than are run, were left out by a hook of the commit", gone)
        return found and msgspec.structs.replace(found, failure_class=FailureClass.RECIPE)
    return _finding(f"{len(gone)} tests were collected and then left out", gone)


def _taken_out(seen: _Seen, nodeid: str) -> bool:
    return bool(seen.expected.deselected) and nodeid.startswith(seen.expected.deselected)


def _root(expected: Expected, collected: Collected) -> str:
    """pytest's root folder: by its rules, unless the reported paths fit better from a folder above or below that.

    Versions differ in what counts as a root when there is no configuration; the paths have to be the commit's anyway.
    """
    paths = {nodeid.partition("::")[0] for nodeid in collected.collected}
    paths |= {report.nodeid.partition("::")[0] for report in collected.modules} - {""}
    places = dict.fromkeys([expected.config.root, *_around(expected.config.folder)])
    return max(
        places,
        key=lambda place: sum(posixpath.normpath(posixpath.join(place, path)) in expected.files for path in paths),
    )


def _around(folder: str) -> list[str]:
    return [folder, *reversed(_above(folder)), ""]


def _is_installed_copy(path: str, expected: Expected) -> bool:
    """With ``--pyargs`` the commit has its tests collected from where its package is installed."""
    inner = path.partition("/site-packages/")[2]
    return expected.config.options.pyargs and any(place in expected.files for place in (inner, f"src/{inner}"))


def _finding(message: str, names: Iterable[str]) -> Finding | None:
    first = list(names)
    if not first:
        return None
    more = ", …" if len(first) > NAMED else ""
    return Finding(defence=Defence.COLLECTION, message=f"{message}: {', '.join(first[:NAMED])}{more}")


def _name(test: ExpectedTest) -> str:
    return f"{test.file}::{test.name}"


def _below(path: str, folders: Sequence[str]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def _above(path: str) -> tuple[str, ...]:
    """The folders that a path lies in, outermost first, without the checkout itself."""
    parts = path.split("/")[:-1]
    return tuple("/".join(parts[: number + 1]) for number in range(len(parts)))
