"""One verification under way: what was found so far, and the verdict that it comes to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import msgspec

from actors.verifier.defences import Defence, Finding
from events.work import Check, FailureClass, TestCounts

__all__ = ["LOG_TAIL_BYTES", "Refused", "Trial", "Verdict", "tail_of"]

LOG_TAIL_BYTES = 4096
LOG_TAIL_LINES = 40
NAMED_FINDINGS = 3
"""How many findings of one defence a message names."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification found.

    ``stage`` is where it ended; ``failure_class`` is null exactly when ``verified``. ``files`` maps the kind of a blob
    (``smoke_log, test_log, tests``) to the file in the spool folder that holds it.
    """

    verified: bool
    stage: str
    failure_class: FailureClass | None = None
    message: str = ""
    checks: list[Check]
    tests: TestCounts | None = None
    test_s: float | None = None
    peak_memory_bytes: int | None = None
    log_tail: str = ""
    files: dict[str, Path]
    cancelled: bool = False


class Refused(Exception):
    """Ends a verification with a finding."""

    def __init__(self, message: str, *, failure_class: FailureClass, cancelled: bool = False) -> None:
        super().__init__(message)
        self.message, self.failure_class, self.cancelled = message, failure_class, cancelled


class Trial:
    """Collects checks, files and measurements of one verification. ``without``: defences that a test switched off."""

    def __init__(self, *, without: frozenset[Defence]) -> None:
        self.without = without
        self.stage = "build"
        self.checks: list[Check] = []
        self.files: dict[str, Path] = {}
        self.counts: TestCounts | None = None
        self.test_s: float | None = None
        self.peak_memory_bytes: int | None = None
        self.log: Path | None = None

    def branch(self) -> Trial:
        """A trial of its own for what goes on beside others; ``join`` takes in what it found."""
        made = Trial(without=self.without)
        made.stage, made.test_s, made.log = self.stage, self.test_s, self.log
        return made

    def join(self, branch: Trial) -> None:
        """Takes in what a branch found; the last one that is joined says where the trial stands."""
        self.stage, self.log = branch.stage, branch.log
        self.checks += branch.checks
        self.files |= branch.files
        self.counts = branch.counts or self.counts
        self.test_s = self.test_s if branch.test_s is None else branch.test_s
        peaks = (self.peak_memory_bytes, branch.peak_memory_bytes)
        self.peak_memory_bytes = max(filter(None, peaks), default=None)

    def applies(self, defence: Defence) -> bool:
        """Whether a defence is on; only tests switch one off."""
        return defence not in self.without

    def record(self, defence: Defence, findings: Iterable[Finding], *, detail: str = "") -> None:
        """Notes what a defence found, and refuses if that is anything."""
        found = list(findings)
        if found:
            worst = next((one for one in found if one.failure_class is FailureClass.TAMPER), found[0])
            more = len(found) - NAMED_FINDINGS
            message = "; ".join(one.message for one in [worst, *(o for o in found if o is not worst)][:NAMED_FINDINGS])
            message += f"; and {more} more" if more > 0 else ""
            self.refuse(defence, message, failure_class=worst.failure_class)
        self.checks.append(Check(defence.value, True, detail))

    def note(self, check: str, detail: str) -> None:
        """Notes a check that is satisfied."""
        self.checks.append(Check(str(check), True, detail))

    def refuse(
        self,
        check: str,
        message: str,
        *,
        failure_class: FailureClass = FailureClass.RECIPE,
        cancelled: bool = False,
    ) -> NoReturn:
        """Ends the verification with this finding."""
        self.checks.append(Check(str(check), False, message))
        label = f"{check}: " if failure_class is FailureClass.TAMPER else ""
        raise Refused(label + message, failure_class=failure_class, cancelled=cancelled)

    def verdict(self, refused: Refused | None) -> Verdict:
        """Everything that was found."""
        return Verdict(
            verified=refused is None,
            stage=self.stage,
            failure_class=refused.failure_class if refused else None,
            message=refused.message if refused else self._praise(),
            checks=self.checks,
            tests=self.counts,
            test_s=self.test_s,
            peak_memory_bytes=self.peak_memory_bytes,
            log_tail=tail_of(self.log) if refused and self.log else "",
            files={kind: path for kind, path in self.files.items() if path.is_file()},
            cancelled=refused.cancelled if refused else False,
        )

    def _praise(self) -> str:
        """What a verified image did, in words."""
        if self.counts is None:
            return "it builds" if self.stage == "build" else "it builds, and the package imports from its checkout"
        text = f"{self.counts.passed} of {self.counts.run} tests passed"
        text += f", {self.counts.flaky} of them when run again" if self.counts.flaky else ""
        text += f", {self.counts.known} failed as on the neighbour" if self.counts.known else ""
        text += f", {self.counts.skipped} skipped" if self.counts.skipped else ""
        return text


def tail_of(log: Path) -> str:
    """The last lines of a log: at most ``LOG_TAIL_LINES`` and ``LOG_TAIL_BYTES``; empty when there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_TAIL_BYTES))
            data = file.read()
    except OSError:
        return ""
    lines = data.decode("utf-8", "replace").splitlines()
    return "\n".join((lines if len(data) == size else lines[1:] or lines)[-LOG_TAIL_LINES:])
