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
from pathlib import Path

import msgspec

from actors.runner import WorkbenchFactory
from actors.settings import Settings
from actors.templates import stock_context
from events.work import FailureClass, Metrics, Outcome, TestCounts, WorkOrder
from store.blobs import BlobStore


class Script(msgspec.Struct, kw_only=True):
    """``refuse``: pull requests that no context builds. ``seconds``: how long an order takes. ``infra_until``: POSIX
    seconds before which every order is an infra failure."""

    seconds: float = 0.05
    refuse: list[str] = msgspec.field(default_factory=list)
    infra_until: float = 0.0


class JournalLine(msgspec.Struct, kw_only=True):
    """``what``: ``began`` or ``ended``."""

    what: str
    attempt_id: str
    pull_request: str
    pid: int


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
        context = order.context or stock_context().digest
        failure = FailureClass.RECIPE if name in script.refuse else None
        message = "refused by the script" if failure else "verified by the script"
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
        line = JournalLine(what=what, attempt_id=order.attempt_id, pull_request=name, pid=os.getpid())
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
