"""RateLimitGovernor: the singleton that leases slots of accounts; here, the runners (account ``docker``).

- *Success*: ``exchange`` returns leases that are in the log. They hold until released, or until their holder has not
  renewed them for ``TTL_S`` seconds.
- *Failure*: a caller that never gets its answer loses nothing: the lease that it does not know of is never renewed.
- *Crash*: the next incarnation folds the stream and claims it; an earlier one that still lives is refused by the log
  at its next grant and answers nobody any more.

Holders ask through desks (:mod:`actors.leasing`), one for all that live in one process. Their wishes are served in the
order of their arrival, one slot each in turn, so that no holder starves another; all that is given back and granted in
one turn is one append.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
from loguru import logger

from actors import faults
from actors.gateway import Ref
from actors.ids import new_id
from actors.log_client import LogClient, StreamWriter
from events import governor as machine
from events.errors import VersionConflict
from events.types import Account, GovernorClaimed, GovernorEvent, Lease

__all__ = ["GOVERNOR", "RUNNERS", "RateLimitGovernor", "Wish"]

GOVERNOR = "governor"
RUNNERS = "docker"
"""The account whose slots are the runners of a sweep."""

TTL_S = 30.0
LINGER_S = 0.003
"""How long the first call of a turn waits for others that share its append."""


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What a holder wants: 1..``count`` slots of ``account``. ``number`` tells it from every other wish of its desk."""

    number: int
    holder: str
    account: str
    count: int


class _Desk:
    """The latest exchange of one desk: its wishes that are not fulfilled yet, and who waits for the answer."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.wishes: dict[int, Wish] = {}
        self.fulfilled: set[int] = set()
        self.answer: asyncio.Future[list[Lease]] = asyncio.get_running_loop().create_future()


class RateLimitGovernor:
    """See the module. ``accounts`` and their slots are those of this run, the time for which one driver has the log."""

    def __init__(
        self, writer: Ref, accounts: list[Account], clock: Callable[[], float] = time.time, run: str = ""
    ) -> None:
        self._accounts, self._clock, self._run_id = accounts, clock, run
        self._stream = StreamWriter(LogClient(writer), GOVERNOR, clock=clock, new_id=new_id)
        self._state = machine.GovernorState()
        self._incarnation = new_id()
        self._after_earlier_run = False
        self._desks: dict[str, _Desk] = {}
        self._claims: dict[str, int] = {}
        self._waiting: dict[tuple[str, int], None] = {}
        self._releases: list[str] = []
        self._renewed: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._failure: BaseException | None = None

    def __repr__(self) -> str:
        return "RateLimitGovernor"

    async def exchange(self, desk: str, sequence: int, wishes: list[Wish], releases: list[str]) -> list[Lease]:
        """Gives leases back and waits for new ones: the one call that a desk, which speaks for many holders, repeats.

        Args:
            desk: who asks; its latest exchange counts, an earlier one is answered with nothing.
            sequence: grows with each exchange of a desk. The same one again joins the one that waits.
            wishes: all that its holders wish for now, those of an earlier exchange with their numbers. An answer
                fulfils a wish once, whatever is asked meanwhile: after a lost answer it needs another number.
            releases: leases that are no longer needed; unknown ones are ignored, so it may come late and twice.

        Returns:
            Leases for one or more of the wishes, as soon as there are any; nothing at once without wishes.
        """
        await self._running()
        if releases:
            self._releases += releases
            self._wake.set()
        known = self._desks.get(desk)
        if known is not None and sequence < known.sequence:
            return []
        if known is None or sequence > known.sequence:
            known = self._next_exchange(desk, known, sequence, wishes)
        return await asyncio.shield(known.answer)

    async def renew(self, held: dict[str, list[str]]) -> list[str]:
        """Keeps the leases alive that each holder holds; returns those that still hold."""
        await self._running()
        now = self._clock()
        leases = self._state.leases
        found = [
            one for holder, given in held.items() for one in given if one in leases and leases[one].holder == holder
        ]
        self._renewed.update(dict.fromkeys(found, now))
        return found

    async def give_back_all_but(self, holder: str, lease_ids: list[str], claim: int = 0) -> None:
        """For a holder that has come back or leaves: what it no longer knows of or waits for is free at once. A desk
        that does wait for this holder is answered with nothing, so that it asks again.

        ``claim``: the version at which the holder claimed its stream. One whose stream a successor has claimed since
        may not know of it yet, and has no say over the successor's leases any more.
        """
        await self._running()
        if claim < self._claims.get(holder, 0):
            return
        self._claims[holder] = claim
        keep = set(lease_ids)
        mine = [one.lease_id for one in self._state.leases.values() if one.holder == holder]
        self._releases += [one for one in mine if one not in keep]
        for name, desk in self._desks.items():
            for number in [one.number for one in desk.wishes.values() if one.holder == holder]:
                del desk.wishes[number], self._waiting[(name, number)]
                if not desk.answer.done():
                    desk.answer.set_result([])
        self._wake.set()

    async def held(self) -> list[Lease]:
        """All leases that are out."""
        await self._running()
        return list(self._state.leases.values())

    async def _running(self) -> None:
        if self._loop is None:
            self._loop = asyncio.create_task(self._run())
        await self._started.wait()
        if self._failure is not None:
            raise self._failure

    async def _run(self) -> None:
        try:
            await self._start()
            self._started.set()
            while True:
                await self._turn()
                try:
                    async with asyncio.timeout(TTL_S / 6):
                        await self._wake.wait()
                    await asyncio.sleep(LINGER_S)
                except TimeoutError:
                    continue
                finally:
                    self._wake.clear()
        except VersionConflict as exc:
            logger.warning("governor: another incarnation took over; this one stops ({})", exc)
            self._stop(exc)
        except Exception as exc:
            logger.exception("governor: stops")
            self._stop(exc)

    def _next_exchange(self, name: str, before: _Desk | None, sequence: int, wishes: list[Wish]) -> _Desk:
        """Puts an exchange in the place of the one before it; wishes that were there keep their turn."""
        desk = self._desks[name] = _Desk(sequence)
        if before is not None:
            desk.fulfilled = before.fulfilled & {one.number for one in wishes}
            if not before.answer.done():
                before.answer.set_result([])
        desk.wishes = {one.number: one for one in wishes if one.number not in desk.fulfilled}
        for number in before.wishes if before is not None else ():
            if number not in desk.wishes:
                self._waiting.pop((name, number), None)
        self._waiting.update(dict.fromkeys((name, number) for number in desk.wishes))
        if desk.wishes:
            self._wake.set()
        else:
            desk.answer.set_result([])
        return desk

    def _stop(self, exc: BaseException) -> None:
        self._failure = exc
        self._started.set()
        for desk in self._desks.values():
            if not desk.answer.done():
                desk.answer.set_exception(exc)
        self._desks.clear()

    async def _start(self) -> None:
        await self._stream.claim(self._incarnation, self._adopt)
        faults.hit(faults.GOVERNOR_CLAIMED)
        if self._after_earlier_run:  # it held the log's lock, which we have now: all its holders are dead
            reason = "their holders ended with an earlier run"
            await self._record(machine.expire(self._state, list(self._state.leases), reason=reason))
        await self._record(machine.configure(self._state, self._accounts))
        now = self._clock()
        self._renewed = dict.fromkeys(self._state.leases, now)

    async def _adopt(self, state: machine.GovernorState) -> None:
        self._state, self._after_earlier_run = state, state.run != self._run_id
        await self._record([GovernorClaimed(incarnation=self._incarnation, run=self._run_id)])

    async def _turn(self) -> None:
        """Takes back what is over and grants what is free, in one append."""
        faults.hit(faults.GOVERNOR_BEFORE_TURN)
        releases, self._releases = self._releases, []
        ahead = _copy(self._state)
        events = _evolved(ahead, machine.release(ahead, releases))
        limit = self._clock() - TTL_S
        silent = [one for one in ahead.leases if self._renewed.get(one, 0.0) < limit]
        events += _evolved(ahead, machine.expire(ahead, silent, reason=f"not renewed for {TTL_S:.0f} s"))
        wishes = self._in_turn(ahead)
        granted = machine.grant(ahead, [request for _, _, request in wishes], now=self._clock(), ttl_s=TTL_S)
        await self._record([*events, *granted])
        for lease_id in (*releases, *silent):
            self._renewed.pop(lease_id, None)
        if granted:
            faults.hit(faults.GOVERNOR_GRANTED)
            self._answer(wishes)

    def _in_turn(self, state: machine.GovernorState) -> list[tuple[str, int, machine.Request]]:
        """As many requests for single slots as there are free ones, with desk and number of their wishes: one for each
        wish in turn, in the order of arrival."""
        waiting = [
            (name, self._desks[name].wishes[number])
            for name, number in self._waiting
            if not self._desks[name].answer.done()
        ]
        free = {wish.account: len(state.free_slots(wish.account)) for _, wish in waiting}
        found = []
        for turn in range(max((wish.count for _, wish in waiting), default=0)):
            for name, wish in waiting:
                if turn < wish.count and free[wish.account] > 0:
                    free[wish.account] -= 1
                    request = machine.Request(lease_id=new_id(), account=wish.account, holder=wish.holder)
                    found.append((name, wish.number, request))
        return found

    def _answer(self, wishes: list[tuple[str, int, machine.Request]]) -> None:
        """Tells each desk what was granted to it; what a desk no longer waits for is free again."""
        now = self._clock()
        answers: dict[str, list[Lease]] = {}
        for name, number, request in wishes:
            desk, lease = self._desks[name], self._state.leases[request.lease_id]
            if desk.answer.done():
                self._releases.append(lease.lease_id)
                self._wake.set()
                continue
            self._renewed[lease.lease_id] = now
            answers.setdefault(name, []).append(lease)
            self._waiting.pop((name, number), None)
            desk.wishes.pop(number, None)
            desk.fulfilled.add(number)
        for name, leases in answers.items():
            self._desks[name].answer.set_result(leases)

    async def _record(self, events: list[GovernorEvent]) -> None:
        await self._stream.append(events)
        for event in events:
            machine.evolve(self._state, event)
        await self._stream.keep(self._state)


def _copy(state: machine.GovernorState) -> machine.GovernorState:
    """A state that can go ahead of what is durable."""
    taken = {account: set(slots) for account, slots in state.taken.items()}
    return msgspec.structs.replace(state, leases=dict(state.leases), taken=taken)


def _evolved(state: machine.GovernorState, events: list[GovernorEvent]) -> list[GovernorEvent]:
    """``events``, which ``state`` holds from now on."""
    for event in events:
        machine.evolve(state, event)
    return events
