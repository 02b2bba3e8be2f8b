"""Sweep supervisor: gives repositories their actors, a few at a time, and tells how the sweep stands.

- *Success*: a repository is retired in the log only after its actor has nothing left to do.
- *Failure*: a repository whose actor cannot go on is set aside, the others are finished, and the run ends as failed
  with its reason; the log stays resumable.
- *Crash*: the runners and repository actors that it spawned end with it. The next incarnation folds the sweep's
  stream and activates again what was active; the repositories' own streams keep everything else.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import msgspec
from loguru import logger

from actors import faults, gateway
from actors.gateway import ActorGone, Placement, Ref
from actors.ids import new_id
from actors.log_client import LogClient, StreamWriter
from actors.repository import RepositoryActor, RepositoryConfig, RepositorySnapshot
from actors.runner import AgentRunner, RunnerConfig
from events import sweep as machine
from events.errors import HeadraceError, LogError, VersionConflict
from events.sweep import RepositoryPhase
from events.types import RepositoryActivated, RepositoryRetired, SweepEvent, SweepRunEnded, SweepRunStarted
from events.work import CascadePolicy, VerificationRules

__all__ = ["SupervisorConfig", "SweepProgress", "SweepSupervisor"]

POLL_S = 0.25
READY_S = 60.0
PLACED_S = 30.0
"""How long runners may wait for a place on the cluster, beyond ``READY_S`` for their engines."""
AT_WORK_S = 60.0
"""An attempt that has run for longer has an engine that answers."""
STOP_S = 7.0
"""Beyond its drain time, what stopping a repository may take: Ctrl-C promises 15 s in all."""
TAKE_BACKS = 3
"""How often a repository is taken back from an actor that outlived its connections and claimed its stream anew."""


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
    """See the module. ``spawn`` is ``gateway.spawn``, or what stands in for it without Ray."""

    def __init__(
        self,
        config: SupervisorConfig,
        clock: Callable[[], float] = time.time,
        spawn: Callable[..., Ref] = gateway.spawn,
    ) -> None:
        self._config, self._clock, self._spawn_actor = config, clock, spawn
        self._stream = StreamWriter(LogClient(config.writer), f"sweep:{config.sweep}", clock=clock, new_id=new_id)
        self._state = machine.SweepState(sweep=config.sweep)
        self._run_id = new_id()
        self._runners: list[Ref] = []
        self._actors: dict[str, Ref] = {}
        self._snapshots: dict[str, RepositorySnapshot] = {}
        self._take_backs: Counter[str] = Counter()
        self._main: asyncio.Task[None] | None = None
        self._phase, self._message = "starting", ""
        self._drain_s = 0.0
        self._stop = asyncio.Event()
        self._set_aside: dict[str, str] = {}
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
        if not self._stop.is_set():
            self._drain_s = drain_s
            self._stop.set()

    async def _guarded(self) -> None:
        try:
            await self._run()
        except VersionConflict as exc:
            self._end("failed", f"another supervisor took sweep {self._config.sweep} over; this one stops ({exc})")
        except Exception as exc:
            logger.exception("sweep {} stops", self._config.sweep)
            reason = f"{type(exc).__name__}: {exc}"
            with suppress(LogError):
                await self._stop_actors(0.0)
                await self._record(SweepRunEnded(run=self._run_id, how="failed", reason=reason))
            self._end("failed", reason)

    def _end(self, phase: str, message: str = "") -> None:
        self._phase, self._message = phase, message

    async def _run(self) -> None:
        self._state = await self._stream.load()
        host, pid = socket.gethostname(), os.getpid()
        workers = self._config.workers
        await self._record(SweepRunStarted(run=self._run_id, host=host, pid=pid, workers=workers))
        faults.hit(faults.SUPERVISOR_RUN_STARTED)
        starting = asyncio.create_task(self._start_runners())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await self._finish("interrupted")
            return
        why = starting.result()
        if why is not None:
            await self._finish("environment", why)
            return
        self._phase = "running"
        while not self._stop.is_set():
            await self._activate()
            if not self._actors:
                await self._finish(*self._all_done())
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

    def _all_done(self) -> tuple[str, str]:
        """How a run ends that has no live repository left."""
        if not self._set_aside:
            return "finished", ""
        return "failed", "; ".join(f"{name}: {why}" for name, why in self._set_aside.items())

    async def _start_runners(self) -> str | None:
        """Spawns the runners, waits for their engines, and ends what earlier runs left there. Returns what is amiss."""
        placement = Placement(threads=16, needs_runner_slot=True)
        for index in range(self._config.workers):
            name = f"runner:{self._run_id[-8:]}:{index}"
            self._runners.append(
                self._spawn_actor(AgentRunner, name, self._config.runner, name=name, placement=placement)
            )
        try:
            async with asyncio.timeout(READY_S + PLACED_S):
                answers = await asyncio.gather(*(_insist(ref, "ready", READY_S) for ref in self._runners))
            why = next((answer for answer in answers if answer is not None), None)
            if why is not None:
                return f"the Docker engine of a runner does not answer: {why}"
            nodes = await asyncio.gather(*(_insist(ref, "node") for ref in self._runners))
            for ref in dict(zip(nodes, self._runners, strict=True)).values():
                ended = await _insist(ref, "reap")
                if ended:
                    logger.info("ended {} containers that an earlier run had left", len(ended))
        except TimeoutError:
            return "not every runner got a place: the cluster's resource 'docker' is in use; ask for fewer --workers"
        except HeadraceError as exc:
            return exc.message
        return None

    async def _activate(self) -> None:
        """Gives actors to repositories, first to those that were active when an earlier run ended."""
        was_active = self._state.in_phase(RepositoryPhase.ACTIVE)
        for name in [*was_active, *self._state.in_phase(RepositoryPhase.PENDING)]:
            if len(self._actors) >= self._config.max_active:
                return
            if name not in self._actors and name not in self._set_aside:
                await self._record(RepositoryActivated(repository=name))
                faults.hit(faults.SUPERVISOR_ACTIVATED)
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
        self._actors[repository] = self._spawn_actor(RepositoryActor, rows, shared, name=f"repository:{repository}")

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
            if found.superseded and self._take_backs[name] < TAKE_BACKS:
                logger.warning("{}: taking it back: {}", name, found.failure)
                self._take_backs[name] += 1
                self._actors.pop(name).kill()
                self._spawn(name)
                continue
            self._snapshots[name] = found
            if found.failure:
                await self._put_aside(name, found.failure)
            if found.drained:
                await self._retire(name, found)

    async def _put_aside(self, name: str, why: str) -> None:
        """Ends a repository's actor that cannot go on; what it had running is cancelled."""
        self._set_aside[name] = why
        ref = self._actors.pop(name)
        await self._stop_actor(ref, 0.0)
        ref.kill()

    async def _retire(self, name: str, found: RepositorySnapshot) -> None:
        succeeded, failed = found.counts.get("succeeded", 0), found.counts.get("failed", 0)
        unreached = sum(found.counts.values()) - succeeded - failed
        await self._record(RepositoryRetired(repository=name, succeeded=succeeded, failed=failed, unreached=unreached))
        faults.hit(faults.SUPERVISOR_RETIRED)
        self._actors.pop(name).kill()
        self._snapshots.pop(name, None)

    def _out_of_patience(self) -> bool:
        """Whether nothing but infra failures has happened for too long. An attempt that runs on is no failure."""
        now = self._clock()
        snapshots = [self._snapshots.get(name) for name in self._actors]
        stuck = bool(snapshots) and all(
            one is not None and one.infra_streak > 0 and all(now - run.since < AT_WORK_S for run in one.running)
            for one in snapshots
        )
        if not stuck:
            self._progress_at = now
        return stuck and now - self._progress_at > self._config.infra_patience_s

    def _infra_message(self) -> str:
        messages = [one.infra_message for one in self._snapshots.values() if one.infra_message]
        patience = self._config.infra_patience_s
        return f"nothing but infra failures for {patience:.0f} s: {messages[0] if messages else 'no detail'}"

    async def _stop_actors(self, drain_s: float) -> None:
        await asyncio.gather(*(self._stop_actor(ref, drain_s) for ref in self._actors.values()))

    async def _stop_actor(self, ref: Ref, drain_s: float) -> None:
        try:
            async with asyncio.timeout(drain_s + STOP_S):
                await ref.call("stop", drain_s)
        except (HeadraceError, TimeoutError) as exc:
            logger.warning("{} could not be stopped in order: {}", ref.name, exc)

    async def _finish(self, how: str, reason: str = "") -> None:
        await self._record(SweepRunEnded(run=self._run_id, how=how, reason=reason))
        self._end(how, reason)

    async def _record(self, event: SweepEvent) -> None:
        await self._stream.append([event])
        machine.evolve(self._state, event)
        await self._stream.keep(self._state)


async def _insist(runner: Ref, method: str, *args: object) -> Any:
    """Asks a runner, again while it is away: it comes back by itself, and what is asked here may be repeated.

    Raises:
        ActorGone: it stayed away for a minute.
    """
    deadline = asyncio.get_running_loop().time() + READY_S
    while True:
        try:
            return await runner.call(method, *args)
        except ActorGone:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(POLL_S)
