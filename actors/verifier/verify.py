"""Judges an image: does the package import from its checkout, and do the repository's own tests pass?

The verdict is computed here, from exit codes of the engine and from report files that were made outside the image; no
text that the image prints counts. Every level is a fresh container. A failure says whose it is: what a limit of time
ended is ``timeout``, what the image did wrong (memory, crash, import, tests) is ``recipe``, and what the engine or the
disk did wrong is ``infra``.

What this first version does not refuse yet: a report that the code under test forged while pytest ran, a changed
checkout, and an interpreter or a pytest that the recipe replaced.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from actors.images.engine import TIER_TEST, Engine, attempt_labels
from actors.images.outcomes import BuiltImage
from actors.settings import VerifySettings
from actors.verifier import junit
from actors.verifier.container import CHECKOUT, PYTHON, SCRIPTS, CannotStart, Ended, Limits, run_in_container
from actors.verifier.junit import ReportRefused, TestOutcome
from events.errors import InfraError
from events.work import Check, FailureClass, Level, TestCounts, WorkOrder

__all__ = ["LOG_TAIL_BYTES", "Verdict", "Verifier", "tail_of"]

LOG_TAIL_BYTES = 4096
LOG_TAIL_LINES = 40
RESULTS = "/headrace/results"
MIB = 1024 * 1024
NAMED_TESTS = 5
"""How many failing tests a message names."""

COLLECTION_FAILURE = "collection failure"
"""Message that pytest gives, as a test case's error, to a module that it could not collect."""

NO_TESTS_COLLECTED = 5
PYTEST_JUDGED = (0, 1)
"""Exit codes of a pytest run that came to its end; what they say about failures is read from the report."""
PYTEST_ENDS = {
    2: "pytest was interrupted before its end",
    3: "pytest failed with an internal error",
    4: "pytest refused its command line or the repository's configuration",
    96: "pytest is not installed; the recipe has to install it",
    127: "the tests could not be started",
}
SIGNAL_BASE = 192


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification found.

    ``stage`` is where it ended; ``failure_class`` is null exactly when ``verified``. ``files`` maps the kind of a blob
    (``smoke_log, test_log, junit, tests``) to the file in the spool folder that holds it.
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


class Verifier:
    """Verifies images on one engine. Holds no state between calls; threads may share it."""

    def __init__(self, *, engine: Engine, settings: VerifySettings) -> None:
        self._engine, self._settings = engine, settings

    def verify(
        self,
        order: WorkOrder,
        image: BuiltImage,
        *,
        context_digest: str,
        spool: Path,
        cancel: threading.Event,
    ) -> Verdict:
        """Goes as far as ``order.rules.level`` asks, or to the first level that fails.

        Args:
            order: the attempt; its rules decide, its names label the containers.
            image: what was built for it.
            context_digest: names the context on the containers' labels.
            spool: existing folder for logs and reports of this attempt; they stay there for the caller.
            cancel: ends the verification within about a second; the verdict is then ``cancelled``.

        Returns:
            The verdict; of class ``infra`` when the engine is away or failed, with what was found until then.

        Raises:
            OSError: the spool cannot be written. Nothing is left running.
        """
        run = _Run(
            engine=self._engine,
            settings=self._settings,
            order=order,
            image=image,
            labels=attempt_labels(order, tier=TIER_TEST, context_digest=context_digest),
            spool=spool,
            cancel=cancel,
        )
        try:
            if order.rules.level is not Level.BUILD:
                run.smoke()
            if order.rules.level is Level.TESTS:
                run.tests()
        except _Refused as refused:
            return run.verdict(refused)
        except InfraError as exc:
            return run.verdict(_Refused(exc.message, failure_class=FailureClass.INFRA))
        return run.verdict(None)


class SmokeProblem(msgspec.Struct, frozen=True):
    """One finding of ``inside/smoke.py``."""

    check: str
    message: str


class SmokeReport(msgspec.Struct, frozen=True):
    """The report of ``inside/smoke.py``."""

    distributions: list[dict[str, str]]
    modules: list[dict[str, str]]
    problems: list[SmokeProblem]


class _Refused(Exception):
    def __init__(self, message: str, *, failure_class: FailureClass, cancelled: bool = False) -> None:
        super().__init__(message)
        self.message, self.failure_class, self.cancelled = message, failure_class, cancelled


class _Run:
    """One verification: collects checks, files and measurements on its way."""

    def __init__(
        self,
        *,
        engine: Engine,
        settings: VerifySettings,
        order: WorkOrder,
        image: BuiltImage,
        labels: dict[str, str],
        spool: Path,
        cancel: threading.Event,
    ) -> None:
        self.engine, self.settings, self.order, self.image = engine, settings, order, image
        self.labels, self.spool, self.cancel = labels, spool, cancel
        self.stage = "build"
        self.checks: list[Check] = []
        self.files: dict[str, Path] = {}
        self.counts: TestCounts | None = None
        self.test_s: float | None = None
        self.peak: int | None = None
        self.log: Path | None = None

    def smoke(self) -> None:
        """The package imports, and it comes from the checkout."""
        self.stage = "smoke"
        root = self.order.pull_request.primary_root or "."
        script = [PYTHON, "-I", "-B", f"{SCRIPTS}/smoke.py", CHECKOUT, root, f"{RESULTS}/smoke.json"]
        ended, path = self.run(
            script, what="import check", folder=CHECKOUT, report="smoke.json", wall_s=self.settings.smoke_timeout_s
        )
        self.survived(ended, check="import", what="importing the package")
        try:
            report = msgspec.json.decode(junit.read_report(path, max_bytes=4 * MIB), type=SmokeReport)
        except (ReportRefused, msgspec.DecodeError) as exc:
            self.refuse("import", f"the import check ended with exit code {ended.exit_code} and no report: {exc}")
        for check, prefix in (("origin", "package is not this checkout's"), ("import", "package does not import")):
            problems = [problem.message for problem in report.problems if problem.check == check]
            if problems:
                self.refuse(check, f"{prefix}: {'; '.join(problems)}")
            seen = report.distributions if check == "origin" else report.modules
            self.checks.append(Check(check, True, ", ".join(_named(item) for item in seen)))
        if ended.exit_code != 0 or report.problems:
            self.refuse("import", f"the import check ended with exit code {ended.exit_code}")

    def tests(self) -> None:
        """The repository's own tests run and pass in the share that the rules ask for."""
        self.stage = "tests"
        folder = f"{CHECKOUT}/{self.order.pull_request.primary_root or '.'}"
        script = [PYTHON, "-B", f"{SCRIPTS}/run_tests.py", f"{RESULTS}/junit.xml"]
        ended, path = self.run(
            script, what="test run", folder=folder, report="junit.xml", wall_s=self.settings.test_timeout_s
        )
        self.test_s = ended.wall_s
        self.survived(ended, check="tests", what="the tests")
        outcomes = self.outcomes(path, ended)
        if ended.exit_code not in (*PYTEST_JUDGED, NO_TESTS_COLLECTED):
            end = PYTEST_ENDS.get(ended.exit_code or 0, "pytest did not come to its end")
            self.refuse("tests", f"{end} (exit code {ended.exit_code}){_first_failures(outcomes)}")
        self.judge(outcomes)

    def outcomes(self, path: Path, ended: Ended) -> list[TestOutcome]:
        """Per-test outcomes; none when pytest ended in a way of its own without a readable report."""
        try:
            data = junit.read_report(path)
            self.files["junit"] = path
            outcomes = junit.parse_junit(data)
        except ReportRefused as exc:
            if ended.exit_code in PYTEST_JUDGED:
                self.refuse("tests", f"pytest ended with exit code {ended.exit_code} but its report is refused: {exc}")
            return []
        tests = self.spool / "tests.jsonl"
        tests.write_bytes(junit.encode_outcomes(outcomes))
        self.files["tests"] = tests
        self.counts = junit.counts(outcomes)
        return outcomes

    def judge(self, outcomes: Sequence[TestOutcome]) -> None:
        """Applies the rules to the outcomes."""
        count = junit.counts(outcomes)
        if not outcomes:
            self.refuse("tests", "no test was collected; at least one has to run")
        if count.run == 0:
            self.refuse("tests", f"all {count.skipped} tests were skipped; at least one has to run")
        bad, ratio, needed = count.failed + count.errors, count.passed / count.run, self.order.rules.min_pass_ratio
        uncollected = sum(outcome.message == COLLECTION_FAILURE for outcome in outcomes)
        detail = f"{bad} of {count.run} tests failed (pass ratio {ratio:.3g}, needed {needed:.3g})"
        detail += f", {count.skipped} skipped" if count.skipped else ""
        detail += f", {uncollected} of the failures are modules that could not be collected" if uncollected else ""
        if count.passed < needed * count.run - 1e-9:
            self.refuse("tests", detail + _first_failures(outcomes))
        self.checks.append(Check("tests", True, detail + _first_failures(outcomes)))

    def run(self, command: Sequence[str], *, what: str, folder: str, report: str, wall_s: float) -> tuple[Ended, Path]:
        """One command in a fresh container; its end and its report file."""
        kind = "smoke_log" if self.stage == "smoke" else "test_log"
        self.log = self.files[kind] = self.spool / f"{kind.removesuffix('_log')}.log"
        path = self.spool / report
        limits = Limits(
            wall_s=wall_s,
            memory_bytes=self.settings.memory_mb * MIB,
            cpus=self.settings.cpus,
            pids=self.settings.pids,
        )
        try:
            ended = run_in_container(
                self.engine,
                image=self.image.image_id,
                command=command,
                folder=folder,
                limits=limits,
                labels=self.labels,
                results={f"{RESULTS}/{report}": path},
                log=self.log,
                cancel=self.cancel,
            )
        except CannotStart as exc:
            self.refuse(self.stage, f"the {what} cannot be started: {exc}")
        self.peak = max(filter(None, (self.peak, ended.peak_memory_bytes)), default=None)
        return ended, path

    def survived(self, ended: Ended, *, check: str, what: str) -> None:
        """Refuses a command that was ended instead of ending."""
        if ended.cancelled:
            self.refuse(check, f"{what}: cancelled", failure_class=FailureClass.INFRA, cancelled=True)
        if ended.oom_killed:
            limit = f"{self.settings.memory_mb} MiB"
            self.refuse(check, f"{what}: out of memory, a process was killed at the limit of {limit}")
        if ended.timed_out:
            limit = f"{ended.wall_s:.0f} s"
            self.refuse(check, f"{what}: timed out, ended after {limit}", failure_class=FailureClass.TIMEOUT)
        number = (ended.exit_code or 0) - SIGNAL_BASE
        if number > 0:
            self.refuse(check, f"{what}: crashed with {_signal_name(number)}")

    def refuse(
        self,
        check: str,
        message: str,
        *,
        failure_class: FailureClass = FailureClass.RECIPE,
        cancelled: bool = False,
    ) -> NoReturn:
        """Ends the verification with this finding."""
        self.checks.append(Check(check, False, message))
        raise _Refused(message, failure_class=failure_class, cancelled=cancelled)

    def praise(self) -> str:
        """What a verified image did, in words."""
        if self.counts is None:
            return "it builds" if self.stage == "build" else "it builds, and the package imports from its checkout"
        skipped = f", {self.counts.skipped} skipped" if self.counts.skipped else ""
        return f"{self.counts.passed} of {self.counts.run} tests passed{skipped}"

    def verdict(self, refused: _Refused | None) -> Verdict:
        """Everything that was found."""
        return Verdict(
            verified=refused is None,
            stage=self.stage,
            failure_class=refused.failure_class if refused else None,
            message=refused.message if refused else self.praise(),
            checks=self.checks,
            tests=self.counts,
            test_s=self.test_s,
            peak_memory_bytes=self.peak,
            log_tail=tail_of(self.log) if refused and self.log else "",
            files={kind: path for kind, path in self.files.items() if path.is_file()},
            cancelled=refused.cancelled if refused else False,
        )


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


def _named(item: dict[str, str]) -> str:
    name, where = item.get("name", "?"), item.get("file") or item.get("source") or "?"
    return f"{name} {item['version']} from {where}" if "version" in item else f"{name} is {where}"


def _first_failures(outcomes: Sequence[TestOutcome]) -> str:
    """``; first: a, b`` for messages; empty when nothing failed."""
    bad = [outcome.test for outcome in outcomes if outcome.outcome in ("failed", "error")]
    return f"; first: {', '.join(bad[:NAMED_TESTS])}" if bad else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
