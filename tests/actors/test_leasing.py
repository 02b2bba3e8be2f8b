"""The desk for leases: what travels together, and what becomes of lost answers and withdrawn wishes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from actors import leasing
from actors.gateway import ActorGone
from actors.governor import GOVERNOR, RUNNERS, RateLimitGovernor
from actors.leasing import LeaseDesk
from actors.log_writer import LogWriter
from events.errors import VersionConflict
from events.types import Account
from tests.actors.local import Clock, LocalRef


class Line(LocalRef):
    """The way to a governor: counts exchanges and can lose requests, answers, or raise."""

    def __init__(self, slots: int) -> None:
        writer = LocalRef("log", LogWriter("memory:", "test"))
        governor = RateLimitGovernor(writer, [Account(name=RUNNERS, slots=slots)], Clock())
        super().__init__(GOVERNOR, governor)
        self.governor = governor
        self.exchanges = self.under_way = 0
        self.open = asyncio.Event()
        self.open.set()
        self.lose_answers = 0
        self.error: Exception | None = None

    async def call(self, method: str, *args: object) -> Any:
        if method != "exchange":
            return await super().call(method, *args)
        self.exchanges += 1
        self.under_way += 1
        try:
            await self.open.wait()
            if self.error is not None:
                raise self.error
            answer = await super().call(method, *args)
        finally:
            self.under_way -= 1
        if self.lose_answers:
            self.lose_answers -= 1
            raise ActorGone("governor: the connection broke")
        return answer


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.001)


def run(test: Callable[[], Coroutine[Any, Any, None]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leasing, "RETRY_S", 0.001)
    asyncio.run(asyncio.wait_for(test(), 30))


def test_the_wishes_and_releases_of_many_repositories_travel_together(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        line = Line(slots=8)
        desk = LeaseDesk(line)

        async def work(holder: str) -> None:
            for _ in range(5):
                leases = await desk.acquire(holder, RUNNERS, 1)
                desk.release([one.lease_id for one in leases])

        await asyncio.gather(*(work(f"repository:{number}") for number in range(40)))
        assert line.exchanges < 40 * 5, "fewer calls than leases"

    run(test, monkeypatch)


def test_however_slow_the_governor_is_two_exchanges_are_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(leasing, "LINGER_S", 0.0)
        line = Line(slots=20)
        line.open.clear()
        desk = LeaseDesk(line)
        wishes = []
        for number in range(20):
            wishes.append(asyncio.create_task(desk.acquire(f"repository:{number}", RUNNERS, 1)))
            await asyncio.sleep(0.001)
        assert line.under_way == 2
        line.open.set()
        assert {lease.slot for leases in await asyncio.gather(*wishes) for lease in leases} == set(range(20))

    run(test, monkeypatch)


def test_a_lost_answer_is_asked_for_again_with_another_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        line = Line(slots=2)
        line.lose_answers = 1
        (lease,) = await LeaseDesk(line).acquire("repository:a", RUNNERS, 1)
        assert lease.slot == 1, "the first one is out with nobody, until it expires or its holder comes back"
        assert len(await line.governor.held()) == 2

    run(test, monkeypatch)


def test_a_release_is_repeated_until_the_governor_has_heard_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        line = Line(slots=1)
        desk = LeaseDesk(line)
        (lease,) = await desk.acquire("repository:a", RUNNERS, 1)
        line.error = ActorGone("governor: away")
        desk.release([lease.lease_id])
        await until(lambda: line.exchanges >= 4)
        line.error = None
        (again,) = await desk.acquire("repository:b", RUNNERS, 1)
        assert again.slot == lease.slot

    run(test, monkeypatch)


def test_what_comes_for_a_withdrawn_wish_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        line = Line(slots=1)
        desk = LeaseDesk(line)
        (lease,) = await desk.acquire("repository:a", RUNNERS, 1)
        waiting = asyncio.create_task(desk.acquire("repository:b", RUNNERS, 1))
        cancelled = asyncio.create_task(desk.acquire("repository:c", RUNNERS, 1))
        await until(lambda: line.exchanges >= 2)
        desk.release([lease.lease_id])
        desk.leave("repository:b")
        cancelled.cancel()
        assert await waiting == []
        (other,) = await desk.acquire("repository:d", RUNNERS, 1)
        assert [one.lease_id for one in await line.governor.held()] == [other.lease_id]

    run(test, monkeypatch)


def test_an_error_of_the_governor_reaches_everybody_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        line = Line(slots=1)
        line.error = VersionConflict(stream="governor", expected=1, actual=2)
        desk = LeaseDesk(line)
        found = await asyncio.gather(
            *(desk.acquire(f"repository:{name}", RUNNERS, 1) for name in "ab"), return_exceptions=True
        )
        assert [type(one) for one in found] == [VersionConflict, VersionConflict]

    run(test, monkeypatch)


def test_only_what_a_holder_holds_while_it_is_here_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr(leasing, "RENEW_S", 0.001)
        line = Line(slots=2)
        renewed: list[dict[str, list[str]]] = []

        async def renew(held: dict[str, list[str]]) -> list[str]:
            renewed.append(held)
            return []

        monkeypatch.setattr(line.governor, "renew", renew)
        desk = LeaseDesk(line)
        desk.join("repository:a", lambda: ["1"])
        desk.join("repository:b", lambda: ["2"])
        desk.join("repository:idle", list)
        await until(lambda: renewed != [])
        assert renewed[0] == {"repository:a": ["1"], "repository:b": ["2"]}
        desk.leave("repository:b")
        seen = len(renewed)
        await until(lambda: len(renewed) >= seen + 2)
        assert renewed[-1] == {"repository:a": ["1"]}

    run(test, monkeypatch)
