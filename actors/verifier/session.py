"""Runs the commands of one verification, each in a fresh container of its image, and reads what they report.

A run that did not come to its end by itself is refused here, with the class of what ended it. What a run reports is
read from a file that was made outside for this run alone.
"""

from __future__ import annotations

import copy
import secrets
import signal
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from actors.images.engine import Engine
from actors.images.outcomes import BuiltImage
from actors.settings import VerifySettings
from actors.verifier.containers.channel import ChannelMaker, MountedFiles
from actors.verifier.containers.container import (
    BYTECODE_PREFIX,
    CHECKOUT,
    ENVIRONMENT,
    PYTHON,
    SCRIPTS,
    CannotStart,
    Ended,
    Limits,
    run_in_container,
)
from actors.verifier.defences import Defence
from actors.verifier.suite.judging import NAMED_TESTS
from actors.verifier.suite.report import ReportRefused, RunReport, parse_report, read_report
from actors.verifier.trial import Trial
from events.work import FailureClass

__all__ = ["Means", "PytestRun", "Session"]

RESULTS = "/headrace/results"
REQUEST = "/headrace/request.json"
MIB = 1024 * 1024
CANARIES = 3
SLOT_POLL_S = 0.2
SIGNAL_BASE = 192

NO_TESTS_COLLECTED = 5
PYTEST_JUDGED = (0, 1, NO_TESTS_COLLECTED)
"""Exit codes of a pytest run that came to its end; what they say about failures is read from the report."""
PYTEST_ENDS = {
    2: "pytest was interrupted before its end",
    3: "pytest failed with an internal error",
    4: "pytest refused its command line or the repository's configuration",
    95: "the package could not be built again with the patch",
    96: "pytest is not installed; the recipe has to install it",
    127: "the tests could not be started",
}


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """How results come out of a container and what environment commands get. Only tests use others than these."""

    channel: ChannelMaker = MountedFiles
    environment: Mapping[str, str] = msgspec.field(default_factory=lambda: ENVIRONMENT)


class PytestRun(msgspec.Struct, frozen=True, kw_only=True):
    """One run of pytest: seconds it took, exit code, what it reported, and the names of the tests put into it."""

    wall_s: float
    exit_code: int
    report: RunReport
    canaries: list[str]


class _Request(msgspec.Struct, frozen=True, kw_only=True):
    """What ``inside/run_tests.py`` is asked: see there. ``prepare``: commands before pytest; ``traceback``: pytest's
    style of tracebacks."""

    report: str
    only: list[str] | None
    canaries: list[str]
    plugins: list[str]
    prepare: list[list[str]]
    traceback: str


class Session:
    """The containers of one verification; as many at once as the settings say, in branches."""

    def __init__(
        self,
        trial: Trial,
        *,
        engine: Engine,
        settings: VerifySettings,
        means: Means,
        image: BuiltImage,
        folder: str,
        labels: dict[str, str],
        bytecode: Mapping[str, Path],
        spool: Path,
        cancel: threading.Event,
    ) -> None:
        """``folder``: where the tests run, in the image; ``bytecode``: see ``bytecode.py``; ``spool``: where logs and
        reports are put."""
        self.trial, self.settings, self.spool = trial, settings, spool
        self._engine, self._means, self._image = engine, means, image
        self._folder, self._labels, self._bytecode = folder, labels, bytecode
        self.cancel = cancel
        self._slots = threading.Semaphore(settings.containers)

    def branch(self, cancel: threading.Event) -> Session:
        """The same session with a trial of its own, for another thread; ``cancel`` ends what it runs."""
        made = copy.copy(self)
        made.trial, made.cancel = self.trial.branch(), cancel
        return made

    def script(self, name: str, *arguments: str, report: str, kind: str, wall_s: float) -> tuple[Ended, Path]:
        """Runs one of our scripts that is not pytest; its end and its report file."""
        command = [PYTHON, "-I", "-X", f"pycache_prefix={BYTECODE_PREFIX}", f"{SCRIPTS}/{name}", *arguments]
        return self._run(command, kind=kind, report=report, wall_s=wall_s, folder=CHECKOUT)

    def pytest(
        self,
        kind: str,
        *,
        plugins: Sequence[str],
        wall_s: float,
        only: Sequence[str] | None = None,
        files: Mapping[str, bytes | None] | None = None,
        prepare: Sequence[list[str]] = (),
        mounts: Mapping[str, Path] | None = None,
        may_break: bool = False,
    ) -> PytestRun:
        """Runs the repository's tests, or ``only`` those of these node ids.

        Args:
            kind: what the run is for: names its log (``kind.log``) and messages.
            plugins: distributions whose plug-ins pytest may load.
            wall_s: after how many seconds it is ended.
            only: node ids; all others are left out after collection.
            files: laid over the image's files for this run, by absolute path; ``None`` removes one.
            prepare: commands that are run before pytest, in the same container.
            mounts: files of this host, by the path at which the container sees them, read-only.
            may_break: a run that was ended, or whose report cannot be believed, is returned with what it reported.

        Raises:
            Refused: it was cancelled; it was ended instead of ending, or its report cannot be believed.
            InfraError: the engine or the disk failed.
        """
        canaries = [f"test_{secrets.token_hex(8)}{place}" for place in range(CANARIES)]
        request = _Request(
            report=f"{RESULTS}/report.jsonl",
            only=None if only is None else list(only),
            canaries=canaries,
            plugins=sorted(plugins),
            prepare=list(prepare),
            traceback="native" if may_break else "auto",  # pytest's own take 11 ms for each test that fails
        )
        asked = self.spool / f"{kind}-request.json"
        asked.write_bytes(msgspec.json.encode(request))
        command = [PYTHON, "-s", f"{SCRIPTS}/run_tests.py", REQUEST]
        ended, path = self._run(
            command,
            kind=kind,
            report="report.jsonl",
            wall_s=wall_s,
            folder=self._folder,
            files=files,
            mounts={REQUEST: asked, **(mounts or {})},
        )
        if ended.cancelled or not may_break:
            self.survived(ended, check="tests", what="the tests")
        report, problem = self._read(ended, path, canaries)
        if problem and not may_break:
            self.trial.refuse("tests", problem)
        return PytestRun(wall_s=ended.wall_s, exit_code=ended.exit_code or 0, report=report, canaries=canaries)

    def survived(self, ended: Ended, *, check: str, what: str) -> None:
        """Refuses a command that was ended instead of ending, by what ended it."""
        trial, settings = self.trial, self.settings
        if ended.cancelled:
            trial.refuse(check, f"{what}: cancelled", failure_class=FailureClass.INFRA, cancelled=True)
        if ended.oom_killed:
            limit = f"{settings.memory_mb} MiB (setting verify.memory_mb)"
            trial.refuse(check, f"{what}: out of memory, a process was killed at the limit of {limit}")
        if ended.disk_full:
            limit = f"{settings.disk_mb} MiB (setting verify.disk_mb)"
            trial.refuse(check, f"{what}: ended for writing more than {limit} to the disk")
        if ended.timed_out and trial.applies(Defence.DEADLINE):
            limit = f"{ended.wall_s:.0f} s"
            message = f"{what}: timed out, ended after {limit}"
            trial.refuse(check, message, failure_class=FailureClass.TIMEOUT)
        number = (ended.exit_code or 0) - SIGNAL_BASE
        if number > 0:
            crowded = f", at the limit of {settings.pids} processes" if ended.pids_exhausted else ""
            trial.refuse(check, f"{what}: crashed with {_signal_name(number)}{crowded}")

    def _read(self, ended: Ended, path: Path, canaries: list[str]) -> tuple[RunReport, str]:
        """What a run reported, as far as it can be read, and what is wrong with how it ended."""
        code = ended.exit_code if ended.exit_code is not None else 0
        crowded = f"; the limit of {self.settings.pids} processes was hit" if ended.pids_exhausted else ""
        try:
            report = parse_report(read_report(path), canaries=canaries)
        except ReportRefused as exc:
            refused = f"pytest ended with exit code {code} but its report is refused: {exc}"
            report, problem = parse_report(b""), refused + crowded
        else:
            told = "no end" if report.finished is None else f"exit code {report.finished}"
            odd = report.finished != code and not ended.timed_out
            problem = f"pytest ended with exit code {code} but reported {told}{crowded}" if odd else ""
        if code not in PYTEST_JUDGED:
            end = PYTEST_ENDS.get(code, "pytest did not come to its end")
            bad = [one.test for one in report.outcomes if one.failed]
            first = f"; first: {', '.join(bad[:NAMED_TESTS])}" if bad else ""
            problem = f"{end} (exit code {code}){first}{crowded}"
        return report, problem

    def _run(
        self,
        command: Sequence[str],
        *,
        kind: str,
        report: str,
        wall_s: float,
        folder: str,
        files: Mapping[str, bytes | None] | None = None,
        mounts: Mapping[str, Path] | None = None,
    ) -> tuple[Ended, Path]:
        trial, settings = self.trial, self.settings
        trial.log = trial.files[f"{kind}_log"] = self.spool / f"{kind}.log"
        path = self.spool / f"{kind}-{report}"
        limits = Limits(
            wall_s=wall_s,
            memory_bytes=settings.memory_mb * MIB,
            cpus=settings.cpus,
            pids=settings.pids,
            disk_bytes=settings.disk_mb * MIB,
        )
        self._take_slot(kind)
        try:
            ended = run_in_container(
                self._engine,
                image=self._image.image_id,
                command=command,
                folder=folder,
                limits=limits,
                labels=self._labels,
                results={f"{RESULTS}/{report}": path},
                log=trial.log,
                cancel=self.cancel,
                files=files,
                extra_mounts=mounts,
                bytecode=self._bytecode,
                network=settings.network,
                channel=self._means.channel,
                environment=self._means.environment,
            )
        except CannotStart as exc:
            trial.refuse(trial.stage, f"the {kind} run cannot be started: {exc}")
        finally:
            self._slots.release()
        peaks = (trial.peak_memory_bytes, ended.peak_memory_bytes)
        trial.peak_memory_bytes = max(filter(None, peaks), default=None)
        return ended, path

    def _take_slot(self, kind: str) -> None:
        """Waits until another container may be started."""
        while not self._slots.acquire(timeout=SLOT_POLL_S):
            if self.cancel.is_set():
                self.trial.refuse(kind, f"{kind}: cancelled", failure_class=FailureClass.INFRA, cancelled=True)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
