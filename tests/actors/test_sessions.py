"""Sessions of agents by real actors, without Ray: leases, limits, budgets, races, and what is told to whom."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from actors.admission import rows_to_bytes
from actors.governor import RUNNERS, RateLimitGovernor, Terms
from actors.log_client import LogClient, new_event
from actors.log_writer import LogWriter
from actors.repository import Means, RepositoryActor, RepositoryConfig, RepositorySnapshot
from actors.runner import RunnerConfig
from actors.settings import Settings
from events.decide import LOST
from events.governor import Pauses
from events.types import (
    Account,
    AccountPaused,
    AccountProbed,
    AccountReopened,
    AttemptInterrupted,
    AttemptRateLimited,
    AttemptStarted,
    AttemptSucceeded,
    Budget,
    BudgetReached,
    Event,
    LeaseAwaited,
    OutcomeReported,
    RepositoryRows,
    UsageCounted,
)
from events.work import CascadePolicy, FailureClass, Outcome, Stage, VerificationRules, WorkOrder
from tests.actors.harness import check_events, fold_repositories, read_events, rows
from tests.actors.local import LocalRef
from tests.actors.test_repository import LocalRunner, until
from tests.events.worlds import STOCK, outcome
from tests.scripted import Script, scripted

CLAUDE = Account(name="claude", slots=2, agent="claude")
CODEX = Account(name="codex", slots=1, agent="codex")


class Agents:
    """A log, a governor of agents' accounts, and two runners; repository actors as a test wants them."""

    def __init__(
        self, folder: Path, pull_requests: int, script: Script, *accounts: Account, budget: Budget | None = None
    ) -> None:
        script.hard = [f"o/r0#{number}" for number in range(1, pull_requests + 1)]
        self.folder, self.script, self.url = folder, script, f"sqlite:///{folder}/log.db"
        self.writer = LocalRef("log", LogWriter(self.url, "test"))
        self.accounts = [Account(name=RUNNERS, slots=2), *accounts]
        self.terms = Terms(sweep="s", budget=budget or Budget(), pauses=Pauses(default_s=2.0))
        self.governor = LocalRef("governor", self.new_governor())
        self.orders: list[WorkOrder] = []
        runner = RunnerConfig(
            log_id="l",
            settings=Settings(),
            writer=self.writer,
            log_node="",
            blob_root="",
            workbench=scripted(folder, script),
        )
        self.runners = [LocalRef(f"runner:{index}", self._runner(runner)) for index in range(2)]
        self._data, self._count = rows_to_bytes(rows(1, pull_requests)), pull_requests

    def new_governor(self, run: str = "one") -> RateLimitGovernor:
        return RateLimitGovernor(self.writer, self.accounts, time.time, run, self.terms)

    def _runner(self, config: RunnerConfig) -> LocalRunner:
        runner = LocalRunner(self.folder, config)
        bench = runner._bench
        assert bench is not None
        ordinary = bench.perform

        def noted(order: WorkOrder, *, cancel: threading.Event) -> Outcome:
            self.orders.append(order)
            return self.answer(order, ordinary(order, cancel=cancel))

        bench.perform = noted  # type: ignore[method-assign]
        return runner

    def answer(self, order: WorkOrder, outcome: Outcome) -> Outcome:
        """What a test makes of the workbench's outcome."""
        return outcome

    def set(self, script: Script) -> None:
        """Another script from now on."""
        script.hard = self.script.hard
        scripted(self.folder, script)

    async def actor(self, *, race: int = 1) -> RepositoryActor:
        digest = await LogClient(self.writer).put_blob(self._data)
        config = RepositoryConfig(
            log_id="l",
            sweep="s",
            rules=VerificationRules(),
            policy=CascadePolicy(stock_context=STOCK, generate=True, race=race),
            writer=self.writer,
            governor=self.governor,
            runners=list(self.runners),
            agents={one.name: one.agent for one in self.accounts if one.agent},
        )
        given = RepositoryRows(repository="o/r0", rows=digest, pull_requests=self._count)
        return RepositoryActor(given, config, Means(config), time.time)

    async def live(self, **how: int) -> RepositorySnapshot:
        """Has a new actor do all there is to do."""
        return await asyncio.wait_for((await self.actor(**how)).live(), 30)

    def events(self) -> list[Event]:
        return [event for _, event in read_events(self.url)]

    def of(self, kind: type[Event]) -> list[Event]:
        return [one for one in self.events() if isinstance(one, kind)]


def stock_is_not_enough(world: Agents) -> None:
    """The template of this test is called ``STOCK`` in the policy, and refused wherever it is tried."""
    ordinary = world.answer

    def refused(order: WorkOrder, outcome: Outcome) -> Outcome:
        if order.context == STOCK and order.stage is not Stage.LLM_GENERATE:
            outcome = msgspec.structs.replace(
                outcome,
                verified=False,
                failure_class=FailureClass.RECIPE,
                stage="build",
                message="no such header",
                log_tail="fatal error: zlib.h: No such file",
            )
        return ordinary(order, outcome)

    world.answer = refused  # type: ignore[method-assign]


@pytest.fixture
def make(tmp_path: Path):  # type: ignore[no-untyped-def]
    def made(pull_requests: int, script: Script, *accounts: Account, budget: Budget | None = None) -> Agents:
        world = Agents(tmp_path, pull_requests, script, *accounts, budget=budget)
        stock_is_not_enough(world)
        return world

    return made


def test_one_session_serves_its_repository_and_its_usage_is_counted(make) -> None:  # type: ignore[no-untyped-def]
    async def run() -> Agents:
        world: Agents = make(4, Script(), CLAUDE)
        found = await world.live()
        assert found.drained, found.failure
        return world

    world = asyncio.run(run())
    check_events(read_events(world.url))
    (repository,) = fold_repositories(read_events(world.url))
    assert repository.counts("s") == {"succeeded": 4}
    (started,) = [one for one in world.of(AttemptStarted) if one.stage is Stage.LLM_GENERATE]  # type: ignore[union-attr]
    assert isinstance(started, AttemptStarted)
    (used,) = world.of(UsageCounted)
    assert isinstance(used, UsageCounted)
    assert (started.agent, started.account) == ("claude", "claude")
    assert (used.attempt_id, used.account, used.input_tokens, used.usd) == (started.attempt_id, "claude", 2400, 0.016)


def test_an_agent_is_told_what_was_tried_before_it_and_where_it_failed(make) -> None:  # type: ignore[no-untyped-def]
    async def run() -> Agents:
        world: Agents = make(1, Script(), CLAUDE)
        assert (await world.live()).drained
        return world

    world = asyncio.run(run())
    tried, session = world.orders
    assert (tried.stage, tried.prior) == (Stage.TRY_DEFAULT, ())
    (prior,) = session.prior
    assert (session.agent, session.account, session.context) == ("claude", "claude", STOCK)
    assert (prior.attempt_id, prior.stage, prior.failed_at, prior.failure_class) == (
        tried.attempt_id,
        Stage.TRY_DEFAULT,
        "build",
        FailureClass.RECIPE,
    )
    assert (prior.message, prior.log_tail) == ("no such header", "fatal error: zlib.h: No such file")


def test_with_no_account_free_a_repository_waits_without_asking_again_and_goes_on_after_one_probe(make) -> None:  # type: ignore[no-untyped-def]
    calls: Counter[str] = Counter()

    async def run() -> Agents:
        world: Agents = make(3, Script(limits={"claude": time.time() + 4.0}), CLAUDE)
        ordinary = world.governor.call

        async def counted(method: str, *args: object) -> object:
            calls[method] += 1
            return await ordinary(method, *args)

        world.governor.call = counted  # type: ignore[method-assign]
        assert (await world.live()).drained
        return world

    world = asyncio.run(run())
    limited = world.of(AttemptRateLimited)
    assert len(limited) == 1, "nothing more is spent on an exhausted account"
    (awaited,) = [one for one in world.of(LeaseAwaited) if "is paused until" in one.reason]  # type: ignore[union-attr]
    (paused,) = world.of(AccountPaused)
    assert isinstance(awaited, LeaseAwaited)
    assert isinstance(paused, AccountPaused)
    assert awaited.until == paused.until == paused.reset_at
    assert calls["exchange"] < 30, f"it waits and does not ask again and again: {calls}"
    assert (len(world.of(AccountProbed)), len(world.of(AccountReopened))) == (1, 1)


def test_work_goes_on_with_another_account_while_one_is_paused(make) -> None:  # type: ignore[no-untyped-def]
    async def run() -> Agents:
        world: Agents = make(3, Script(limits={"claude": time.time() + 3600.0}), CLAUDE, CODEX)
        assert (await world.live()).drained
        return world

    world = asyncio.run(run())
    sessions = [one for one in world.of(AttemptStarted) if one.stage is Stage.LLM_GENERATE]  # type: ignore[union-attr]
    assert [one.account for one in sessions] == ["claude", "codex"]  # type: ignore[union-attr]
    assert {one.account for one in await_accounts(world)} == {"claude", "codex"}


def await_accounts(world: Agents) -> list[UsageCounted]:
    return [one for one in world.of(UsageCounted) if isinstance(one, UsageCounted)]


def test_at_the_sweeps_budget_nothing_is_granted_and_what_is_left_stays_open(make) -> None:  # type: ignore[no-untyped-def]
    async def run() -> tuple[Agents, RepositorySnapshot]:
        world: Agents = make(1, Script(refuse=["o/r0#1"]), CLAUDE, budget=Budget(sessions=2))
        return world, await world.live()

    world, found = asyncio.run(run())
    assert not found.drained
    assert not found.failure
    assert found.undone == "the sweep's budget is reached: 2 of 2 sessions"
    assert len(await_accounts(world)) == 2
    assert len(world.of(BudgetReached)) == 1
    (repository,) = fold_repositories(read_events(world.url))
    assert repository.counts("s") == {"awaiting_lease": 1}


def test_a_session_whose_end_the_governor_never_heard_of_is_counted_by_the_next_actor(make) -> None:  # type: ignore[no-untyped-def]
    async def run() -> Agents:
        world: Agents = make(2, Script(), CLAUDE)
        first = await world.actor()
        first._desk.tell = lambda _: None  # type: ignore[method-assign, assignment]
        assert (await asyncio.wait_for(first.live(), 30)).drained
        assert not world.of(UsageCounted)
        assert (await world.live()).drained
        return world

    world = asyncio.run(run())
    (used,) = await_accounts(world)
    assert used.account == "claude"


def test_a_new_run_finds_in_the_mailbox_what_nobody_could_tell_before_it_grants_anything(make) -> None:  # type: ignore[no-untyped-def]
    async def run() -> Agents:
        world: Agents = make(1, Script(limits={"claude": time.time() + 3600.0}), CLAUDE)
        actor = await world.actor()
        actor._desk.tell = lambda _: None  # type: ignore[method-assign, assignment]
        living = asyncio.create_task(actor.live())
        await until("the session has ended", lambda: bool(world.of(AttemptRateLimited)))
        actor.abandon()
        await living
        (limited,) = world.of(AttemptRateLimited)
        assert isinstance(limited, AttemptRateLimited)
        given = msgspec.structs.replace(outcome(verified=False, cls=FailureClass.AGENT), session=limited.session)
        mail = new_event(OutcomeReported(attempt_id=limited.attempt_id, outcome=given), "mail")
        await LogClient(world.writer).append(f"attempt:{limited.attempt_id}", 0, [mail], at=time.time())
        new = world.new_governor("two")
        (view,) = await new.accounts()
        assert view.paused_until is not None
        assert view.sessions == 1
        assert await new.held() == []
        return world

    asyncio.run(run())


def test_the_first_of_two_that_race_wins_and_the_other_is_cancelled_and_recorded(make) -> None:  # type: ignore[no-untyped-def]
    async def run() -> Agents:
        world: Agents = make(1, Script(seconds=0.05), CLAUDE, CODEX)
        inner, cancelled = world.answer, list[bool]()
        slow = threading.Event()

        def answer(order: WorkOrder, outcome: Outcome) -> Outcome:
            outcome = inner(order, outcome)
            sessions = [one for one in world.orders if one.stage is Stage.LLM_GENERATE]
            if order.stage is Stage.LLM_GENERATE and len(sessions) == 1:
                failed = {"verified": False, "failure_class": FailureClass.RECIPE}
                world.set(Script(seconds=0.05))
                return msgspec.structs.replace(outcome, **failed)
            return outcome

        world.answer = answer  # type: ignore[method-assign]
        for one in world.runners:
            bench = one.target._bench  # type: ignore[attr-defined]
            plain = bench.perform

            def perform(order: WorkOrder, *, cancel: threading.Event, plain=plain) -> Outcome:  # type: ignore[no-untyped-def]
                outcome: Outcome = plain(order, cancel=cancel)
                racing = sum(o.stage is Stage.LLM_GENERATE for o in world.orders) > 1
                if racing and order.account == "codex":
                    slow.set()
                    cancelled.append(cancel.wait(20.0))
                    return msgspec.structs.replace(outcome, cancelled=True, verified=False)
                if racing and order.account == "claude":
                    assert slow.wait(20.0), "both are at work"
                return outcome

            bench.perform = perform
        assert (await world.live(race=2)).drained
        assert cancelled == [True], "who has lost is ended at once"
        return world

    world = asyncio.run(run())
    check_events(read_events(world.url))
    (won,) = world.of(AttemptSucceeded)
    (lost,) = world.of(AttemptInterrupted)
    assert isinstance(lost, AttemptInterrupted)
    assert lost.reason == LOST
    assert isinstance(won, AttemptSucceeded)
    assert won.attempt_id != lost.attempt_id
    assert len(await_accounts(world)) == 3
