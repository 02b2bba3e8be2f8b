"""Reads what ``inside/headrace_reporter.py`` wrote, which code under test may have written to: nothing is believed.

The file has to be a regular file of its own, of bounded size, with lines of known shapes. Anything else is a
``ReportRefused`` that says what is wrong. A test counts once, by the worst of its phases; one that failed and was run
again within the same pytest (by a plug-in of the repository) counts as its last run says.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal

import msgspec

from events.work import TestCounts

__all__ = [
    "MAX_REPORT_BYTES",
    "ModuleReport",
    "ReportRefused",
    "RunReport",
    "TestOutcome",
    "counts",
    "decode_outcomes",
    "encode_outcomes",
    "parse_report",
    "read_report",
]

MAX_REPORT_BYTES = 256 * 1024 * 1024
MAX_TESTS = 500_000
MAX_NAME_CHARS = 2000
MAX_MESSAGE_CHARS = 1000

OutcomeName = Literal["passed", "failed", "error", "skipped"]
SEVERITY: dict[OutcomeName, int] = {"passed": 0, "skipped": 1, "failed": 2, "error": 3}


class ReportRefused(Exception):
    """A report that cannot be believed; the text says why, for people."""


class TestOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the ``tests`` blob.

    ``test`` is the node id; of a file that was skipped or could not be collected, the file. ``time_s``: seconds;
    ``message``: what went wrong. ``runs`` and ``failures``: in how many runs it took part, and in how many it did not
    pass; a test that failed and then passed is ``passed``, and its flake rate is ``failures / runs``. ``known``: it was
    allowed to fail.
    """

    __test__ = False

    test: str
    outcome: OutcomeName
    time_s: float | None = None
    message: str = ""
    runs: int = 1
    failures: int = 0
    known: bool = False

    @property
    def failed(self) -> bool:
        """Whether it ran and did not pass."""
        return self.outcome in ("failed", "error")


class ModuleReport(msgspec.Struct, frozen=True, kw_only=True):
    """How collecting one file or folder ended."""

    nodeid: str
    outcome: Literal["passed", "skipped", "failed"]
    message: str = ""


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """One run of pytest. ``canaries``: how those that were reported ended, by name. ``finished``: the exit code that it
    was about to end with, if it came to its end."""

    collected: list[str]
    selected: list[str]
    modules: list[ModuleReport]
    outcomes: list[TestOutcome]
    canaries: dict[str, OutcomeName]
    finished: int | None


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    collected: list[str] | None = None
    selected: list[str] | None = None
    module: str | None = None
    test: str | None = None
    when: Literal["setup", "call", "teardown", "collect", "rerun", "???"] | None = None
    outcome: Literal["passed", "skipped", "failed", "rerun"] | None = None
    time_s: float = 0.0
    message: str = ""
    finished: int | None = None


def read_report(path: Path, *, max_bytes: int = MAX_REPORT_BYTES) -> bytes:
    """The content of a file that a container could write.

    Raises:
        ReportRefused: it is missing, empty, no regular file of its own (a link, a pipe), or larger than ``max_bytes``.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise ReportRefused(f"{path.name} cannot be read: {os.strerror(exc.errno or 0)}") from exc
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise ReportRefused(f"{path.name} is no regular file of its own")
        data = file.read(max_bytes + 1)
    if not data:
        raise ReportRefused(f"{path.name} was not written")
    if len(data) > max_bytes:
        raise ReportRefused(f"{path.name} is larger than {max_bytes} bytes")
    return data


def parse_report(data: bytes, *, canaries: Collection[str] = ()) -> RunReport:
    """What a report says.

    Args:
        data: the lines.
        canaries: names of the tests that were put into the run from outside.

    Raises:
        ReportRefused: a line is none of the reporter's, or there are too many tests.
    """
    reader = _Reader(frozenset(canaries))
    decoder = msgspec.json.Decoder(_Line)
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            reader.take(decoder.decode(line))
        except msgspec.DecodeError as exc:
            raise ReportRefused(f"line {number} of the report is none that the reporter writes: {exc}") from exc
    return reader.report()


def counts(outcomes: Iterable[TestOutcome]) -> TestCounts:
    """How many tests ended in which way."""
    tally = dict.fromkeys(SEVERITY, 0)
    flaky = known = 0
    for outcome in outcomes:
        tally[outcome.outcome] += 1
        flaky += outcome.outcome == "passed" and outcome.failures > 0
        known += outcome.known
    return TestCounts(
        passed=tally["passed"],
        failed=tally["failed"],
        errors=tally["error"],
        skipped=tally["skipped"],
        flaky=flaky,
        known=known,
    )


def encode_outcomes(outcomes: Iterable[TestOutcome]) -> bytes:
    """The ``tests`` blob: JSON Lines, one object a test."""
    return msgspec.json.Encoder().encode_lines(list(outcomes))


def decode_outcomes(data: bytes) -> list[TestOutcome]:
    """What ``encode_outcomes`` wrote; raises ``msgspec.DecodeError`` for anything else."""
    return msgspec.json.Decoder(TestOutcome).decode_lines(data)


class _Reader:
    """Folds the lines of one run; memory grows with the tests alone."""

    def __init__(self, canaries: frozenset[str]) -> None:
        self._canaries = canaries
        self.collected: list[str] = []
        self.selected: list[str] = []
        self.modules: list[ModuleReport] = []
        self.found: dict[str, TestOutcome] = {}
        self.canaries: dict[str, OutcomeName] = {}
        self.finished: int | None = None

    def take(self, line: _Line) -> None:
        if line.collected is not None:
            self.collected += line.collected
        elif line.selected is not None:
            self.selected += line.selected
        elif line.finished is not None:
            self.finished = line.finished
        elif line.module is not None and line.outcome in ("passed", "skipped", "failed"):
            self.modules.append(ModuleReport(nodeid=line.module, outcome=line.outcome, message=_cut(line.message)))
            if line.outcome != "passed":
                outcome: OutcomeName = "error" if line.outcome == "failed" else "skipped"
                self._note(line.module, outcome, 0.0, line.message)
        elif line.test is not None and line.when is not None:
            self._phase(line.test, line)
        else:
            raise ReportRefused("the report has a line without a subject")
        if len(self.found) + len(self.collected) > 2 * MAX_TESTS:
            raise ReportRefused(f"the report has more than {MAX_TESTS} tests")

    def _phase(self, test: str, line: _Line) -> None:
        if line.outcome == "rerun":
            self.found.pop(test, None)
            return
        outcome: OutcomeName = "passed"
        if line.outcome == "failed":
            outcome = "failed" if line.when == "call" else "error"
        elif line.outcome == "skipped":
            outcome = "skipped"
        name = test.rpartition("::")[2]
        if name in self._canaries:
            known = self.canaries.get(name, "passed")
            self.canaries[name] = max(known, outcome, key=SEVERITY.__getitem__)
        elif line.when == "call" or outcome != "passed":
            self._note(test, outcome, line.time_s, line.message)

    def _note(self, test: str, outcome: OutcomeName, time_s: float, message: str) -> None:
        if not test:
            raise ReportRefused("the report has a test without a name")
        name = test[:MAX_NAME_CHARS]
        known = self.found.get(name)
        if known is None or SEVERITY[outcome] > SEVERITY[known.outcome]:
            seconds = time_s if 0 <= time_s < float("inf") else None
            self.found[name] = TestOutcome(
                test=name, outcome=outcome, time_s=seconds, message=_cut(message), failures=int(SEVERITY[outcome] > 1)
            )

    def report(self) -> RunReport:
        return RunReport(
            collected=self.collected,
            selected=self.selected,
            modules=self.modules,
            outcomes=list(self.found.values()),
            canaries=self.canaries,
            finished=self.finished,
        )


def _cut(text: str) -> str:
    return text[:MAX_MESSAGE_CHARS]
