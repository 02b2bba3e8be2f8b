"""Reads a junit XML file that code under test may have written: nothing in it is believed to be well-meant.

The file has to be a regular file of bounded size with XML of bounded depth and count, without a document type (so no
entity can be declared, let alone expanded). Anything else is a ``ReportRefused`` that says what is wrong. A test that
is reported twice (one that failed and whose teardown failed too) counts once, by its worst outcome.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Literal
from xml.parsers import expat

import msgspec

from events.work import TestCounts

__all__ = [
    "MAX_REPORT_BYTES",
    "ReportRefused",
    "TestOutcome",
    "counts",
    "encode_outcomes",
    "parse_junit",
    "read_report",
]

MAX_REPORT_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 32
MAX_TESTS = 500_000
MAX_NAME_CHARS = 2000
MAX_MESSAGE_CHARS = 1000

OutcomeName = Literal["passed", "failed", "error", "skipped"]

MARKS: dict[str, OutcomeName] = {"failure": "failed", "error": "error", "skipped": "skipped"}
SEVERITY: dict[OutcomeName, int] = {"skipped": 0, "passed": 1, "failed": 2, "error": 3}


class ReportRefused(Exception):
    """A report that cannot be believed; the text says why, for people."""


class TestOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the ``tests`` blob: a test's identity, ``time_s`` in seconds, the message of what went wrong."""

    __test__ = False

    test: str
    outcome: OutcomeName
    time_s: float | None = None
    message: str = ""


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


def parse_junit(data: bytes) -> list[TestOutcome]:
    """The outcomes in a junit file, in the order of first mention.

    Raises:
        ReportRefused: this is no junit XML, or it goes beyond the bounds named above.
    """
    reader = _Reader()
    try:
        reader.parser.Parse(data, True)
    except (expat.ExpatError, LookupError, UnicodeError, ValueError) as exc:
        raise ReportRefused(f"the junit file is no valid XML: {exc}") from exc
    return list(reader.found.values())


def counts(outcomes: Iterable[TestOutcome]) -> TestCounts:
    """How many tests ended in which way."""
    tally = dict.fromkeys(SEVERITY, 0)
    for outcome in outcomes:
        tally[outcome.outcome] += 1
    return TestCounts(passed=tally["passed"], failed=tally["failed"], errors=tally["error"], skipped=tally["skipped"])


def encode_outcomes(outcomes: Iterable[TestOutcome]) -> bytes:
    """The ``tests`` blob: JSON Lines, one object a test."""
    return msgspec.json.Encoder().encode_lines(list(outcomes))


class _Reader:
    """Expat handlers that keep one test case at a time, so that memory grows with the outcomes alone."""

    def __init__(self) -> None:
        self.found: dict[str, TestOutcome] = {}
        self.case: tuple[str, float | None] | None = None
        self.marks: list[tuple[OutcomeName, str]] = []
        self.depth = 0
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.StartDoctypeDeclHandler = self.doctype

    def doctype(self, *_: object) -> None:
        raise ReportRefused("the junit file declares a document type, which no test runner does")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ReportRefused(f"the junit file is nested deeper than {MAX_DEPTH} elements")
        if self.depth == 1 and tag not in ("testsuites", "testsuite"):
            raise ReportRefused(f"the junit file begins with <{tag[:40]}> and not with <testsuites>")
        if tag == "testcase":
            if self.case is not None:
                raise ReportRefused("the junit file has a test case inside another")
            self.case = (identity(attributes), seconds(attributes.get("time", "")))
            self.marks = []
        elif self.case is not None and tag in MARKS:
            self.marks.append((MARKS[tag], attributes.get("message", "")[:MAX_MESSAGE_CHARS]))

    def end(self, tag: str) -> None:
        self.depth -= 1
        if tag != "testcase" or self.case is None:
            return
        name, time_s = self.case
        outcome, message = max(self.marks, key=lambda mark: SEVERITY[mark[0]], default=("passed", ""))
        known = self.found.get(name)
        if known is None or SEVERITY[outcome] > SEVERITY[known.outcome]:
            self.found[name] = TestOutcome(test=name, outcome=outcome, time_s=time_s, message=message)
        if len(self.found) > MAX_TESTS:
            raise ReportRefused(f"the junit file has more than {MAX_TESTS} tests")
        self.case = None


def identity(attributes: dict[str, str]) -> str:
    """``classname::name``, or the name alone where there is no class name (a module that was not collected)."""
    class_name, name = attributes.get("classname", ""), attributes.get("name", "")
    if not name and not class_name:
        raise ReportRefused("the junit file has a test case without a name")
    return (f"{class_name}::{name}" if class_name else name)[:MAX_NAME_CHARS]


def seconds(text: str) -> float | None:
    """A duration, or ``None`` for what is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < float("inf") else None
