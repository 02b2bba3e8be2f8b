"""RateLimitGovernor: the singleton that leases slots of accounts: the runners (account ``docker``), and the agents'.

- *Success*: ``exchange`` returns leases that are in the log. They hold until released, or until their holder has not
  renewed them for ``TTL_S`` seconds.
- *Failure*: a caller that never gets its answer loses nothing: the lease that it does not know of is never renewed.
- *Crash*: the next incarnation folds the stream and claims it; an earlier one that still lives is refused by the log
  at its next grant and answers nobody any more.

Holders ask through desks (:mod:`actors.leasing`), one for all that live in one process. Their wishes for runners are
served in the order of their arrival, one slot each in turn, so that no holder starves another; those for sessions in
the order of how many pull requests they may serve, each with a runner or not at all. Where both wait, they take turns.
All that is given back and granted in one turn is one append.

The end of a session (``ended``) counts once. Of one whose holder has died before it could tell, the outcome in its
mailbox tells, before its lease is free again: so no other session is spent on an account that is known to be exhausted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from random import Random

import msgspec
from loguru import logger

from actors import faults
from actors.gateway import Ref
from actors.ids import new_id
from actors.log_client import LogClient, StreamWriter
from actors.wishes import Asked, Wish, in_turn
from events import governor as machine
from events.account_views import AccountView, account_views
from events.capacity import Outlook, next_opening, outlook
from events.errors import HeadraceError, VersionConflict
from events.governor import RUNNERS
from events.sessions import EndedSession, ended_session
from events.types import Account, Budget, GovernorClaimed, GovernorEvent, Lease

__all__ = ["GOVERNOR", "RUNNERS", "RateLimitGovernor", "Terms", "Wish"]

GOVERNOR = "governor"

NEWS_S = 60.0
"""How long a call for news waits at most."""
TTL_S = 30.0
LINGER_S = 0.003
"""How long the first call of a turn waits for others that share its append."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """Under which terms agents work: the sweep and its budget, and how long a limit pauses an account."""

    sweep: str = ""
    budget: Budget = Budget()
    pauses: machine.Pauses = machine.Pauses()


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
        self,
        writer: Ref,
        accounts: list[Account],
        clock: Callable[[], float] = time.time,
        run: str = "",
        terms: Terms | None = None,
    ) -> None:
        self._accounts, self._clock, self._run_id = accounts, clock, run
        self._terms = terms or Terms()
        self._log = LogClient(writer)
        self._stream = StreamWriter(self._log, GOVERNOR, clock=clock, new_id=new_id)
        self._state = machine.GovernorState()
        self._incarnation = new_id()
        self._after_earlier_run = False
        self._desks: dict[str, _Desk] = {}
        self._claims: dict[str, int] = {}
        self._waiting: dict[tuple[str, int], None] = {}
        self._releases: list[str] = []
        self._ends: list[EndedSession] = []
        self._tellers: list[asyncio.Future[None]] = []
        self._turned = asyncio.Event()
        self._sessions_first = True
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

    async def ended(self, ends: list[EndedSession]) -> None:
        """Counts the ends of sessions, frees their leases, and pauses or opens their accounts: that is in the log when
        this returns, and it may come late and twice."""
        await self._running()
        self._ends += ends
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tellers.append(told)
        self._wake.set()
        await told

    async def news(self, seen: Outlook | None) -> Outlook | None:
        """Why no session is granted now (``None``: one is), once that is not what was ``seen``, or in a minute."""
        await self._running()
        deadline = asyncio.get_running_loop().time() + NEWS_S
        while (found := outlook(self._state, self._clock())) == seen:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._turned.wait()
            except TimeoutError:
                return found
            if self._failure is not None:
                raise self._failure
        return found

    async def accounts(self) -> list[AccountView]:
        """How the agents' accounts stand."""
        await self._running()
        return account_views(self._state, self._clock())

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
                    async with asyncio.timeout(self._until_next_turn()):
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

    def _until_next_turn(self) -> float:
        """Seconds until something is due by time alone."""
        now = self._clock()
        opens_at = next_opening(self._state, now)
        return TTL_S / 6 if opens_at is None else max(0.001, min(TTL_S / 6, opens_at - now))

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
        self._turned.set()
        for told in self._tellers:
            if not told.done():
                told.set_exception(exc)

    async def _start(self) -> None:
        await self._stream.claim(self._incarnation, self._adopt)
        faults.hit(faults.GOVERNOR_CLAIMED)
        if self._after_earlier_run:  # it held the log's lock, which we have now: all its holders are dead
            reason = "their holders ended with an earlier run"
            leases = list(self._state.leases)
            ends = await self._mailboxes(leases)
            await self._record(self._counted(self._state.copy(), ends))
            await self._record([*machine.expire(self._state, leases, reason=reason), *machine.forgive(self._state)])
        terms = self._terms
        await self._record(machine.configure(self._state, self._accounts, sweep=terms.sweep, budget=terms.budget))
        now = self._clock()
        self._renewed = dict.fromkeys(self._state.leases, now)

    async def _adopt(self, state: machine.GovernorState) -> None:
        self._state, self._after_earlier_run = state, state.run != self._run_id
        await self._record([GovernorClaimed(incarnation=self._incarnation, run=self._run_id)])

    async def _turn(self) -> None:
        """Takes back what is over and grants what is free, in one append."""
        faults.hit(faults.GOVERNOR_BEFORE_TURN)
        limit = self._clock() - TTL_S
        silent = [one for one in self._state.leases if self._renewed.get(one, 0.0) < limit]
        releases, self._releases = self._releases, []
        found = await self._mailboxes([*silent, *releases])
        silent = [one for one in silent if one in self._state.leases and self._renewed.get(one, 0.0) < limit]
        ends, self._ends = self._ends, []
        tellers = list(self._tellers)
        await self._take_in([*ends, *found], releases, silent)
        for told in tellers:
            self._tellers.remove(told)
            if not told.done():
                told.set_result(None)
        turned, self._turned = self._turned, asyncio.Event()
        turned.set()

    async def _take_in(self, ends: list[EndedSession], releases: list[str], silent: list[str]) -> None:
        ahead = self._state.copy()
        events = self._counted(ahead, ends)
        events += _evolved(ahead, machine.release(ahead, releases))
        events += _evolved(ahead, machine.expire(ahead, silent, reason=f"not renewed for {TTL_S:.0f} s"))
        if ends:
            faults.hit(faults.GOVERNOR_BEFORE_COUNTING)
        wishes = self._in_turn(ahead)
        granted = machine.grant(ahead, [request for _, _, request in wishes], now=self._clock(), ttl_s=TTL_S)
        await self._record([*events, *granted])
        for lease_id in (*releases, *silent, *(one.lease_id for one in ends)):
            self._renewed.pop(lease_id, None)
        if ends:
            faults.hit(faults.GOVERNOR_COUNTED)
        if granted:
            faults.hit(faults.GOVERNOR_GRANTED)
            self._answer(wishes)

    def _counted(self, ahead: machine.GovernorState, ends: list[EndedSession]) -> list[GovernorEvent]:
        """The events that the ends of sessions come to, which ``ahead`` holds from now on."""
        events: list[GovernorEvent] = []
        for one in ends:
            longest = self._terms.pauses.jitter_s
            jitter_s = Random(one.attempt_id).uniform(0.0, longest)  # noqa: S311 - the same however often it is told
            pauses = msgspec.structs.replace(self._terms.pauses, jitter_s=jitter_s)
            events += _evolved(ahead, machine.end_session(ahead, one, now=self._clock(), pauses=pauses))
        return events

    async def _mailboxes(self, lease_ids: list[str]) -> list[EndedSession]:
        """What the sessions of these leases left in their mailboxes, if their holders could not tell of it."""
        found = []
        for lease in [self._state.leases[one] for one in dict.fromkeys(lease_ids) if one in self._state.leases]:
            known = self._state.accounts.get(lease.account)
            if not lease.attempt_id or known is None or not known.agent or lease.attempt_id in self._state.counted:
                continue
            try:
                outcome = await self._log.reported_outcome(lease.attempt_id)
            except VersionConflict:
                raise
            except HeadraceError as exc:
                logger.warning("governor: the mailbox of {} cannot be read: {}", lease.attempt_id, exc)
                continue
            if outcome is not None and outcome.session is not None:
                found.append(
                    ended_session(
                        outcome.session,
                        attempt_id=lease.attempt_id,
                        account=lease.account,
                        lease_id=lease.lease_id,
                        sweep=self._state.sweep,
                    )
                )
        return found

    def _in_turn(self, state: machine.GovernorState) -> list[Asked]:
        """The requests of all desks that still wait."""
        waiting = [
            (name, self._desks[name].wishes[number])
            for name, number in self._waiting
            if not self._desks[name].answer.done()
        ]
        return in_turn(state, waiting, sessions_first=self._sessions_first, new_id=new_id)

    def _answer(self, wishes: list[Asked]) -> None:
        """Tells each desk what was granted to it; what a desk no longer waits for is free again."""
        now = self._clock()
        answers: dict[str, list[Lease]] = {}
        for name, number, request in wishes:
            granted = [one for one in (request.lease_id, request.beside) if one in self._state.leases]
            if not granted:
                continue
            self._sessions_first = not request.beside
            desk, leases = self._desks[name], [self._state.leases[one] for one in granted]
            if desk.answer.done():
                self._releases += granted
                self._wake.set()
                continue
            self._renewed.update(dict.fromkeys(granted, now))
            answers.setdefault(name, []).extend(leases)
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


def _evolved(state: machine.GovernorState, events: list[GovernorEvent]) -> list[GovernorEvent]:
    """``events``, which ``state`` holds from now on."""
    for event in events:
        machine.evolve(state, event)
    return events
