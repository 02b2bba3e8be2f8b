"""One session of a coding agent: what its stream adds up to, when it is to be ended, and what came of it.

:class:`Session` joins an adapter's parser and the detector of limits, and gives the process's watchdogs their pulse.
:func:`run_session` runs one. A session is ``ok`` when the CLI's final event says so *and* it exited with 0; whether the
files are there and worth anything is for the caller to find out. Texts of a :class:`SessionEnd` are without secrets.
"""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from actors.agents.base import (
    Adapter,
    Event,
    FileChanged,
    Final,
    Launch,
    Retry,
    Started,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from actors.agents.process import EndReason, ProcessEnd, Pulse, run_agent
from actors.agents.rate_limit import PATIENCE_S, Detector, Limit
from actors.agents.redact import Redactor

__all__ = ["Session", "SessionEnd", "SessionLimits", "SessionReason", "run_session"]

MAX_FILES = 1000
MAX_STORED_CHARS = 8000


class SessionReason(enum.Enum):
    """What a session came to."""

    COMPLETED = "completed"
    RATE_LIMITED = "rate_limited"
    """The account has run into a limit; says nothing about the task."""
    ACCOUNT = "account"
    """The account is refused: a bad key, no permission, no credit. Waiting does not help."""
    SERVER = "server"
    """The provider failed: its errors, overload. Says nothing about the task."""
    FAILED = "failed"
    """The CLI says that it failed, for another reason."""
    NO_FINAL = "no_final"
    """It ended without its final event."""
    EXIT_CODE = "exit_code"
    """Its final event says success, its exit code does not."""
    STALLED = "stalled"
    """No progress; ended by the watchdog."""
    TIMEOUT = "timeout"
    """Ended at the wall clock."""
    CANCELLED = "cancelled"
    NOT_STARTED = "not_started"
    LOST = "lost"
    """Its supervisor was killed."""


class SessionEnd(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a session.

    ``limit`` may be set in one that completed, when the account ran out at its very end.
    ``usage``, ``cost_usd``, ``model``, ``session_id`` are ``None`` where the CLI does not tell; no CLI but claude tells
    a cost, and codex no model. ``message``: the reason in words. ``files_changed``: what its tools for files said they
    wrote; what shell commands wrote is not in it.
    """

    ok: bool
    reason: SessionReason
    message: str
    limit: Limit | None
    exit_code: int | None
    final_text: str
    usage: Usage | None
    cost_usd: float | None
    model: str | None
    session_id: str | None
    version: str | None
    tool_calls: int
    files_changed: tuple[str, ...]
    process: ProcessEnd


class SessionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds and bytes that a session may use."""

    wall_s: float = 7200.0
    idle_s: float = 600.0
    """Without progress. A request to a thinking model may take minutes; a CLI that only retries makes none."""
    tool_idle_s: float = 3600.0
    """Of silence while a tool of the CLI runs: a build may say nothing for long."""
    patience_s: float = PATIENCE_S
    """How long a CLI may go on asking after it was turned away."""
    max_transcript_bytes: int = 16 << 20


class Session:
    """Follows one session. Fed by :func:`actors.agents.process.run_agent`, from one thread."""

    def __init__(
        self,
        adapter: Adapter,
        *,
        secrets: Sequence[str] = (),
        patience_s: float = PATIENCE_S,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self._adapter = adapter
        self._parser = adapter.parser()
        self._detector = Detector(adapter.name, patience_s=patience_s)
        self._redactor = Redactor(secrets)
        self._patience_s = patience_s
        self._on_event = on_event
        self._started = Started()
        self._final: Final | None = None
        self._open_calls: set[str] = set()
        self._retry: Retry | None = None
        self._retry_since = 0.0
        self._tool_calls = 0
        self._files: dict[str, None] = {}

    def line(self, stream: str, line: str) -> Pulse:
        """Takes a line; for ``run_agent``'s ``on_line``."""
        stderr = stream == "err"
        pulse = Pulse.NOTHING
        for event in self._parser.err(line) if stderr else self._parser.out(line):
            if self._take(event):
                pulse = Pulse.TOOL if self._open_calls else Pulse.PROGRESS
            if self._on_event is not None:
                self._on_event(event)
        # After its final event the CLI is left to exit by itself.
        if self._detector.feed(line, stderr=stderr) and self._final is None:
            return Pulse.STOP
        return pulse

    def tick(self) -> Pulse:
        """As time passes; for ``run_agent``'s ``on_tick``."""
        if self._final is None and (self._detector.poll() or self._is_refused()):
            return Pulse.STOP
        return Pulse.NOTHING

    def end(self, process: ProcessEnd) -> SessionEnd:
        """Adds up."""
        final = self._final
        limit = self._detector.at_end() if final is None or not final.ok else self._detector.limit
        reason, message = self._reason(process, limit)
        usage = (final.usage if final else None) or self._parser.usage_so_far()
        clean = self._redactor.text
        return SessionEnd(
            ok=reason is SessionReason.COMPLETED,
            reason=reason,
            message=clean(message)[:MAX_STORED_CHARS],
            limit=msgspec.structs.replace(limit, message=clean(limit.message)) if limit else None,
            exit_code=process.exit_code,
            final_text=clean(final.text)[:MAX_STORED_CHARS] if final else "",
            usage=usage,
            cost_usd=final.cost_usd if final else None,
            model=(final.model if final else "") or self._started.model or None,
            session_id=self._started.session_id or None,
            version=self._started.version or None,
            tool_calls=self._tool_calls,
            files_changed=tuple(map(clean, self._files)),
            process=msgspec.structs.replace(process, message=clean(process.message)),
        )

    def _take(self, event: Event) -> bool:
        """Notes an event; true if it is progress."""
        match event:
            case Retry():
                if self._retry is None:
                    self._retry_since = time.monotonic()
                # Some CLIs tell of one retry twice, once without its status.
                status = event.status or (self._retry.status if self._retry else 0)
                self._retry = msgspec.structs.replace(event, status=status)
                return False
            case Final():
                self._final = event
                return True
            case Started():
                self._started = event
            case ToolCall():
                self._tool_calls += 1
                self._open_calls.add(event.call_id)
            case ToolResult():
                self._open_calls.discard(event.call_id)
            case FileChanged():
                if len(self._files) < MAX_FILES:
                    self._files[event.path] = None
            case Text():
                pass
        self._retry = None
        return True

    def _is_refused(self) -> bool:
        """Does it go on asking although the account is refused?"""
        refused = self._retry is not None and _blame(self._retry.status) is SessionReason.ACCOUNT
        return refused and time.monotonic() - self._retry_since >= self._patience_s

    def _reason(self, process: ProcessEnd, limit: Limit | None) -> tuple[SessionReason, str]:
        name = self._adapter.name
        final = self._final
        if process.reason in FROM_OUTSIDE:
            return FROM_OUTSIDE[process.reason], process.message or f"{name}: cancelled"
        if final is not None and final.ok and process.exit_code == 0:
            return SessionReason.COMPLETED, ""
        if limit is not None:
            return SessionReason.RATE_LIMITED, limit.message
        if final is None:
            return self._reason_without_final(process)
        if not final.ok:
            why = SessionReason.ACCOUNT if final.refused else _blame(final.status) or SessionReason.FAILED
            return why, final.error
        return SessionReason.EXIT_CODE, f"{name}: says it succeeded, but ended with exit code {process.exit_code}"

    def _reason_without_final(self, process: ProcessEnd) -> tuple[SessionReason, str]:
        name, retry = self._adapter.name, self._retry
        match process.reason:
            case EndReason.EXITED:
                return SessionReason.NO_FINAL, f"{name}: ended without its final event, exit code {process.exit_code}"
            case EndReason.LOST:
                return SessionReason.LOST, process.message
            case _ if retry is not None:
                why = _blame(retry.status) or SessionReason.SERVER
                return why, f"{name}: ended while it tried again: {retry.message}"
            case EndReason.WALL:
                return SessionReason.TIMEOUT, f"{name}: ended at the wall clock after {process.duration_s:.0f} s"
        return SessionReason.STALLED, f"{name}: ended after {process.duration_s:.0f} s, because nothing got on"


FROM_OUTSIDE = {
    EndReason.NOT_STARTED: SessionReason.NOT_STARTED,
    EndReason.CANCELLED: SessionReason.CANCELLED,
}
"""Ends that say nothing about the account, whatever the stream says."""


def run_session(
    adapter: Adapter,
    launch: Launch,
    *,
    workspace: Path,
    home: Path,
    prompt: str,
    limits: SessionLimits,
    transcript: Path,
    cancel: threading.Event,
    session: str | None = None,
    on_event: Callable[[Event], None] | None = None,
    wrap: Sequence[str] = (),
) -> SessionEnd:
    """Runs one session to its end. Blocks; no process of it is left afterwards.

    Args:
        adapter: the CLI.
        launch: from ``adapter.launch``, made for ``home``.
        workspace: working folder of the CLI.
        home: fresh folder of the session; made here, removed by the caller.
        prompt: the task.
        limits: what it may use.
        transcript: file for its output, without secrets.
        cancel: ends the session when set.
        session: name of the session, unique on this machine, by which leftovers are found after a crash.
        on_event: called with every event, unredacted, in the calling thread.
        wrap: program and arguments put before the CLI's command, such as a sandbox.

    Raises:
        OSError: home or transcript cannot be written.
    """
    launch.prepare(home)
    follower = Session(adapter, secrets=launch.secrets, patience_s=limits.patience_s, on_event=on_event)
    process = run_agent(
        (*wrap, *launch.command),
        cwd=workspace,
        environment=launch.environment,
        prompt=prompt.encode(),
        wall_s=limits.wall_s,
        idle_s=limits.idle_s,
        tool_idle_s=limits.tool_idle_s,
        on_line=follower.line,
        on_tick=follower.tick,
        transcript=transcript,
        max_transcript_bytes=limits.max_transcript_bytes,
        cancel=cancel,
        secrets=launch.secrets,
        session=session,
    )
    return follower.end(process)


def _blame(status: int) -> SessionReason | None:
    """Whose fault an HTTP error is, if it is not the session's own."""
    if status in (401, 402, 403):
        return SessionReason.ACCOUNT
    return SessionReason.SERVER if status >= 500 else None
