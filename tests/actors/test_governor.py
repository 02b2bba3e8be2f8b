"""The governor: order of grants, expiry, and what becomes of a second one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from actors.governor import RUNNERS, TTL_S, RateLimitGovernor
from actors.log_writer import LogWriter
from events.errors import VersionConflict
from events.types import Account, LeasesExpired
from tests.actors.harness import read_events
from tests.actors.local import Clock, LocalRef


def governor(writer: LocalRef, clock: Clock, slots: int = 2) -> RateLimitGovernor:
    return RateLimitGovernor(writer, [Account(name=RUNNERS, slots=slots)], clock)


def with_log(folder: Path, test: Callable[[LocalRef, Clock], Awaitable[None]]) -> None:
    """Runs ``test`` with a log writer on a real log in ``folder``."""

    async def run() -> None:
        writer = LogWriter(f"sqlite:///{folder}/log.db", "test")
        await asyncio.wait_for(test(LocalRef("log", writer), Clock()), timeout=30)
        await writer.close()

    asyncio.run(run())


def test_one_slot_each_in_turn_so_that_no_holder_starves_another(tmp_path: Path) -> None:
    async def test(writer: LocalRef, clock: Clock) -> None:
        one = governor(writer, clock)
        first = await one.acquire("a", RUNNERS, 2)
        assert [lease.slot for lease in first] == [0, 1]
        waiting = [asyncio.create_task(one.acquire(name, RUNNERS, 2)) for name in ("b", "c")]
        await one.release([lease.lease_id for lease in first])
        granted = await asyncio.gather(*waiting)
        assert [[lease.holder for lease in leases] for leases in granted] == [["b"], ["c"]]
        assert len(await one.held()) == 2

    with_log(tmp_path, test)


def test_a_silent_holders_lease_expires_and_a_late_release_is_harmless(tmp_path: Path) -> None:
    async def test(writer: LocalRef, clock: Clock) -> None:
        one = governor(writer, clock, slots=1)
        (lease,) = await one.acquire("dead", RUNNERS, 1)
        waiting = asyncio.create_task(one.acquire("alive", RUNNERS, 1))
        clock.now += TTL_S / 2
        assert await one.renew("dead", [lease.lease_id]) == [lease.lease_id]
        clock.now += TTL_S * 0.9
        await one.release([])
        assert not waiting.done()
        clock.now += TTL_S * 0.2
        await one.release([])
        (other,) = await waiting
        assert other.slot == lease.slot
        assert await one.renew("dead", [lease.lease_id]) == []
        await one.release([lease.lease_id])
        assert [held.holder for held in await one.held()] == ["alive"]

    with_log(tmp_path, test)
    assert any(isinstance(event, LeasesExpired) for _, event in read_events(f"sqlite:///{tmp_path}/log.db"))


def test_a_new_governor_knows_what_the_old_one_granted_and_the_old_one_can_grant_no_more(tmp_path: Path) -> None:
    async def test(writer: LocalRef, clock: Clock) -> None:
        old = governor(writer, clock)
        (lease,) = await old.acquire("a", RUNNERS, 1)
        new = governor(writer, clock)
        assert await new.held() == [lease]
        (second,) = await new.acquire("b", RUNNERS, 5)
        assert second.slot == 1
        with pytest.raises(VersionConflict):
            await old.acquire("c", RUNNERS, 1)
        with pytest.raises(VersionConflict):
            await old.release([lease.lease_id])

    with_log(tmp_path, test)


def test_a_holder_that_comes_back_frees_what_it_no_longer_knows_of(tmp_path: Path) -> None:
    async def test(writer: LocalRef, clock: Clock) -> None:
        one = governor(writer, clock)
        kept, _ = await one.acquire("a", RUNNERS, 2)
        abandoned = asyncio.create_task(one.acquire("a", RUNNERS, 1))
        await asyncio.sleep(0)
        await one.give_back_all_but("a", [kept.lease_id])
        assert await abandoned == []
        (fresh,) = await one.acquire("b", RUNNERS, 1)
        assert {lease.lease_id for lease in await one.held()} == {kept.lease_id, fresh.lease_id}

    with_log(tmp_path, test)
