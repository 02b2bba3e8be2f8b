"""Hosts of repositories and their pool: what they share, what they do not, and what becomes of a host that dies."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from actors import host_pool
from actors.admission import rows_to_bytes
from actors.gateway import ActorGone, Ref
from actors.governor import GOVERNOR, RUNNERS, RateLimitGovernor
from actors.host import RepositoryHost
from actors.host_pool import HostPool
from actors.log_client import LogClient
from actors.log_writer import LogWriter
from actors.repository import RepositoryConfig, RepositorySnapshot
from events.types import Account, RepositoryRows
from events.work import CascadePolicy, Outcome, VerificationRules, WorkOrder
from tests.actors.harness import rows
from tests.actors.local import LocalRef
from tests.events.worlds import STOCK, outcome


class Runner:
    """Verifies at once, or not before it is cancelled."""

    def __init__(self) -> None:
        self.waits = False
        self.began, self.cancelled = asyncio.Event(), asyncio.Event()

    async def perform(self, order: WorkOrder, over: list[str]) -> Outcome:
        self.began.set()
        if self.waits:
            await self.cancelled.wait()
        return msgspec.structs.replace(outcome(context=order.context), cancelled=self.cancelled.is_set())

    async def knows(self, attempt_id: str) -> bool:
        return False

    async def end_attempt(self, attempt_id: str) -> None:
        return None

    async def salvage(self, attempt_id: str) -> dict[str, str]:
        return {}

    async def cancel(self, attempt_ids: list[str]) -> None:
        self.cancelled.set()


class World:
    """One host with a log, a governor and one runner."""

    def __init__(self) -> None:
        writer = LocalRef("log", LogWriter("memory:", "test"))
        self.log, self.runner = LogClient(writer), Runner()
        self.config = RepositoryConfig(
            log_id="l",
            sweep="s",
            rules=VerificationRules(),
            policy=CascadePolicy(stock_context=STOCK),
            writer=writer,
            governor=LocalRef(GOVERNOR, RateLimitGovernor(writer, [Account(name=RUNNERS, slots=2)])),
            runners=[LocalRef("runner:0", self.runner), LocalRef("runner:1", self.runner)],
        )
        self.host = RepositoryHost("h", self.config)

    async def rows(self, repo: str) -> RepositoryRows:
        given = [msgspec.structs.replace(one, repo=repo) for one in rows(1, 2)]
        blob = await self.log.put_blob(rows_to_bytes(given))
        return RepositoryRows(repository=f"o/{repo}", rows=blob, pull_requests=2)


def test_a_repository_that_cannot_go_on_does_not_touch_the_others_of_its_host() -> None:
    async def run() -> None:
        world = World()
        lost = RepositoryRows(repository="o/lost", rows="0" * 64, pull_requests=2)
        good, bad = await asyncio.gather(world.host.live(await world.rows("good")), world.host.live(lost))
        assert good is not None
        assert bad is not None
        assert (good.drained, good.counts) == (True, {"succeeded": 2})
        assert (bad.drained, "0" * 64 in bad.failure) == (False, True)

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_repository_asked_for_twice_lives_once_and_its_successor_takes_it_over() -> None:
    async def run() -> None:
        world = World()
        world.runner.waits = True
        given = await world.rows("r")
        first = [asyncio.create_task(world.host.live(given)) for _ in range(2)]
        await world.runner.began.wait()
        assert [one.repository for one in await world.host.snapshots()] == ["o/r"]
        world.runner.waits = False
        successor = await world.host.live(given, ["o/r"])
        assert successor is not None
        assert successor.counts == {"succeeded": 2}
        left = await asyncio.gather(*first)
        assert [one.drained for one in left if one is not None] == [False, False]

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_host_that_has_stopped_starts_no_repository_any_more() -> None:
    async def run() -> None:
        world = World()
        world.runner.waits = True
        living = asyncio.create_task(world.host.live(await world.rows("r")))
        await world.runner.began.wait()
        await world.host.stop([], 0.0)
        assert await world.host.live(await world.rows("late")) is None
        (found,) = await world.host.snapshots()
        assert (found.drained, found.running) == (False, []), "what ran is marked in the log when it has stopped"
        await living

    asyncio.run(asyncio.wait_for(run(), 30))


class Dying(Ref):
    """A host whose process dies under its first calls."""

    def __init__(self, number: int, deaths: int, calls: list[tuple[int, object]]) -> None:
        super().__init__(f"repositories:{number}", object())
        self.number, self.deaths, self.calls = number, deaths, calls

    async def call(self, method: str, *args: Any) -> Any:
        self.calls.append((self.number, args))
        if len(self.calls) <= self.deaths:
            raise ActorGone("its process ended")
        return RepositorySnapshot(
            repository=args[0].repository,
            counts={},
            running=[],
            drained=True,
            attempts_ended=0,
            infra_streak=0,
            infra_until=0.0,
        )


def test_what_lived_in_a_host_that_died_is_asked_to_live_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_pool, "AGAIN_S", 0.0)
    calls: list[tuple[int, object]] = []
    given = RepositoryRows(repository="o/r", rows="r", pull_requests=1)
    pool = HostPool(lambda number: Dying(number, 3, calls), 2)
    found = asyncio.run(asyncio.wait_for(pool.live(given), 30))
    assert found is not None
    assert found.drained
    assert calls == [(0, (given, []))] * 4


def test_repositories_go_to_the_host_with_the_fewest() -> None:
    class Slow(Dying):
        async def call(self, method: str, *args: Any) -> Any:
            found = await super().call(method, *args)
            await asyncio.sleep(0.01)
            return found

    async def run() -> list[int]:
        calls: list[tuple[int, object]] = []
        pool = HostPool(lambda number: Slow(number, 0, calls), 3)
        given = [RepositoryRows(repository=f"o/r{one}", rows="r", pull_requests=1) for one in range(6)]
        await asyncio.gather(*(pool.live(one) for one in given))
        return [number for number, _ in calls]

    assert asyncio.run(asyncio.wait_for(run(), 30)) == [0, 1, 2, 0, 1, 2]
