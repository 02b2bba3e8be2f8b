"""One simulated sweep from a seed: the real actors, a scripted workbench, a bad network, deaths, and what must hold."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from loguru import logger

from actors import faults, ids, log_client, runner, supervisor
from actors.admission import rows_to_bytes
from actors.gateway import ActorFailed, ActorGone
from actors.governor import RUNNERS, RateLimitGovernor, Terms
from actors.log_client import new_event
from actors.log_writer import LogWriter
from actors.runner import RunnerConfig
from actors.settings import Settings
from actors.supervisor import SupervisorConfig, SweepProgress, SweepSupervisor
from events import codec
from events.governor import Pauses
from events.types import Account, Event, RepositoriesAdmitted, RepositoryRows, SweepDefined
from events.work import FailureClass, Level, Outcome, PullRequest, Stage, VerificationRules, WorkOrder
from store.blobs import MemoryBlobs
from store.log import Append
from store.opening import Store
from tests.actors.harness import check_events
from tests.dst.agents import Provider
from tests.dst.checks import CheckedLog, Observer
from tests.dst.cluster import Cluster, Faults, SimRef
from tests.dst.loop import Process, SimEvent, VirtualLoop, current_process, sleep
from tests.dst.scenario import STOCK, Scenario, draw_scenario

__all__ = ["Run", "Scenario", "World", "run_seed"]

EPOCH_S = 1_600_000_000.0
ENDS_AT_S = 20_000.0
POLL_S = 0.3


class Bench:
    """The only workbench of the only node. It remembers what began, and what it would have left on an engine."""

    def __init__(self, world: World) -> None:
        self._world, self._rng = world, world.rng
        self.began: Counter[str] = Counter()
        self.left: dict[str, Process] = {}
        self._seen: set[str] = set()
        self._sessions: dict[str, str] = {}
        agents = world.scenario.agents
        self.provider = Provider(agents, world.clock, world.rng) if agents is not None else None

    def perform(self, order: WorkOrder, *, cancel: threading.Event) -> Outcome:
        attempt_id = order.attempt_id
        self.began[attempt_id] += 1
        self._world.require(attempt_id in self._world.observer.in_flight, f"{attempt_id} began and is not in flight")
        self._world.require(self.began[attempt_id] == 1, f"attempt {attempt_id} is performed twice")
        others = [one for one, where in self.left.items() if where == current_process()]
        self._world.require(
            not others, f"{attempt_id} begins on {order.pull_request.name}'s runner, busy with {others}"
        )
        self.left[attempt_id] = current_process()
        if order.stage is Stage.LLM_GENERATE:
            return self._session(order, cancel)
        cancelled = cancel.wait(self._rng.uniform(0.5, 1.5) * self._world.scenario.seconds)
        torn = self.left.pop(attempt_id, None) is None
        failure = self._verdict(order.pull_request.name, order.context)
        if cancelled or torn or self._rng.random() < self._world.scenario.infra:
            failure = FailureClass.INFRA
        return Outcome(
            verified=failure is None,
            level=Level.TESTS,
            stage="tests",
            failure_class=failure,
            message="as the script says",
            context=order.context,
            cancelled=cancelled,
        )

    def _session(self, order: WorkOrder, cancel: threading.Event) -> Outcome:
        """A session of an agent; no account has more of them under way than slots."""
        provider, account = self.provider, order.account
        assert provider is not None
        assert account is not None
        self._sessions[order.attempt_id] = account
        beside = [one for one, process in self.left.items() if process.alive and self._sessions.get(one) == account]
        slots = self._world.observer.governor.accounts[account].slots
        self._world.require(len(beside) <= slots, f"{len(beside)} sessions on {slots} slots of {account}: {beside}")
        reset_at = provider.begin(account)
        cancelled = cancel.wait(provider.seconds(reset_at))
        torn = self.left.pop(order.attempt_id, None) is None
        refused = self._rng.choice(self._world.scenario.classes)
        hopeless = order.pull_request.name in self._world.scenario.refused
        return provider.outcome(
            order, reset_at=reset_at, refused=refused if hopeless else None, cancelled=cancelled or torn
        )

    def _verdict(self, name: str, context: str | None) -> FailureClass | None:
        """What the script says of a pull request; a first flake that is lost with its runner is not repeated."""
        scenario, first = self._world.scenario, name not in self._seen
        self._seen.add(name)
        if scenario.agents is not None and context == STOCK and name in scenario.agents.hard:
            return FailureClass.RECIPE
        if name in scenario.refused:
            return self._rng.choice(scenario.classes)
        return FailureClass.FLAKE if first and name in scenario.flaky else None

    def reap(self, *, log_id: str, keep: frozenset[str]) -> list[str]:
        ended = sorted(self.left.keys() - keep)
        for one in ended:
            del self.left[one]
        return ended

    def end(self, attempt_id: str) -> None:
        self.left.pop(attempt_id, None)

    def salvage(self, attempt_id: str) -> dict[str, str]:
        return {}

    def wait_ready(self, *, timeout_s: float) -> str | None:
        sleep(self._rng.uniform(0.0, 2.0))
        return None


class Run(msgspec.Struct, frozen=True):
    """What a run was: equal digests are equal runs, event by event."""

    seed: int
    digest: str
    events: int
    deaths: int
    restarts: int
    virtual_s: float


class World:
    """Everything of one run."""

    def __init__(
        self,
        seed: int,
        show: Callable[[str], None] | None,
        *,
        scenario: Scenario | None = None,
        given: Faults | None = None,
    ) -> None:
        self.seed, self.rng, self._show = seed, random.Random(seed), show  # noqa: S311 - replayable by intent
        self._digest = sha256()
        self.scenario = draw_scenario(self.rng) if scenario is None else scenario
        self.loop = VirtualLoop(self.rng, ends_at=ENDS_AT_S)
        self.faults = Faults.drawn(self.rng) if given is None else msgspec.structs.replace(given)
        self.cluster = Cluster(self.loop, self.rng, self.faults, self.note)
        self.bench = Bench(self)
        self.observer = Observer(self.bench.left.__contains__, max_active=self.scenario.max_active)
        self.log = CheckedLog(self.observer, self._broken, self.note)
        self.blobs = MemoryBlobs()
        self.restarts = 0

    def clock(self) -> float:
        return EPOCH_S + self.loop.time()

    def note(self, text: str) -> None:
        line = f"{self.loop.time():.6f} {text}"
        self._digest.update(line.encode() + b"\n")
        if self._show is not None:
            self._show(line)

    def require(self, holds: bool, otherwise: str) -> None:
        """Ends the run as failed when something does not hold."""
        if not holds:
            self._broken(AssertionError(otherwise))

    def _broken(self, exc: BaseException) -> None:
        if self.loop.failure is None:
            self.loop.failure = exc

    # ------------------------------------------------------------ the run

    def run(self) -> Run:
        gc.collect()
        gc.disable()
        asyncio.set_event_loop(None)
        try:
            with _stand_ins(self), faults.installed(self.cluster.strike):
                self.loop.run_until_complete(self._drive())
            self._check_end()
        finally:
            self.cluster.remove_all()
            self.loop.abandon()
            self.loop.close()
            gc.enable()
        return Run(
            seed=self.seed,
            digest=self._digest.hexdigest(),
            events=len(list(self.log.read_all())),
            deaths=self.cluster.killed,
            restarts=self.restarts,
            virtual_s=self.loop.time(),
        )

    async def _drive(self) -> None:
        """Runs the sweep as often as it takes, as somebody would who resumes it."""
        self._define()
        striker = asyncio.ensure_future(self._strike()) if self.faults.every_s else None
        while True:
            progress = await self._one_run()
            self.note(f"run over: {progress.phase if progress else 'lost'}")
            if progress is not None and progress.phase == "failed":
                raise AssertionError(f"the run failed: {progress.message}")
            if progress is not None and progress.phase == "finished":
                break
            self.restarts += 1
        if striker is not None:
            striker.cancel()

    async def _one_run(self) -> SweepProgress | None:
        """One run until its end, or until the whole cluster is lost; ``None`` then."""
        self._spawn_all()
        stop_at = self.loop.time() + self.rng.choice([1e9, 1e9, 5.0, 30.0]) * self.rng.random()
        lost = self.rng.random() < 0.5
        sweep = SimRef("sweep:s")
        stopping = self.restarts > 3
        try:
            while True:
                try:
                    progress = cast(SweepProgress, await sweep.call("progress"))
                    if progress.ended:
                        return progress
                    if self.loop.time() > stop_at and not stopping:
                        if lost:
                            return None
                        await sweep.call("stop", self.rng.choice([0.0, 5.0]))
                        stopping = True
                except (ActorGone, ActorFailed) as exc:
                    self.note(f"driver: {type(exc).__name__}")
                await asyncio.sleep(POLL_S)
        finally:
            self._leftover_check()
            self.cluster.remove_all()

    def _leftover_check(self) -> None:
        """What a finished sweep must have given back before its processes end."""
        state = self.observer.sweeps.get("s")
        if state is not None and state.last_end is not None and state.last_end.how == "finished":
            self.require(not self.bench.left, f"left on the engine: {self.bench.left}")

    async def _strike(self) -> None:
        while True:
            await asyncio.sleep(self.rng.expovariate(1.0 / self.faults.every_s))
            self.cluster.strike_anyone()

    def _define(self) -> None:
        by_repository: dict[str, list[PullRequest]] = {}
        for row in self.scenario.rows:
            by_repository.setdefault(row.repository, []).append(row)
        given = [
            RepositoryRows(repository=name, rows=self.blobs.put(rows_to_bytes(rows)), pull_requests=len(rows))
            for name, rows in by_repository.items()
        ]
        events: list[Event] = [
            SweepDefined(
                sweep="s", timeline="t", timeline_digest="d", rules=VerificationRules(), policy=self.scenario.policy
            ),
            RepositoriesAdmitted(repositories=given),
        ]
        batch = [new_event(event, f"define-{index}") for index, event in enumerate(events)]
        self.log.append(Append("sweep:s", 0, batch, self.clock()))

    def _spawn_all(self) -> None:
        writer, governor = SimRef("log"), SimRef("governor")
        accounts, agents = [Account(name=RUNNERS, slots=self.scenario.workers)], self.scenario.agents
        accounts += agents.accounts if agents is not None else []
        terms = Terms(sweep="s", pauses=agents.pauses if agents is not None else Pauses())
        config = SupervisorConfig(
            log_id="l",
            sweep="s",
            rules=VerificationRules(),
            policy=self.scenario.policy,
            workers=self.scenario.workers,
            max_active=self.scenario.max_active,
            hosts=self.scenario.hosts,
            infra_patience_s=1e9,
            writer=writer,
            governor=governor,
            runner=RunnerConfig(
                log_id="l",
                settings=Settings(),
                writer=writer,
                log_node="",
                blob_root="",
                workbench=lambda *_: self.bench,
            ),
            agents={one.name: one.agent for one in accounts if one.agent},
        )
        self.cluster.spawn(lambda: LogWriter("sim:", "sweep s", self._store), "log")
        self.cluster.spawn(lambda: RateLimitGovernor(writer, accounts, self.clock, "", terms), "governor")
        self.cluster.spawn(lambda: SweepSupervisor(config, self.clock, self._spawn), "sweep:s")

    def _spawn(self, cls: type, *args: object, name: str, placement: object = None) -> SimRef:
        clock = () if cls is runner.AgentRunner else (self.clock,)
        return self.cluster.spawn(lambda: cls(*args, *clock), name)

    def _store(self, url: str, **_: object) -> Store:
        return Store(url=url, log=self.log, blobs=self.blobs, models=self.log.models)

    # ------------------------------------------------------------ the end

    def _check_end(self) -> None:
        recorded = list(self.log.read_all())
        self.log.verify()
        check_events([(one.stream, codec.decode(one.type, one.schema, one.data)) for one in recorded])
        given: dict[str, set[int]] = {}
        for row in self.scenario.rows:
            given.setdefault(row.repository, set()).add(row.issue_number)
        assert {name: set(state.prs) for name, state in self.observer.repositories.items()} == given
        for row in self.scenario.rows:
            state = self.observer.repositories[row.repository]
            shown = state.shown_state(row.issue_number)
            wanted = "failed" if row.name in self.scenario.refused else "succeeded"
            unlucky = self.scenario.agents is not None and shown == "failed" and row.name in self.scenario.agents.hard
            if (row.seed or shown != "unreached") and not unlucky:
                assert shown == wanted, f"{row.name} is {shown}, not {wanted}"
        ended = {one for state in self.observer.repositories.values() for one in state.sessions}
        assert self.observer.governor.counted == ended, "every session is counted, and none twice"
        counts = self.observer.sweeps["s"].repositories
        for name, retired in counts.items():
            counted = self.observer.repositories[name].counts("s")
            assert (retired.succeeded, retired.failed) == (counted.get("succeeded", 0), counted.get("failed", 0))
            if retired.succeeded or retired.failed:
                gathered = self.observer.gathers[name]
                assert gathered.pending is None, f"the report of {name} is prepared and not finished"
                assert gathered.report is not None, f"{name} is retired without a report"


@contextmanager
def _stand_ins(world: World) -> Iterator[None]:
    """The virtual clock, sleep and events, and ids from the seed, in place of what the modules import."""
    virtual = SimpleNamespace(
        monotonic=world.loop.time,
        time=world.clock,
        time_ns=lambda: int(world.clock() * 1e9),
        sleep=sleep,
    )
    replaced: list[tuple[Any, str, Any]] = [
        (ids, "time", virtual),
        (ids, "secrets", SimpleNamespace(token_hex=lambda size: world.rng.randbytes(size).hex())),
        (log_client, "time", virtual),
        (supervisor, "os", SimpleNamespace(getpid=lambda: 1)),
        (supervisor, "socket", SimpleNamespace(gethostname=lambda: "host")),
        (runner, "time", virtual),
        (runner, "threading", SimpleNamespace(Event=SimEvent, Lock=threading.Lock)),
        (runner, "this_node", lambda: "node"),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    for module, name, value in replaced:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def run_seed(seed: int, *, show: Callable[[str], None] | None = None) -> Run:
    """Runs one seed; raises, with the seed in a note, when anything does not hold.

    Args:
        seed: decides everything.
        show: called with every step that counts, as a line of text.
    """
    if show is None:
        logger.disable("actors")
    try:
        return World(seed, show).run()
    except Exception as exc:
        exc.add_note(f"replay it: python -m tests.dst --seed {seed}")
        raise
    finally:
        logger.enable("actors")
