"""A scripted workbench: answers work orders from a table instead of building anything.

It stands in for the Docker engine where only the actors are under test. It builds no image, runs no test, makes no
container and knows nothing of disks or networks; what those do is tested with the real engine elsewhere. What it does
do is real: it runs in the real runner processes, takes real time, obeys ``cancel``, and writes down every order that
it began and ended in a journal file that survives its process.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from actors.runner import WorkbenchFactory
from actors.settings import Settings
from actors.templates import stock_context
from events.work import FailureClass, Metrics, Outcome, SessionReport, Stage, TestCounts, WorkOrder
from store.blobs import BlobStore


class Script(msgspec.Struct, kw_only=True):
    """``refuse``: pull requests that no context builds; ``hard``: those that the template does not build, though what a
    session makes does. ``seconds``: how long an order takes. ``infra_until``: POSIX seconds before which every order is
    an infra failure. ``limits``: accounts that are exhausted, and until when (POSIX seconds); ``limit_s``: those that
    are for so long from the start of their first session on."""

    seconds: float = 0.05
    refuse: list[str] = msgspec.field(default_factory=list)
    hard: list[str] = msgspec.field(default_factory=list)
    limits: dict[str, float] = msgspec.field(default_factory=dict)
    limit_s: dict[str, float] = msgspec.field(default_factory=dict)
    infra_until: float = 0.0


class JournalLine(msgspec.Struct, kw_only=True):
    """``what``: ``began`` or ``ended``; ``account``: of a session."""

    what: str
    attempt_id: str
    pull_request: str
    pid: int
    account: str | None = None


class ScriptedWorkbench:
    """See the module; ``folder`` holds ``script.json`` and ``journal.jsonl``."""

    def __init__(self, folder: Path, blobs: BlobStore) -> None:
        self._folder, self._blobs = folder, blobs

    def perform(self, order: WorkOrder, *, cancel: threading.Event) -> Outcome:
        script = msgspec.json.decode((self._folder / "script.json").read_bytes(), type=Script)
        self._note("began", order)
        cancelled = cancel.wait(script.seconds)
        outcome = self._outcome(order, script, cancelled=cancelled)
        self._note("ended", order)
        return outcome

    def _outcome(self, order: WorkOrder, script: Script, *, cancelled: bool) -> Outcome:
        name = order.pull_request.name
        context, stock = order.context or stock_context().digest, stock_context().digest
        session = self._session(order, script) if order.stage is Stage.LLM_GENERATE else None
        if session is not None:
            context = self._blobs.put(f"context of {order.attempt_id}".encode())
        failure = FailureClass.RECIPE if name in script.refuse else None
        if name in script.hard and context == stock:
            failure = FailureClass.RECIPE
        message = "refused by the script" if failure else "verified by the script"
        if session is not None and session.ended == "rate_limited":
            failure, message = FailureClass.AGENT, session.message
        if time.time() < script.infra_until:
            failure, message = FailureClass.INFRA, "the scripted engine is away"
        if cancelled:
            failure, message = FailureClass.INFRA, "cancelled"
        return Outcome(
            verified=failure is None,
            level=order.rules.level,
            stage="tests",
            failure_class=failure,
            message=message,
            context=context,
            image=f"scripted:{name}",
            tests=TestCounts(passed=1) if failure is None else TestCounts(failed=1),
            metrics=Metrics(build_s=0.0, test_s=script.seconds),
            blobs={"test_log": self._blobs.put(f"log of {order.attempt_id}".encode())},
            cancelled=cancelled,
            session=session,
        )

    def _session(self, order: WorkOrder, script: Script) -> SessionReport:
        account = order.account or ""
        reset_at = script.limits.get(account, 0.0)
        if account in script.limit_s:
            began = self._folder / f"first-session-{account}"
            with suppress(FileExistsError):
                began.touch(exist_ok=False)
            reset_at = began.stat().st_mtime + script.limit_s[account]
        limited = time.time() < reset_at
        return SessionReport(
            account=account,
            agent=order.agent or "",
            ended="rate_limited" if limited else "completed",
            message="usage limit" if limited else "",
            reset_at=reset_at if limited else None,
            input_tokens=2400,
            output_tokens=84,
            cost_usd=0.016 if order.agent == "claude" else None,
            wall_s=script.seconds,
        )

    def reap(self, *, log_id: str, keep: frozenset[str]) -> list[str]:
        return []

    def end(self, attempt_id: str) -> None:
        return None

    def salvage(self, attempt_id: str) -> dict[str, str]:
        return {}

    def wait_ready(self, *, timeout_s: float) -> str | None:
        return None

    def _note(self, what: str, order: WorkOrder) -> None:
        name = order.pull_request.name
        line = JournalLine(
            what=what, attempt_id=order.attempt_id, pull_request=name, pid=os.getpid(), account=order.account
        )
        handle = os.open(self._folder / "journal.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(handle, msgspec.json.encode(line) + b"\n")
        finally:
            os.close(handle)


def make_scripted(folder: Path, settings: Settings, blobs: BlobStore) -> ScriptedWorkbench:
    return ScriptedWorkbench(folder, blobs)


def scripted(folder: Path, script: Script) -> WorkbenchFactory:
    """A factory for runners whose script is in ``folder``; may be called again to change it."""
    fresh = folder / "script.json.new"
    fresh.write_bytes(msgspec.json.encode(script))
    fresh.replace(folder / "script.json")  # workbenches read it at each order
    return functools.partial(make_scripted, folder)


def journal(folder: Path) -> list[JournalLine]:
    """What the workbenches did so far."""
    path = folder / "journal.jsonl"
    if not path.exists():
        return []
    decoder = msgspec.json.Decoder(JournalLine)
    return [decoder.decode(line) for line in path.read_bytes().splitlines()]
