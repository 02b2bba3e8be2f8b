"""Sweep supervisor: gives repositories their actors, a few at a time, and tells how the sweep stands.

- *Success*: a repository is retired in the log only after its actor has nothing left to do.
- *Failure*: a repository whose actor cannot go on is set aside, the others are finished, and the run ends as failed
  with its reason; the log stays resumable.
- *Crash*: the runners and hosts that it spawned end with it. The next incarnation folds the sweep's stream and
  activates again what was active; the repositories' own streams keep everything else.

It hears of a repository's end at once; how the others stand meanwhile it asks each host now and then.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from loguru import logger

from actors import faults, gateway
from actors.gateway import ActorGone, Placement, Ref
from actors.gathering import Gatherer
from actors.host import RepositoryHost
from actors.host_pool import HostPool
from actors.ids import new_id
from actors.log_client import LogClient, StreamWriter
from actors.repository import RepositoryConfig, RepositorySnapshot
from actors.runner import AgentRunner, RunnerConfig
from events import sweep as machine
from events.account_views import AccountView
from events.errors import HeadraceError, LogError, LogUnavailable, VersionConflict
from events.sweep import RepositoryPhase
from events.types import RepositoryActivated, RepositoryRetired, SweepEvent, SweepRunEnded, SweepRunStarted
from events.work import CascadePolicy, VerificationRules

__all__ = ["SupervisorConfig", "SweepProgress", "SweepSupervisor"]

POLL_S = 0.25
LOOK_S = 0.5
READY_S = 60.0
PLACED_S = 30.0
"""How long runners may wait for a place on the cluster, beyond ``READY_S`` for their engines."""
AT_WORK_S = 60.0
"""An attempt that has run for longer has an engine that answers."""
TAKE_BACKS = 3
"""How often a repository is taken back from an actor that outlived its connections and claimed its stream anew."""


class SupervisorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a run of a sweep works with. ``max_active``: repositories that live at once, in ``hosts`` processes;
    ``agents``: the backend of each agent's account."""

    log_id: str
    sweep: str
    rules: VerificationRules
    policy: CascadePolicy
    workers: int
    max_active: int
    hosts: int
    infra_patience_s: float
    writer: Ref
    governor: Ref
    runner: RunnerConfig
    agents: dict[str, str] = msgspec.field(default_factory=dict)


class SweepProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How a run stands. ``phase``: ``starting``, ``running``, ``stopping``, ``finished``, ``interrupted``,
    ``environment`` (the engine stayed away), ``budget`` (no agent may be paid any more), ``failed``; the last five are
    ends, with a ``message``."""

    phase: str
    repositories: dict[str, dict[str, int]]
    pending: int
    active: list[RepositorySnapshot]
    message: str = ""
    accounts: list[AccountView] = msgspec.field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.phase in {"finished", "interrupted", "environment", "budget", "failed"}


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
        self._gatherer = Gatherer(LogClient(config.writer), build=config.runner.settings.build, clock=clock)
        self._state = machine.SweepState(sweep=config.sweep)
        self._run_id = new_id()
        self._runners: list[Ref] = []
        self._pool: HostPool | None = None
        self._todo: deque[str] = deque()
        self._living: dict[str, asyncio.Task[RepositorySnapshot | None]] = {}
        self._snapshots: dict[str, RepositorySnapshot] = {}
        self._take_backs: Counter[str] = Counter()
        self._main: asyncio.Task[None] | None = None
        self._phase, self._message = "starting", ""
        self._drain_s = 0.0
        self._stop = asyncio.Event()
        self._set_aside: dict[str, str] = {}
        self._undone: dict[str, str] = {}
        self._accounts: list[AccountView] = []
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
            accounts=self._accounts,
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
            self._let_go()
            self._end("failed", f"another supervisor took sweep {self._config.sweep} over; this one stops ({exc})")
        except Exception as exc:
            logger.exception("sweep {} stops", self._config.sweep)
            reason = f"{type(exc).__name__}: {exc}"
            with suppress(LogError):
                await self._stop_actors(0.0)
                await self._record([SweepRunEnded(run=self._run_id, how="failed", reason=reason)])
            self._end("failed", reason)

    def _end(self, phase: str, message: str = "") -> None:
        self._phase, self._message = phase, message

    async def _run(self) -> None:
        self._state = await self._stream.load()
        host, pid = socket.gethostname(), os.getpid()
        workers = self._config.workers
        await self._record([SweepRunStarted(run=self._run_id, host=host, pid=pid, workers=workers)])
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
        watching = [asyncio.create_task(self._hosts().watch(self._show))]
        if self._config.agents:
            watching.append(asyncio.create_task(self._watch_accounts()))
        try:
            await self._work(stopping)
        finally:
            for one in watching:
                one.cancel()

    async def _watch_accounts(self) -> None:
        while True:
            with suppress(HeadraceError):
                self._accounts = await self._config.governor.call("accounts")
            await asyncio.sleep(LOOK_S)

    async def _work(self, stopping: asyncio.Task[bool]) -> None:
        """Activates and retires repositories until the run ends, one way or another."""
        active, pending = (self._state.in_phase(one) for one in (RepositoryPhase.ACTIVE, RepositoryPhase.PENDING))
        self._todo.extend([*active, *pending])
        while not self._stop.is_set():
            await self._activate()
            if not self._living:
                await self._finish(*self._all_done())
                return
            await asyncio.wait({stopping, *self._living.values()}, timeout=POLL_S, return_when=asyncio.FIRST_COMPLETED)
            await self._look_round()
            if self._out_of_patience():
                await self._stop_actors(0.0)
                await self._finish("environment", self._infra_message())
                return
        self._phase = "stopping"
        await self._stop_actors(self._drain_s)
        await self._finish("interrupted")

    def _all_done(self) -> tuple[str, str]:
        """How a run ends that has no live repository left."""
        if not self._set_aside and self._undone:
            return "budget", "; ".join(dict.fromkeys(self._undone.values()))
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
        self._hosts()
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

    def _hosts(self) -> HostPool:
        """The hosts, which are spawned when they are first asked for; the runners are known by then."""
        if self._pool is None:
            config = self._config
            shared = RepositoryConfig(
                log_id=config.log_id,
                sweep=config.sweep,
                rules=config.rules,
                policy=config.policy,
                writer=config.writer,
                governor=config.governor,
                runners=self._runners,
                agents=config.agents,
            )

            def spawn(number: int) -> Ref:
                name = f"repositories:{self._run_id[-8:]}:{number}"
                return self._spawn_actor(RepositoryHost, name, shared, name=name)

            self._pool = HostPool(spawn, min(config.hosts, config.max_active))
        return self._pool

    async def _activate(self) -> None:
        """Gives actors to repositories, first to those that were active when an earlier run ended."""
        free = self._config.max_active - len(self._living)
        chosen = [self._todo.popleft() for _ in range(min(free, len(self._todo)))]
        await self._record([RepositoryActivated(repository=name) for name in chosen])
        for name in chosen:
            faults.hit(faults.SUPERVISOR_ACTIVATED)
            self._live(name)

    def _live(self, repository: str) -> None:
        rows = self._state.repositories[repository].rows
        self._living[repository] = asyncio.create_task(self._hosts().live(rows))

    def _show(self, one: RepositorySnapshot) -> None:
        self._snapshots[one.repository] = one

    async def _look_round(self) -> None:
        """Retires the drained; sets aside what cannot go on."""
        drained = []
        for name in [name for name, task in self._living.items() if task.done()]:
            try:
                found = self._living.pop(name).result()
            except HeadraceError as exc:
                await self._put_aside(name, exc.message)
                continue
            if found is not None and found.drained:
                drained.append(found)
            elif found is not None and found.undone:
                self._snapshots[name] = found
                self._undone[name] = found.undone
            elif found is not None and found.failure and not self._is_to_be_taken_back(found):
                self._snapshots[name] = found
                await self._put_aside(name, found.failure)
            else:
                self._live(name)
        await self._retire(drained)

    def _is_to_be_taken_back(self, found: RepositorySnapshot) -> bool:
        name = found.repository
        if not found.superseded or self._take_backs[name] >= TAKE_BACKS:
            return False
        logger.warning("{}: taking it back: {}", name, found.failure)
        self._take_backs[name] += 1
        return True

    async def _put_aside(self, name: str, why: str) -> None:
        """Ends a repository's actor that cannot go on; what it had running is cancelled."""
        self._set_aside[name] = why
        await self._hosts().stop_one(name)

    async def _retire(self, drained: list[RepositorySnapshot]) -> None:
        await asyncio.gather(*(self._gather(one.repository) for one in drained))
        events = []
        for one in drained:
            succeeded, failed = one.counts.get("succeeded", 0), one.counts.get("failed", 0)
            unreached = sum(one.counts.values()) - succeeded - failed
            events.append(
                RepositoryRetired(repository=one.repository, succeeded=succeeded, failed=failed, unreached=unreached)
            )
        await self._record(events)
        for one in drained:
            faults.hit(faults.SUPERVISOR_RETIRED)
            self._snapshots.pop(one.repository, None)

    async def _gather(self, repository: str) -> None:
        """Has a repository's report made before it is retired; a defect of the report does not stop the sweep."""
        try:
            await self._gatherer.gather(repository)
        except (VersionConflict, LogUnavailable):
            raise
        except Exception:
            logger.exception("no report of {}; its next one tells of these pull requests, too", repository)

    def _out_of_patience(self) -> bool:
        """Whether nothing but infra failures has happened for too long. An attempt that runs on is no failure."""
        now = self._clock()
        snapshots = [self._snapshots.get(name) for name in self._living]
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

    def _let_go(self) -> None:
        """Asks no host any more for a repository; one that works goes on."""
        for task in self._living.values():
            task.cancel()

    async def _stop_actors(self, drain_s: float) -> None:
        self._let_go()
        if self._pool is not None:
            await self._pool.stop(drain_s)

    async def _finish(self, how: str, reason: str = "") -> None:
        await self._record([SweepRunEnded(run=self._run_id, how=how, reason=reason)])
        self._end(how, reason)

    async def _record(self, events: Sequence[SweepEvent]) -> None:
        await self._stream.append(events)
        for event in events:
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
