"""What is kept of a session: its notes, the logs of its verifications, and its report."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

from actors.agents.session import SessionEnd
from actors.generation.accounts import Means
from events.work import SessionReport

__all__ = [
    "NOTES_FILE",
    "TRANSCRIPT_FILE",
    "VERDICT_FILE",
    "Notes",
    "adopt",
    "collect_rulings",
    "report_of",
    "unstarted",
]

NOTES_FILE = "session.log"
TRANSCRIPT_FILE = "transcript"
VERDICT_FILE = "verdict.txt"
"""In a ruling's folder: what the agent was told."""


class Notes:
    """What Headrace itself did and saw in a session, a line each, in the attempt's spool. Threads may share it."""

    def __init__(self, spool: Path) -> None:
        self._path = spool / NOTES_FILE
        self._began_s = time.monotonic()
        self._lock = threading.Lock()

    def add(self, text: str) -> None:
        """Adds a line, with the seconds since the start.

        Raises:
            OSError: the spool cannot be written.
        """
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(f"{time.monotonic() - self._began_s:8.1f} {text}\n")


def collect_rulings(spool: Path) -> None:
    """Makes one file ``verify_N.log`` of each verification that the agent asked for: what it was told, then all logs.

    Also for a session that was interrupted: then without a verdict, with the logs as far as they came. Idempotent.

    Raises:
        OSError: the spool cannot be read or written.
    """
    for folder in sorted(spool.glob("verify_*/")):
        target = spool / f"{folder.name}.log"
        if target.exists():
            continue
        partial = spool / f".{folder.name}.partial"
        with partial.open("wb") as whole:
            for path in [folder / VERDICT_FILE, *sorted(folder.glob("*.log"))]:
                if path.is_file():
                    whole.write(f"==> {path.name}\n".encode())
                    with path.open("rb") as part:
                        shutil.copyfileobj(part, whole)
                    whole.write(b"\n")
        partial.rename(target)


def adopt(folder: Path, spool: Path) -> None:
    """Makes the files of a ruling those of the attempt, which ends with this ruling.

    Raises:
        OSError: the spool cannot be written.
    """
    for path in list(folder.iterdir()):
        if path.is_file() and path.name != VERDICT_FILE:
            path.rename(spool / path.name)


def report_of(means: Means, end: SessionEnd, *, ended: str, message: str, verifications: int) -> SessionReport:
    """The report of a session that was started."""
    usage = end.usage
    reset_at = end.limit.reset_at if end.limit else None
    return SessionReport(
        account=means.account.name,
        agent=means.adapter.name,
        ended=ended,
        message=message,
        reset_at=reset_at.timestamp() if reset_at else None,
        version=end.version or means.version or None,
        model=end.model or means.access.model,
        session_id=end.session_id,
        input_tokens=usage.input_tokens if usage else None,
        cached_input_tokens=usage.cached_input_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
        partial=usage.partial if usage else False,
        cost_usd=end.cost_usd,
        tool_calls=end.tool_calls,
        verifications=verifications,
        wall_s=end.process.duration_s,
        exit_code=end.exit_code,
    )


def unstarted(account: str, agent: str, message: str) -> SessionReport:
    """The report of a session that could not be started."""
    return SessionReport(account=account, agent=agent, ended="not_started", message=message)
