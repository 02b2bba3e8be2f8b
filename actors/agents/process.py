"""One coding agent's process, from its prompt to the last of its descendants.

:func:`run_agent` starts the program under a supervisor (:mod:`actors.agents.supervisor`), reads its output as it comes,
and returns only when every process of the session is gone. What it guarantees:

- The agent sees the environment and the file descriptors that it is given, and no others.
- It ends at the wall clock, when it makes no progress for too long, when the caller asks for it, and when the caller
  dies, even by SIGKILL. Progress is what the caller says it is: a line about a retry is output, but no progress.
- The transcript is written as the output comes, capped and without secrets.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import selectors
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from actors.agents import supervisor
from actors.agents.leftovers import SESSION_VARIABLE, end_marked
from actors.agents.lines import LineCutter
from actors.agents.redact import Redactor
from actors.agents.transcript import Transcript

__all__ = ["EndReason", "ProcessEnd", "Pulse", "run_agent"]

POLL_S = 0.1
READ_BYTES = 1 << 18
DRAIN_S = 2.0
SUPERVISOR_MARGIN_S = supervisor.KILL_PATIENCE_S + 5.0
SHAPE_MARGIN_BYTES = 512


class Pulse(enum.Enum):
    """What a line of output, or the passing of time, means for the watchdogs."""

    PROGRESS = "progress"
    """The session gets on: the idle clock starts again."""
    TOOL = "tool"
    """The session gets on and waits for a tool of its own: it may be silent for ``tool_idle_s`` seconds."""
    NOTHING = "nothing"
    """No progress."""
    STOP = "stop"
    """End the session now."""


class EndReason(enum.Enum):
    """Why a process ended."""

    EXITED = "exited"
    WALL = "wall"
    """It ran into ``wall_s``."""
    IDLE = "idle"
    """It made no progress for ``idle_s`` (or ``tool_idle_s``) seconds."""
    STOPPED = "stopped"
    """``on_line`` or ``on_tick`` asked for it."""
    CANCELLED = "cancelled"
    """``cancel`` was set."""
    NOT_STARTED = "not_started"
    """The program could not be started; ``message`` says why."""
    LOST = "lost"
    """The supervisor was killed; what could be found of the session was ended."""


class ProcessEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a session's processes ended; none of them is left, unless ``left_behind`` counts them.

    ``exit_code`` is the agent's own, negative for a signal, ``None`` if it never ran or is unknown. ``killed`` counts
    the descendants that outlived the agent and were killed. ``transcript_bytes`` is the transcript's size,
    ``left_out_bytes`` how much output is not in it.
    """

    reason: EndReason
    exit_code: int | None
    duration_s: float
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    transcript_bytes: int = 0
    left_out_bytes: int = 0
    killed: int = 0
    left_behind: int = 0
    message: str = ""


class _Report(msgspec.Struct, frozen=True, kw_only=True):
    """The supervisor's last words."""

    exit_code: int | None = None
    killed: int = 0
    left: int = 0
    error: str = ""


def run_agent(
    command: Sequence[str],
    *,
    cwd: Path,
    environment: Mapping[str, str],
    prompt: bytes,
    wall_s: float,
    idle_s: float,
    on_line: Callable[[str, str], Pulse],
    transcript: Path,
    max_transcript_bytes: int,
    cancel: threading.Event,
    on_tick: Callable[[], Pulse] | None = None,
    tool_idle_s: float | None = None,
    secrets: Sequence[str] = (),
    session: str | None = None,
    grace_s: float = 3.0,
) -> ProcessEnd:
    """Runs a coding agent and ends everything that it started. Blocks; may be called from any thread.

    Args:
        command: program and arguments; no shell.
        cwd: its working folder.
        environment: its whole environment, to which only ``HEADRACE_AGENT_SESSION`` is added.
        prompt: what it reads on standard input.
        wall_s: seconds after which it is ended in any case.
        idle_s: seconds without progress after which it is ended.
        on_line: called with the stream (``"out"`` or ``"err"``) and every line, as it comes and unredacted.
        transcript: file for the output; overwritten.
        max_transcript_bytes: cap of that file.
        cancel: ends the session when set.
        on_tick: called several times a second, also when there is no output.
        tool_idle_s: how long a session that waits for its tool may be silent; ``None``: until ``wall_s``.
        secrets: values that must not be stored; known shapes of keys are masked anyway.
        session: name of the session (:mod:`actors.agents.leftovers`), unique on this machine; ``None``: a random one.
        grace_s: seconds between SIGTERM and SIGKILL when the session is ended from here.

    Raises:
        OSError: the transcript cannot be written, or no process can be made. Nothing is left running.
        Exception: whatever ``on_line`` or ``on_tick`` raised, after the session was ended.
    """
    redactor = Redactor(secrets)
    marker = session or uuid.uuid4().hex
    record = Transcript(transcript, max_bytes=max_transcript_bytes, redactor=redactor)
    try:
        with contextlib.ExitStack() as stack:
            run = _Run(
                stack,
                command,
                cwd=cwd,
                environment={**environment, SESSION_VARIABLE: marker},
                prompt=prompt,
                grace_s=grace_s,
            )
            if isinstance(run.failure, OSError):
                message = f"{command[0]}: cannot be started in {cwd} ({run.failure.strerror})"
                return ProcessEnd(reason=EndReason.NOT_STARTED, exit_code=None, duration_s=0.0, message=message)
            margin = max(SHAPE_MARGIN_BYTES, 4 * redactor.longest_chars)
            cutters = {name: LineCutter(margin_bytes=margin) for name in ("out", "err")}
            watch = _Watch(wall_s=wall_s, idle_s=idle_s, tool_idle_s=wall_s if tool_idle_s is None else tool_idle_s)
            pump = _Pump(run, record, watch, cutters=cutters, on_line=on_line, on_tick=on_tick, cancel=cancel)
            try:
                pump.run()
            finally:
                run.finish(marker)
            size = record.close()
            left_out = size.left_out_bytes + sum(cutter.dropped_bytes for cutter in cutters.values())
            return _verdict(run, watch, pump, command=command, stored=size.stored_bytes, left_out=left_out)
    finally:
        record.close()


class _Watch:
    """The clocks of a session, and the first reason to end it."""

    def __init__(self, *, wall_s: float, idle_s: float, tool_idle_s: float) -> None:
        self.idle_s, self.tool_idle_s = idle_s, tool_idle_s
        self.began = self.last_progress = time.monotonic()
        self.wall_ends = self.began + wall_s
        self.allowed_s = idle_s
        self.why: EndReason | None = None

    def pulse(self, pulse: Pulse) -> None:
        if pulse is Pulse.STOP:
            self.end(EndReason.STOPPED)
        elif pulse is not Pulse.NOTHING:
            self.last_progress = time.monotonic()
            self.allowed_s = self.tool_idle_s if pulse is Pulse.TOOL else self.idle_s

    def look(self, cancel: threading.Event) -> None:
        now = time.monotonic()
        if cancel.is_set():
            self.end(EndReason.CANCELLED)
        elif now >= self.wall_ends:
            self.end(EndReason.WALL)
        elif now - self.last_progress >= self.allowed_s:
            self.end(EndReason.IDLE)

    def end(self, why: EndReason) -> None:
        self.why = self.why or why


class _Run:
    """The supervisor as a child process with its pipes; ``failure`` is set when it could not be started."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        command: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        prompt: bytes,
        grace_s: float,
    ) -> None:
        self.grace_s = grace_s
        self.failure: OSError | None = None
        self.report: _Report | None = None
        self.ended_by_marker = 0
        self._said = bytearray()
        theirs: list[int] = []
        try:
            self.out, out = self._pipe(stack, theirs)
            self.err, err = self._pipe(stack, theirs)
            self.report_fd, report = self._pipe(stack, theirs)
            control, self.control = os.pipe()
            stack.callback(self.hang_up)
            theirs.append(control)
            prompt_fd = os.memfd_create("prompt")
            theirs.append(prompt_fd)
            with open(prompt_fd, "wb", closefd=False) as file:
                file.write(prompt)
            os.lseek(prompt_fd, 0, os.SEEK_SET)
            words = [prompt_fd, report, os.getpid(), grace_s]
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-B", supervisor.__file__, *map(str, words), *command],
                cwd=cwd,
                env=dict(environment),
                stdin=control,
                stdout=out,
                stderr=err,
                pass_fds=(prompt_fd, report),
                start_new_session=True,
            )
        except OSError as exc:
            self.failure = exc
        finally:
            for fd in theirs:
                os.close(fd)

    @staticmethod
    def _pipe(stack: contextlib.ExitStack, theirs: list[int]) -> tuple[int, int]:
        read, write = os.pipe()
        stack.callback(os.close, read)
        theirs.append(write)
        return read, write

    def ask_to_end(self) -> None:
        """SIGTERM, the grace period, SIGKILL for all: the supervisor does it."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.control, b"T")

    def hang_up(self) -> None:
        """Closes the control pipe, at which the supervisor kills at once. Idempotent."""
        if self.control >= 0:
            os.close(self.control)
            self.control = -1

    def read_report(self) -> bool:
        """Reads the report descriptor; false at its end."""
        data = os.read(self.report_fd, 4096)
        self._said += data
        if self.report is None and self._said.endswith(b"\n"):
            self.report = msgspec.convert(json.loads(self._said), _Report)
        return bool(data)

    def finish(self, marker: str) -> None:
        """Sees to it that the supervisor and all it looked after are gone."""
        self.hang_up()
        try:
            self.process.wait(timeout=self.grace_s + SUPERVISOR_MARGIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.report is None:
            while self.read_report():
                pass
        if self.report is None or self.report.left:
            self.ended_by_marker = end_marked(marker)


class _Pump:
    """Carries output to the transcript and to the caller until the supervisor has reported."""

    def __init__(
        self,
        run: _Run,
        record: Transcript,
        watch: _Watch,
        *,
        cutters: Mapping[str, LineCutter],
        on_line: Callable[[str, str], Pulse],
        on_tick: Callable[[], Pulse] | None,
        cancel: threading.Event,
    ) -> None:
        self.run_, self.record, self.watch, self.cutters = run, record, watch, cutters
        self.on_line, self.on_tick, self.cancel = on_line, on_tick, cancel
        self.sizes = {"out": 0, "err": 0}

    def run(self) -> None:
        run, watch = self.run_, self.watch
        deadline: float | None = None
        asked = False
        with selectors.DefaultSelector() as selector:
            for fd, name in ((run.out, "out"), (run.err, "err"), (run.report_fd, "report")):
                selector.register(fd, selectors.EVENT_READ, name)
            while selector.get_map():
                for key, _ in selector.select(POLL_S):
                    if not (run.read_report() if key.data == "report" else self._read(key.fd, key.data)):
                        selector.unregister(key.fd)
                        if key.data == "report":
                            # All descendants are gone, and with them the last writers, or the supervisor was killed.
                            deadline = time.monotonic() + DRAIN_S
                if self.on_tick is not None:
                    watch.pulse(self.on_tick())
                watch.look(self.cancel)
                if watch.why is not None and not asked and deadline is None:
                    asked = True
                    run.ask_to_end()
                    deadline = time.monotonic() + run.grace_s + SUPERVISOR_MARGIN_S
                if deadline is not None and time.monotonic() >= deadline:
                    break
        for name, cutter in self.cutters.items():
            self._take(name, cutter.close())

    def _read(self, fd: int, name: str) -> bool:
        data = os.read(fd, READ_BYTES)
        if not data:
            return False
        self.sizes[name] += len(data)
        self._take(name, self.cutters[name].feed(data))
        self.record.flush()
        return True

    def _take(self, name: str, lines: Iterator[str]) -> None:
        at_s = time.monotonic() - self.watch.began
        for line in lines:
            self.record.add(line, stream=name, at_s=at_s)
            self.watch.pulse(self.on_line(name, line))


def _verdict(
    run: _Run, watch: _Watch, pump: _Pump, *, command: Sequence[str], stored: int, left_out: int
) -> ProcessEnd:
    report = run.report
    message = ""
    if report is None:
        reason = watch.why or EndReason.LOST
        message = f"{command[0]}: the supervisor of its session was killed"
    elif report.error:
        reason, message = EndReason.NOT_STARTED, report.error
    else:
        reason = watch.why or EndReason.EXITED
    return ProcessEnd(
        reason=reason,
        exit_code=report.exit_code if report else None,
        duration_s=time.monotonic() - watch.began,
        stdout_bytes=pump.sizes["out"],
        stderr_bytes=pump.sizes["err"],
        transcript_bytes=stored,
        left_out_bytes=left_out,
        killed=(report.killed if report else 0) + run.ended_by_marker,
        left_behind=max(0, report.left - run.ended_by_marker) if report else 0,
        message=message,
    )
