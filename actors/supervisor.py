"""Sweep supervisor: gives repositories their actors, a few at a time, and tells how the sweep stands.

- *Success*: a repository is retired in the log only after its actor has nothing left to do.
- *Failure*: an error that cannot be waited out ends the run with a reason; the log stays resumable.
- *Crash*: the runners and repository actors that it spawned end with it. The next incarnation folds the sweep's
  stream and activates again what was active; the repositories' own streams keep everything else.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable
from typing import cast

import msgspec
from loguru import logger

from actors import gateway
from actors.gateway import ActorFailed, ActorGone, Placement, Ref
from actors.ids import new_id
from actors.log_client import LogClient, StreamWriter
from actors.repository import RepositoryActor, RepositoryConfig, RepositorySnapshot
from actors.runner import AgentRunner, RunnerConfig
from events import sweep as machine
from events.errors import VersionConflict
from events.sweep import RepositoryPhase
from events.types import RepositoryActivated, RepositoryRetired, SweepEvent, SweepRunEnded, SweepRunStarted
from events.work import CascadePolicy, VerificationRules

__all__ = ["SupervisorConfig", "SweepProgress", "SweepSupervisor"]

POLL_S = 0.25
READY_S = 60.0


class SupervisorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a run of a sweep works with."""

    log_id: str
    sweep: str
    rules: VerificationRules
    policy: CascadePolicy
    workers: int
    max_active: int
    infra_patience_s: float
    writer: Ref
    governor: Ref
    runner: RunnerConfig


class SweepProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How a run stands. ``phase``: ``starting``, ``running``, ``stopping``, ``finished``, ``interrupted``,
    ``environment`` (the engine stayed away), ``failed``; the last four are ends, with a ``message``."""

    phase: str
    repositories: dict[str, dict[str, int]]
    pending: int
    active: list[RepositorySnapshot]
    message: str = ""

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.phase in {"finished", "interrupted", "environment", "failed"}


class SweepSupervisor:
    """See the module."""

    def __init__(self, config: SupervisorConfig, clock: Callable[[], float] = time.time) -> None:
        self._config, self._clock = config, clock
        self._stream = StreamWriter(LogClient(config.writer), f"sweep:{config.sweep}", clock=clock, new_id=new_id)
        self._state = machine.SweepState(sweep=config.sweep)
        self._run_id = new_id()
        self._runners: list[Ref] = []
        self._actors: dict[str, Ref] = {}
        self._snapshots: dict[str, RepositorySnapshot] = {}
        self._main: asyncio.Task[None] | None = None
        self._phase, self._message = "starting", ""
        self._drain_s: float | None = None
        self._progress_at = clock()

    def __repr__(self) -> str:
        return f"SweepSupervisor({self._config.sweep})"

    async def progress(self) -> SweepProgress:
        """How the run stands; the first call starts it."""
        if self._main is None:
            self._main = asyncio.create_task(self._guarded())
        counts = {}
        for name, one in self._state.repositories.items():
            snapshot = self._snapshots.get(name)
            if snapshot is not None:
                counts[name] = snapshot.counts
            elif one.phase is RepositoryPhase.RETIRED:
                counts[name] = {"succeeded": one.succeeded, "failed": one.failed, "unreached": one.unreached}
            else:
                counts[name] = {"queued": one.rows.pull_requests}
        return SweepProgress(
            phase=self._phase,
            repositories=counts,
            pending=len(self._state.in_phase(RepositoryPhase.PENDING)),
            active=list(self._snapshots.values()),
            message=self._message,
        )

    async def stop(self, drain_s: float) -> None:
        """Lets running attempts end for ``drain_s`` seconds, cancels the rest, and ends the run as interrupted."""
        if self._drain_s is None:
            self._drain_s = drain_s

    async def _guarded(self) -> None:
        try:
            await self._run()
        except VersionConflict as exc:
            self._end("failed", f"another supervisor took sweep {self._config.sweep} over; this one stops ({exc})")
        except Exception as exc:
            logger.exception("sweep {} stops", self._config.sweep)
            self._end("failed", f"{type(exc).__name__}: {exc}")

    def _end(self, phase: str, message: str = "") -> None:
        self._phase, self._message = phase, message

    async def _run(self) -> None:
        async for event in self._stream.load():
            machine.evolve(self._state, cast(SweepEvent, event))
        host, pid = socket.gethostname(), os.getpid()
        workers = self._config.workers
        await self._record(SweepRunStarted(run=self._run_id, host=host, pid=pid, workers=workers))
        why = await self._start_runners()
        if why is not None:
            await self._finish("environment", why)
            return
        self._phase = "running"
        for name in self._state.in_phase(RepositoryPhase.ACTIVE):
            self._spawn(name)
        while self._drain_s is None:
            await self._activate()
            if not self._actors:
                await self._finish("finished")
                return
            await self._look_round()
            if self._out_of_patience():
                await self._stop_actors(0.0)
                await self._finish("environment", self._infra_message())
                return
            await asyncio.sleep(POLL_S)
        self._phase = "stopping"
        await self._stop_actors(self._drain_s)
        await self._finish("interrupted")

    async def _start_runners(self) -> str | None:
        """Spawns the runners, waits for their engines, and ends what earlier runs left there. Returns what is amiss."""
        placement = Placement(threads=16, needs_runner_slot=True)
        for index in range(self._config.workers):
            name = f"runner:{self._run_id[-8:]}:{index}"
            self._runners.append(gateway.spawn(AgentRunner, name, self._config.runner, name=name, placement=placement))
        answers = await asyncio.gather(*(ref.call("ready", READY_S) for ref in self._runners))
        why = next((answer for answer in answers if answer is not None), None)
        if why is not None:
            return f"the Docker engine of a runner does not answer: {why}"
        nodes = await asyncio.gather(*(ref.call("node") for ref in self._runners))
        for ref in dict(zip(nodes, self._runners, strict=True)).values():
            ended = await ref.call("reap")
            if ended:
                logger.info("ended {} containers that an earlier run had left", len(ended))
        return None

    async def _activate(self) -> None:
        for name in self._state.in_phase(RepositoryPhase.PENDING):
            if len(self._actors) >= self._config.max_active:
                return
            await self._record(RepositoryActivated(repository=name))
            self._spawn(name)

    def _spawn(self, repository: str) -> None:
        config = self._config
        shared = RepositoryConfig(
            log_id=config.log_id,
            sweep=config.sweep,
            rules=config.rules,
            policy=config.policy,
            writer=config.writer,
            governor=config.governor,
            runners=self._runners,
        )
        rows = self._state.repositories[repository].rows
        self._actors[repository] = gateway.spawn(RepositoryActor, rows, shared, name=f"repository:{repository}")

    async def _look_round(self) -> None:
        """Takes a snapshot of every live repository; retires the drained, spawns anew what is gone for good."""

        async def snapshot(name: str, ref: Ref) -> tuple[str, RepositorySnapshot | None]:
            try:
                return name, cast(RepositorySnapshot, await ref.call("snapshot"))
            except ActorGone:
                return name, None

        for name, found in await asyncio.gather(*(snapshot(name, ref) for name, ref in self._actors.items())):
            if found is None:
                self._spawn(name)
                continue
            if found.failure:
                raise RuntimeError(f"{name}: {found.failure}")
            self._snapshots[name] = found
            if found.drained:
                await self._retire(name, found)

    async def _retire(self, name: str, found: RepositorySnapshot) -> None:
        succeeded, failed = found.counts.get("succeeded", 0), found.counts.get("failed", 0)
        unreached = sum(found.counts.values()) - succeeded - failed
        await self._record(RepositoryRetired(repository=name, succeeded=succeeded, failed=failed, unreached=unreached))
        self._actors.pop(name).kill()
        self._snapshots.pop(name, None)

    def _out_of_patience(self) -> bool:
        """Whether nothing but infra failures has happened for too long."""
        snapshots = [self._snapshots.get(name) for name in self._actors]
        stuck = bool(snapshots) and all(one is not None and one.infra_streak > 0 for one in snapshots)
        if not stuck:
            self._progress_at = self._clock()
        return stuck and self._clock() - self._progress_at > self._config.infra_patience_s

    def _infra_message(self) -> str:
        messages = [one.infra_message for one in self._snapshots.values() if one.infra_message]
        patience = self._config.infra_patience_s
        return f"nothing but infra failures for {patience:.0f} s: {messages[0] if messages else 'no detail'}"

    async def _stop_actors(self, drain_s: float) -> None:
        async def stop(ref: Ref) -> None:
            try:
                await ref.call("stop", drain_s)
            except (ActorGone, ActorFailed) as exc:
                logger.warning("{} could not be stopped in order: {}", ref.name, exc)

        await asyncio.gather(*(stop(ref) for ref in self._actors.values()))

    async def _finish(self, how: str, reason: str = "") -> None:
        await self._record(SweepRunEnded(run=self._run_id, how=how, reason=reason))
        self._end(how, reason)

    async def _record(self, event: SweepEvent) -> None:
        await self._stream.append([event])
        machine.evolve(self._state, event)
