"""AgentRunner: a stateless executor. It does one work order at a time and leaves the outcome in the log first.

- *Success*: ``perform`` returns the outcome, which by then is durable in stream ``attempt:ID``.
- *Failure*: whatever a work order runs into becomes an outcome with its failure class; a defect of ours becomes an
  infra failure, so that it never counts against a context or a pull request.
- *Crash*: the caller gets ``ActorGone``. If the outcome was already in the mailbox, it counts; else what the attempt
  left behind is ended by :meth:`AgentRunner.end_attempt` and the attempt is interrupted. A caller that died and came
  back asks :meth:`AgentRunner.outcome_of`: work goes on without whoever ordered it.
- ``perform`` may be repeated: an order already under way is joined; one already done returns its outcome until it is
  forgotten, which happens once the outcome is in its repository's stream.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from loguru import logger

from actors import faults
from actors.gateway import Ref, this_node
from actors.log_client import RemoteBlobs, insist, new_event
from actors.log_writer import pack
from actors.settings import Settings
from actors.workbench import DockerWorkbench, Workbench
from events.types import OutcomeReported
from events.work import FailureClass, Outcome, WorkOrder
from store.blobs import BlobStore, FileBlobs
from store.log import Append, Appended
from store.opening import open_shared_blobs

__all__ = ["AgentRunner", "RunnerConfig", "docker_workbench"]

WorkbenchFactory = Callable[[Settings, BlobStore], Workbench]


class RunnerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What every runner of a sweep is given. ``blob_root``: where blobs are, as the log's ``OpenedLog`` tells."""

    log_id: str
    settings: Settings
    writer: Ref
    log_node: str
    blob_root: str
    workbench: WorkbenchFactory


def docker_workbench(settings: Settings, blobs: BlobStore) -> Workbench:
    """The real workbench, on this node's Docker engine."""
    return DockerWorkbench(settings=settings, blobs=blobs)


class _Job:
    """A work order under way, or done and not yet forgotten."""

    def __init__(self) -> None:
        self.cancel = threading.Event()
        self.done = threading.Event()
        self.outcome: Outcome | None = None


class AgentRunner:
    """See the module."""

    def __init__(self, name: str, config: RunnerConfig) -> None:
        self._name, self._config = name, config
        self._jobs: dict[str, _Job] = {}
        self._cancelled_early: set[str] = set()
        self._ended: set[str] = set()
        self._lock = threading.Lock()
        self._bench: Workbench | None = None

    def __repr__(self) -> str:
        return f"AgentRunner({self._name})"

    def ready(self, timeout_s: float) -> str | None:
        """Waits until the engine of this node answers; after ``timeout_s`` seconds returns why it does not."""
        return self._workbench().wait_ready(timeout_s=timeout_s)

    def node(self) -> str:
        """The node that this runner is on."""
        return this_node()

    def perform(self, order: WorkOrder, over: Sequence[str] = ()) -> Outcome:
        """Does a work order and returns its outcome, which is durable by then. See the module for repetition.

        ``over`` names attempts whose outcomes have arrived in the logs of their repositories: they are forgotten, for
        nobody will ask for them again.
        """
        with self._lock:
            for attempt_id in over:
                self._jobs.pop(attempt_id, None)
            job = self._jobs.get(order.attempt_id)
            if job is None and order.attempt_id in self._ended:
                return _never_begun(order)
            mine = job is None
            if job is None:
                job = self._jobs[order.attempt_id] = _Job()
                if order.attempt_id in self._cancelled_early:
                    job.cancel.set()
        if mine:
            try:
                job.outcome = self._report(order, self._do(order, job))
            finally:
                job.done.set()
        return self._joined(order.attempt_id, job)

    def outcome_of(self, attempt_id: str) -> Outcome | None:
        """Waits for an order that is under way here; ``None`` if there is none of that id."""
        with self._lock:
            job = self._jobs.get(attempt_id)
        return self._joined(attempt_id, job) if job is not None else None

    def cancel(self, attempt_ids: list[str]) -> None:
        """Asks orders to end; each, also one still on its way here, then has a cancelled outcome within seconds."""
        with self._lock:
            jobs = [self._jobs[one] for one in attempt_ids if one in self._jobs]
            self._cancelled_early.update(one for one in attempt_ids if one not in self._jobs)
        for job in jobs:
            job.cancel.set()

    def knows(self, attempt_id: str) -> bool:
        """Whether the order is under way here, or its outcome is kept here."""
        with self._lock:
            return attempt_id in self._jobs

    def reap(self) -> list[str]:
        """Ends all that earlier runs of this log left on this node's engine. Only before a run starts anything."""
        return self._workbench().reap(log_id=self._config.log_id, keep=frozenset())

    def end_attempt(self, attempt_id: str) -> None:
        """Ends an attempt that its repository has lost, here and on this node's engine.

        If it is under way after all, it is cancelled and its outcome is in the mailbox when this returns; if its order
        is still on its way, it will not begin.
        """
        with self._lock:
            self._ended.add(attempt_id)
            job = self._jobs.get(attempt_id)
        if job is not None:
            job.cancel.set()
            job.done.wait()
        self._workbench().end(attempt_id)

    def salvage(self, attempt_id: str) -> dict[str, str]:
        """Stores what an interrupted attempt had logged on this node so far; returns blobs by kind."""
        return self._workbench().salvage(attempt_id)

    def _workbench(self) -> Workbench:
        with self._lock:
            if self._bench is None:
                config = self._config
                local = Path(config.blob_root).is_absolute() and this_node() == config.log_node
                near = FileBlobs(Path(config.blob_root)) if local else RemoteBlobs(config.writer)
                blobs = open_shared_blobs(config.blob_root) or near
                self._bench = config.workbench(config.settings, blobs)
            return self._bench

    def _joined(self, attempt_id: str, job: _Job) -> Outcome:
        job.done.wait()
        if job.outcome is None:
            raise RuntimeError(f"attempt {attempt_id} ended without an outcome")
        return job.outcome

    def _do(self, order: WorkOrder, job: _Job) -> Outcome:
        try:
            faults.hit(faults.RUNNER_BEFORE_WORK)
            return self._workbench().perform(order, cancel=job.cancel)
        except Exception as exc:  # a defect here must not count against the pull request, nor stop the sweep
            logger.exception("attempt {} of {} met a defect", order.attempt_id, order.pull_request.name)
            return Outcome(
                verified=False,
                level=order.rules.level,
                stage="runner",
                failure_class=FailureClass.INFRA,
                message=f"internal error: {type(exc).__name__}: {exc}",
            )

    def _report(self, order: WorkOrder, outcome: Outcome) -> Outcome:
        """Leaves the outcome in the mailbox, which holds one: a second, other outcome is an error."""
        event = OutcomeReported(attempt_id=order.attempt_id, outcome=outcome)
        batch = Append(f"attempt:{order.attempt_id}", 0, [new_event(event, f"{order.attempt_id}:outcome")], time.time())
        faults.hit(faults.RUNNER_BEFORE_REPORT)
        (result,) = insist(self._config.writer, "append", pack([batch]))
        faults.hit(faults.RUNNER_AFTER_REPORT)
        if isinstance(result, Appended):
            return outcome
        raise result


def _never_begun(order: WorkOrder) -> Outcome:
    """The outcome of an order that came after its attempt had been ended; nobody has to know of it."""
    return Outcome(
        verified=False,
        level=order.rules.level,
        stage="runner",
        failure_class=FailureClass.INFRA,
        message="its attempt had been ended before it came",
        context=order.context,
        cancelled=True,
    )
