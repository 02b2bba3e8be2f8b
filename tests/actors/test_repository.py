"""The repository actor without Ray: two of one repository, and outcomes that were already in the mailbox."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from actors.admission import imported, rows_to_bytes
from actors.caching import import_of
from actors.governor import RUNNERS, RateLimitGovernor
from actors.log_client import LogClient, StreamWriter, new_event
from actors.log_writer import LogWriter
from actors.repository import Means, RepositoryActor, RepositoryConfig
from actors.runner import AgentRunner, RunnerConfig
from actors.settings import Settings
from events import governor as governor_machine
from events.commands import ImportContexts
from events.errors import LogCorrupt
from events.replay import StreamFold
from events.streams import first_difference
from events.types import Account, AttemptStarted, AttemptSucceeded, GovernorClaimed, OutcomeReported, RepositoryRows
from events.work import CascadePolicy, Outcome, VerificationRules, WorkOrder
from store.blobs import MemoryBlobs
from store.opening import open_store
from store.read_models import CachedContext
from store.replay import check
from tests.actors.harness import check_events, fold_repositories, read_events, rows
from tests.actors.local import LocalRef
from tests.events.worlds import STOCK, outcome
from tests.scripted import Script, ScriptedWorkbench, journal, scripted


class LocalRunner(AgentRunner):
    """A runner whose node is this process."""

    def __init__(self, folder: Path, config: RunnerConfig) -> None:
        super().__init__("runner:0", config)
        self._bench = ScriptedWorkbench(folder, MemoryBlobs())

    def _report(self, order, outcome):  # type: ignore[no-untyped-def]
        return outcome


class World:
    """A log, a governor and one runner in this process; repository actors as a test wants them."""

    def __init__(self, folder: Path, pull_requests: int, script: Script) -> None:
        self.writer = LocalRef("log", LogWriter(f"sqlite:///{folder}/log.db", "test"))
        self.governor = LocalRef("governor", RateLimitGovernor(self.writer, [Account(name=RUNNERS, slots=1)]))
        runner = RunnerConfig(
            log_id="l",
            settings=Settings(),
            writer=self.writer,
            log_node="",
            blob_root="",
            workbench=scripted(folder, script),
        )
        local = LocalRunner(folder, runner)
        self.runner, self.jobs = LocalRef("runner:0", local), local._jobs
        self._data = rows_to_bytes(rows(1, pull_requests))
        self._count = pull_requests

    def shorten(self, pull_requests: int) -> None:
        """The timeline from now on."""
        self._data, self._count = rows_to_bytes(rows(1, pull_requests)), pull_requests

    async def actor(self) -> RepositoryActor:
        digest = await LogClient(self.writer).put_blob(self._data)
        given = RepositoryRows(repository="o/r0", rows=digest, pull_requests=self._count)
        config = RepositoryConfig(
            log_id="l",
            sweep="s",
            rules=VerificationRules(),
            policy=CascadePolicy(stock_context=STOCK),
            writer=self.writer,
            governor=self.governor,
            runners=[self.runner],
        )
        return RepositoryActor(given, config, Means(config), time.time)


async def until(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        await asyncio.sleep(0.02)


async def done(actor: RepositoryActor) -> None:
    """Has the actor do all there is to do."""
    found = await asyncio.wait_for(actor.live(), 30)
    assert found.drained, found.failure


def test_of_two_live_actors_for_one_repository_the_stale_one_is_refused_and_stops(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path, 6, Script(seconds=0.3))
        old = await world.actor()
        living = asyncio.create_task(old.live())
        await until("the first actor works", lambda: bool(old.snapshot().running))
        new = asyncio.create_task(done(await world.actor()))
        found = await asyncio.wait_for(living, 30)
        assert "took repository:o/r0 over" in found.failure
        assert found.superseded
        await new

    asyncio.run(run())
    events = read_events(f"sqlite:///{tmp_path}/log.db")
    check_events(events)
    (repository,) = fold_repositories(events)
    assert repository.counts("s") == {"succeeded": 6}
    began = [one.attempt_id for one in journal(tmp_path) if one.what == "began"]
    assert len(began) == len(set(began)) == 6, "what the stale actor had started was waited for, not repeated"


def test_an_outcome_in_the_mailbox_counts_when_nobody_knows_of_the_attempt_any_more(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path, 1, Script(seconds=30.0))
        first = await world.actor()
        living = asyncio.create_task(first.live())
        await until("an attempt runs", lambda: bool(first.snapshot().running))
        events = read_events(f"sqlite:///{tmp_path}/log.db")
        (attempt,) = [one for _, one in events if isinstance(one, AttemptStarted)]
        reported = OutcomeReported(attempt_id=attempt.attempt_id, outcome=outcome(context="c"))
        log = LogClient(world.writer)
        await log.append(f"attempt:{attempt.attempt_id}", 0, [new_event(reported, "mail")], at=time.time())
        forgotten = dict(world.jobs)
        world.jobs.clear()
        await done(await world.actor())
        for job in forgotten.values():
            job.cancel.set()
        first.abandon()
        await living

    asyncio.run(run())
    events = read_events(f"sqlite:///{tmp_path}/log.db")
    (succeeded,) = [one for _, one in events if isinstance(one, AttemptSucceeded)]
    assert succeeded.context == "c"
    assert len([one for _, one in events if isinstance(one, AttemptStarted)]) == 1


def test_a_pull_request_that_a_shorter_timeline_no_longer_names_keeps_its_row(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path, 3, Script(seconds=0.01))
        whole = await world.actor()
        await whole._load()
        world.shorten(2)
        await done(await world.actor())

    asyncio.run(run())
    (repository,) = fold_repositories(read_events(f"sqlite:///{tmp_path}/log.db"))
    assert repository.counts("s") == {"succeeded": 3}


def test_who_tries_a_neighbours_context_is_told_which_tests_failed_where_it_was_verified(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path, 3, Script())
        runner = world.runner.target._bench  # type: ignore[attr-defined]
        ordinary = runner.perform

        def kept(order: WorkOrder, *, cancel: threading.Event) -> Outcome:
            orders.append(order)
            found: Outcome = ordinary(order, cancel=cancel)
            return msgspec.structs.replace(found, context=order.context, blobs={"tests": order.attempt_id})

        runner.perform = kept
        await done(await world.actor())

    orders: list[WorkOrder] = []
    asyncio.run(run())
    events = [one for _, one in read_events(f"sqlite:///{tmp_path}/log.db")]
    verified = {one.issue_number: one.attempt_id for one in events if isinstance(one, AttemptSucceeded)}
    sources = {one.attempt_id: one.source for one in events if isinstance(one, AttemptStarted)}
    told = [(order.known_failures, verified.get(sources[order.attempt_id] or 0)) for order in orders]
    assert told[0] == (None, None), "the template comes from nowhere"
    assert len(told) == 3
    assert all(given == wanted is not None for given, wanted in told[1:])


def test_what_the_cache_knows_is_news_unless_it_is_revoked_or_known(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path, 1, Script())
        actor = await world.actor()
        await done(actor)
        (cached,) = await actor._log.contexts_of("o", "r0")

        def is_news(one: CachedContext) -> bool:
            return bool(import_of(actor._state, [one]).contexts)

        assert not is_news(cached)
        assert is_news(msgspec.structs.replace(cached, issue_number=7))
        revoked = msgspec.structs.replace(cached, revoked_at=1.0, revoked_why="poisoned")
        assert is_news(revoked)
        await actor._decide(ImportContexts(contexts=[imported(revoked)]))
        assert actor._state.revoked == {cached.context: "poisoned"}
        assert not is_news(revoked)
        assert not is_news(msgspec.structs.replace(cached, issue_number=7))

    asyncio.run(run())


def test_stopping_leaves_no_attempt_unmarked_whatever_is_under_way(tmp_path: Path) -> None:
    async def run() -> None:
        world = World(tmp_path, 4, Script(seconds=20.0))
        actor = await world.actor()
        living = asyncio.create_task(actor.live())
        await until("it asks for a slot or has started", lambda: actor._seeker.is_busy or actor._tasks != set())
        await actor.stop(0.0)
        assert not (await living).drained

    asyncio.run(run())
    check_events(read_events(f"sqlite:///{tmp_path}/log.db"))


def test_a_drained_repository_wakes_from_its_snapshot_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.repository.KEEP_DRAINED_EVERY", 1)
    url = f"sqlite:///{tmp_path}/log.db"

    async def run() -> None:
        world = World(tmp_path, 4, Script())
        first = await world.actor()
        await done(first)
        head = first._state.version
        asked: list[tuple[str, int]] = []
        ordinary = world.writer.target.read  # type: ignore[attr-defined]

        async def watched(stream: str, after: int) -> bytes:
            asked.append((stream, after))
            return bytes(await ordinary(stream, after))

        world.writer.target.read = watched  # type: ignore[attr-defined]
        second = await world.actor()
        await done(second)
        assert asked[0] == ("repository:o/r0", head)
        with open_store(url, write=False) as store:
            whole = StreamFold("repository:o/r0")
            whole.take_all(store.log.payloads("repository:o/r0"))
            check(store.log)
        assert first_difference(second._state, whole.state) is None

    asyncio.run(run())


def test_a_snapshot_is_taken_every_so_many_events_and_a_failure_to_is_no_failure(tmp_path: Path) -> None:
    class Broken(LogWriter):
        async def put_snapshot(self, stream: str, version: int, shape: str, state: bytes) -> None:
            raise LogCorrupt(where="snapshots", detail="a test says so")

    async def run(kind: type[LogWriter], path: Path) -> int:
        writer = kind(f"sqlite:///{path}", "test")
        ids = map(str, itertools.count())
        log = LogClient(LocalRef("log", writer))
        stream = StreamWriter(log, "governor", clock=lambda: 1.0, new_id=lambda: next(ids))
        state = await stream.load()
        for number in range(25):
            events = [GovernorClaimed(incarnation=str(number))]
            await stream.append(events)
            governor_machine.evolve(state, events[0])
            await stream.keep(state, every=10)
        snapshot = await log.snapshot("governor")
        await writer.close()
        assert stream.version == 25
        return snapshot.version if snapshot else 0

    assert asyncio.run(run(LogWriter, tmp_path / "good.db")) == 20
    assert asyncio.run(run(Broken, tmp_path / "bad.db")) == 0
