"""The governor: order of grants, expiry, repeated and crossing exchanges, and what becomes of a second governor."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from actors.governor import RUNNERS, TTL_S, RateLimitGovernor, Wish
from actors.log_client import LogClient, new_event
from actors.log_writer import LogWriter
from events.errors import VersionConflict
from events.governor import KIND_AGENTS
from events.types import Account, Lease, LeasesExpired, LeasesGranted, OutcomeReported
from events.wanting import SessionWanted
from events.work import SessionReport
from tests.actors.harness import read_events
from tests.actors.local import Clock, LocalRef
from tests.events.worlds import outcome


def governor(writer: LocalRef, clock: Clock, slots: int = 2) -> RateLimitGovernor:
    return RateLimitGovernor(writer, [Account(name=RUNNERS, slots=slots)], clock)


def wish(number: int, holder: str, count: int = 1) -> Wish:
    return Wish(number=number, holder=holder, account=RUNNERS, count=count)


async def acquire(one: RateLimitGovernor, holder: str, count: int) -> list[Lease]:
    """The wish of a holder that has a desk of its own."""
    return await one.exchange(f"desk of {holder}", 1, [wish(1, holder, count)], [])


async def release(one: RateLimitGovernor, leases: list[Lease]) -> None:
    """Gives leases back; without any, only has the governor look round."""
    await one.exchange("desk of nobody", 1, [], [lease.lease_id for lease in leases] or ["unknown"])


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
        first = await acquire(one, "a", 2)
        assert [lease.slot for lease in first] == [0, 1]
        waiting = [asyncio.create_task(acquire(one, name, 2)) for name in ("b", "c")]
        await release(one, first)
        granted = await asyncio.gather(*waiting)
        assert [[lease.holder for lease in leases] for leases in granted] == [["b"], ["c"]]
        assert len(await one.held()) == 2

    with_log(tmp_path, test)


def test_a_wish_keeps_its_turn_when_its_desk_asks_anew(tmp_path: Path) -> None:
    async def test(writer: LocalRef, clock: Clock) -> None:
        one = governor(writer, clock, slots=1)
        held = await acquire(one, "a", 1)
        early = asyncio.create_task(one.exchange("d", 1, [wish(1, "early")], []))
        await asyncio.sleep(0)
        late = asyncio.create_task(acquire(one, "late", 1))
        await asyncio.sleep(0)
        again = asyncio.create_task(one.exchange("d", 2, [wish(2, "later"), wish(1, "early")], []))
        assert await early == []
        await release(one, held)
        assert [lease.holder for lease in await again] == ["early"]
        assert not late.done()

    with_log(tmp_path, test)


def test_a_wish_is_fulfilled_once_whatever_crosses_its_answer(tmp_path: Path) -> None:
    async def test(writer: LocalRef, clock: Clock) -> None:
        one = governor(writer, clock)
        mine = wish(1, "a")
        first, repeated = await asyncio.gather(one.exchange("d", 1, [mine], []), one.exchange("d", 1, [mine], []))
        assert first == repeated
        assert [lease.holder for lease in first] == ["a"]
        again = await one.exchange("d", 2, [mine, wish(2, "b")], [])
        assert [lease.holder for lease in again] == ["b"]
        assert await one.exchange("d", 1, [mine], []) == [], "an exchange from before is not looked at"
        assert len(await one.held()) == 2

    with_log(tmp_path, test)


def test_what_is_given_back_and_granted_in_one_turn_is_one_append(tmp_path: Path) -> None:
    async def test(writer: LocalRef, clock: Clock) -> None:
        one = governor(writer, clock)
        held = await acquire(one, "a", 2)
        before = one._stream.version
        appends: list[object] = []
        ordinary = writer.target.append  # type: ignore[attr-defined]

        async def watched(batches: bytes) -> object:
            appends.append(batches)
            return await ordinary(batches)

        writer.target.append = watched  # type: ignore[attr-defined]
        await one.exchange("d", 1, [wish(1, "b"), wish(2, "c")], [lease.lease_id for lease in held])
        assert (len(appends), one._stream.version - before) == (1, 2)

    with_log(tmp_path, test)


def test_a_silent_holders_lease_expires_and_a_late_release_is_harmless(tmp_path: Path) -> None:
    async def test(writer: LocalRef, clock: Clock) -> None:
        one = governor(writer, clock, slots=1)
        (lease,) = await acquire(one, "dead", 1)
        waiting = asyncio.create_task(acquire(one, "alive", 1))
        clock.now += TTL_S / 2
        assert await one.renew({"dead": [lease.lease_id], "alive": [lease.lease_id]}) == [lease.lease_id]
        clock.now += TTL_S * 0.9
        await release(one, [])
        assert not waiting.done()
        clock.now += TTL_S * 0.2
        await release(one, [])
        (other,) = await waiting
        assert other.slot == lease.slot
        assert await one.renew({"dead": [lease.lease_id]}) == []
        await release(one, [lease])
        assert [held.holder for held in await one.held()] == ["alive"]

    with_log(tmp_path, test)
    assert any(isinstance(event, LeasesExpired) for _, event in read_events(f"sqlite:///{tmp_path}/log.db"))


def test_a_new_governor_knows_what_the_old_one_granted_and_the_old_one_can_grant_no_more(tmp_path: Path) -> None:
    async def test(writer: LocalRef, clock: Clock) -> None:
        old = governor(writer, clock)
        (lease,) = await acquire(old, "a", 1)
        new = governor(writer, clock)
        assert await new.held() == [lease]
        (second,) = await acquire(new, "b", 5)
        assert second.slot == 1
        with pytest.raises(VersionConflict):
            await acquire(old, "c", 1)
        with pytest.raises(VersionConflict):
            await release(old, [lease])

    with_log(tmp_path, test)


def test_a_holder_that_comes_back_frees_what_it_no_longer_knows_of_and_no_longer_waits(tmp_path: Path) -> None:
    async def test(writer: LocalRef, clock: Clock) -> None:
        one = governor(writer, clock)
        kept, _ = await acquire(one, "a", 2)
        abandoned = asyncio.create_task(one.exchange("its old desk", 1, [wish(1, "a")], []))
        await asyncio.sleep(0)
        await one.give_back_all_but("a", [kept.lease_id], 7)
        assert await abandoned == []
        (fresh,) = await acquire(one, "b", 1)
        assert {lease.lease_id for lease in await one.held()} == {kept.lease_id, fresh.lease_id}

    with_log(tmp_path, test)


def test_a_holder_whose_stream_a_successor_has_claimed_has_no_say_over_its_leases(tmp_path: Path) -> None:
    async def test(writer: LocalRef, clock: Clock) -> None:
        one = governor(writer, clock)
        await one.give_back_all_but("a", [], 9)
        (lease,) = await acquire(one, "a", 1)
        await one.give_back_all_but("a", [], 7)
        assert await one.held() == [lease]
        await one.give_back_all_but("a", [], 9)
        await acquire(one, "b", 1)
        assert lease not in await one.held()

    with_log(tmp_path, test)


def test_what_is_granted_to_a_desk_that_has_withdrawn_its_wish_is_free_again(tmp_path: Path) -> None:
    async def test(writer: LocalRef, clock: Clock) -> None:
        one = governor(writer, clock, slots=1)
        await one.held()
        granting, granted = asyncio.Event(), asyncio.Event()
        ordinary = writer.target.append  # type: ignore[attr-defined]

        async def slow(batches: bytes) -> object:
            granting.set()
            await granted.wait()
            return await ordinary(batches)

        writer.target.append = slow  # type: ignore[attr-defined]
        first = asyncio.create_task(one.exchange("d", 1, [wish(1, "a")], []))
        await granting.wait()
        assert await one.exchange("d", 2, [], []) == []
        granted.set()
        assert await first == []
        assert [lease.holder for lease in await acquire(one, "b", 1)] == ["b"]

    with_log(tmp_path, test)
    grants = [event for _, event in read_events(f"sqlite:///{tmp_path}/log.db") if isinstance(event, LeasesGranted)]
    assert [lease.holder for event in grants for lease in event.leases] == ["a", "b"]


@pytest.mark.parametrize("how", ["expires", "is given back"])
def test_what_only_the_mailbox_knows_of_a_session_counts_before_its_lease_is_free(tmp_path: Path, how: str) -> None:
    """Its holder died; else another session would be spent on an account that is known to be exhausted."""

    async def test(writer: LocalRef, clock: Clock) -> None:
        accounts = [Account(name=RUNNERS, slots=2), Account(name="claude", slots=1, agent="claude")]
        one = RateLimitGovernor(writer, accounts, clock)
        for_session = msgspec.structs.replace(wish(1, "a"), account=KIND_AGENTS, sessions=(SessionWanted(7, 3),))
        lease, runner = sorted(await one.exchange("d", 1, [for_session], []), key=lambda lease: lease.account)
        assert (runner.account, runner.attempt_id, lease.issue_number) == (RUNNERS, lease.attempt_id, 7)
        report = SessionReport(account="claude", agent="claude", ended="rate_limited", reset_at=clock.now + 3600.0)
        given = msgspec.structs.replace(outcome(verified=False), session=report)
        mail = new_event(OutcomeReported(attempt_id=lease.attempt_id, outcome=given), "mail")
        await LogClient(writer).append(f"attempt:{lease.attempt_id}", 0, [mail], at=clock.now)
        other = msgspec.structs.replace(for_session, holder="b")
        waiting = asyncio.create_task(one.exchange("e", 1, [other], []))
        await asyncio.sleep(0)
        seen = await one.news(None)
        if how == "expires":
            clock.now += TTL_S + 1.0
            await release(one, [])
        else:
            await one.give_back_all_but("a", [])
        found = await one.news(seen)
        assert found is not None
        assert "is paused until" in found.reason
        (view,) = await one.accounts()
        assert (view.used, view.sessions, view.paused_until) == (0, 1, report.reset_at)
        assert not waiting.done()
        waiting.cancel()

    with_log(tmp_path, test)


def test_sessions_are_granted_first_for_what_serves_most_and_take_turns_with_other_work(tmp_path: Path) -> None:
    async def test(writer: LocalRef, clock: Clock) -> None:
        accounts = [Account(name=RUNNERS, slots=1), Account(name="claude", slots=3, agent="claude")]
        one = RateLimitGovernor(writer, accounts, clock)
        held = await acquire(one, "x", 1)
        served: list[str] = []

        async def session(holder: str, unlocks: int) -> None:
            asked = (SessionWanted(1, unlocks),)
            mine = msgspec.structs.replace(wish(1, holder), account=KIND_AGENTS, sessions=asked)
            leases = await one.exchange(f"desk of {holder}", 1, [mine], [])
            served.append(holder)
            await release(one, leases)

        async def other(holder: str) -> None:
            leases = await acquire(one, holder, 1)
            served.append(holder)
            await release(one, leases)

        work = [session("few", 2), other("first"), session("many", 40), other("second")]
        tasks = [asyncio.create_task(each) for each in work]
        await asyncio.sleep(0)
        await release(one, held)
        await asyncio.gather(*tasks)
        assert served in (["many", "first", "few", "second"], ["first", "many", "second", "few"])

    with_log(tmp_path, test)
