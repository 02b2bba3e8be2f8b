"""The desk at which the repositories of one process ask the governor for leases.

All their wishes and everything they give back travel together, so the number of calls does not grow with the number of
repositories: at most ``CALLS`` exchanges are on their way at any time.

- *Success*: ``acquire`` returns leases that are in the log; while their holder is here they are renewed.
- *Failure*: while the governor is away, the desk asks again; what a lost answer granted expires by itself. The ends of
  sessions are told again until the governor has them.
- *Crash*: nobody renews what this process held; its repositories' successors give it back before they ask, and tell all
  ends of sessions that they know of.

While somebody waits for a session, the desk hears from the governor why none is granted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from loguru import logger

from actors.gateway import ActorGone, Ref
from actors.governor import Wish
from actors.ids import new_id
from events.capacity import Outlook
from events.errors import HeadraceError
from events.governor import KIND_AGENTS
from events.sessions import EndedSession
from events.types import Lease
from events.wanting import SessionWanted

__all__ = ["LeaseDesk"]

CALLS = 2
LINGER_S = 0.005
"""How long the first change waits for others: half as many calls for a delay that no build notices (measured)."""
RENEW_S = 5.0
RETRY_S = 0.2


class _Standing:
    """A wish and who waits for it."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.answer: asyncio.Future[list[Lease]] = asyncio.get_running_loop().create_future()


class LeaseDesk:
    """See the module."""

    def __init__(self, governor: Ref) -> None:
        self._governor, self._name = governor, new_id()
        self._holders: dict[str, Callable[[], list[str]]] = {}
        self._heard: dict[str, Callable[[], None]] = {}
        self._joined: dict[str, int] = {}
        self._lost = 0
        self._standing: dict[tuple[str, str], _Standing] = {}
        self._ends: dict[str, EndedSession] = {}
        self._telling: asyncio.Task[None] | None = None
        self._listening: asyncio.Task[None] | None = None
        self._outlook: Outlook | None = None
        self._releases: list[str] = []
        self._changed = False
        self._calls: set[asyncio.Task[None]] = set()
        self._sequence = self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None

    def join(self, holder: str, held: Callable[[], list[str]], heard: Callable[[], None] = lambda: None) -> None:
        """From now on what ``held`` names is renewed for ``holder``; ``heard`` is called when ``outlook`` has changed
        while it waits for a session."""
        self._holders[holder] = held
        self._heard[holder] = heard
        self._joined[holder] = self._lost
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew())

    def leave(self, holder: str) -> bool:
        """Renews nothing more for ``holder`` and withdraws its wishes.

        Returns whether every answer has arrived since it joined: if not, it may hold a lease that nobody knows of.
        """
        self._holders.pop(holder, None)
        self._heard.pop(holder, None)
        self.withdraw(holder)
        return self._joined.pop(holder, -1) == self._lost

    def withdraw(self, holder: str, account: str | None = None) -> None:
        """Takes the wish of ``holder`` for ``account`` back, which is answered with nothing; all of them by default."""
        for key in [one for one in self._standing if one[0] == holder and account in (None, one[1])]:
            _answer(self._standing.pop(key), [])
            self._soon()

    async def acquire(
        self, holder: str, account: str, count: int, sessions: tuple[SessionWanted, ...] = ()
    ) -> list[Lease]:
        """Waits for 1..``count`` leases on slots of ``account``; none if ``holder`` leaves meanwhile.

        For ``sessions``, with account ``agents``, they come in pairs: a runner's, and an account's. A holder has one
        wish for an account at a time. Raises what the governor raises.
        """
        self._number += 1
        wish = Wish(number=self._number, holder=holder, account=account, count=count, sessions=sessions)
        key = (holder, account)
        standing = self._standing[key] = _Standing(wish)
        self._soon()
        if account == KIND_AGENTS and self._listening is None:
            self._listening = asyncio.create_task(self._listen())
        try:
            return await standing.answer
        finally:
            if self._standing.get(key) is standing:  # it was cancelled
                del self._standing[key]
                self._soon()

    @property
    def outlook(self) -> Outlook | None:
        """Why no session is granted now, as far as the governor has told since somebody waits for one."""
        return self._outlook

    def tell(self, ends: list[EndedSession]) -> None:
        """Has the governor know of ends of sessions, as soon as it can be reached."""
        self._ends.update((one.attempt_id, one) for one in ends)
        if self._ends and self._telling is None:
            self._telling = asyncio.create_task(self._tell())

    async def told(self, timeout_s: float) -> None:
        """Waits until the governor knows of every end, for at most ``timeout_s`` seconds."""
        if self._telling is not None:
            await asyncio.wait([self._telling], timeout=timeout_s)

    def release(self, lease_ids: list[str]) -> None:
        """Gives leases back, as soon as the governor can be reached."""
        if lease_ids:
            self._releases += lease_ids
            self._soon()

    async def give_back_all_but(self, holder: str, lease_ids: list[str], claim: int) -> None:
        """As the governor's method of that name; waits until it is done."""
        while True:
            try:
                await self._governor.call("give_back_all_but", holder, lease_ids, claim)
            except ActorGone:
                await asyncio.sleep(RETRY_S)
            else:
                return

    def _soon(self) -> None:
        self._changed = True
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LINGER_S, self._ask)

    def _ask(self) -> None:
        """Sends an exchange if something has changed or somebody still waits, and a call is free."""
        self._timer = None
        if len(self._calls) >= CALLS or not (self._changed or (self._standing and not self._calls)):
            return
        self._changed = False
        self._sequence += 1
        releases, self._releases = self._releases, []
        call = self._exchange(self._sequence, [one.wish for one in self._standing.values()], releases)
        self._calls.add(asyncio.create_task(call))

    async def _exchange(self, sequence: int, wishes: list[Wish], releases: list[str]) -> None:
        try:
            leases: list[Lease] = await self._governor.call("exchange", self._name, sequence, wishes, releases)
        except ActorGone:
            self._lost += 1
            self._releases += releases
            self._changed = True
            for one in self._standing.values():
                self._number += 1
                one.wish = msgspec.structs.replace(one.wish, number=self._number)
            await asyncio.sleep(RETRY_S)
        except Exception as exc:
            standing, self._standing = self._standing, {}
            for one in standing.values():
                _answer(one, exc)
        else:
            self._deliver(leases)
        finally:
            task = asyncio.current_task()
            if task is not None:
                self._calls.discard(task)
            self._ask()

    def _deliver(self, leases: list[Lease]) -> None:
        by_wish: dict[tuple[str, str], list[Lease]] = {}
        for lease in leases:
            account = KIND_AGENTS if lease.attempt_id else lease.account
            by_wish.setdefault((lease.holder, account), []).append(lease)
        for key, given in by_wish.items():
            standing = self._standing.pop(key, None)
            if standing is None or standing.answer.done():
                self.release([one.lease_id for one in given])
            else:
                _answer(standing, given)

    async def _tell(self) -> None:
        try:
            while self._ends:
                ends = list(self._ends.values())
                try:
                    await self._governor.call("ended", ends)
                except HeadraceError as exc:
                    logger.debug("the governor is not told of {} ends yet: {}", len(ends), exc)
                    await asyncio.sleep(RETRY_S)
                    continue
                for one in ends:
                    if self._ends.get(one.attempt_id) is one:
                        del self._ends[one.attempt_id]
        finally:
            self._telling = None

    async def _listen(self) -> None:
        try:
            while any(account == KIND_AGENTS for _, account in self._standing):
                try:
                    found: Outlook | None = await self._governor.call("news", self._outlook)
                except HeadraceError:
                    await asyncio.sleep(RETRY_S)
                    continue
                if found != self._outlook:
                    self._outlook = found
                    for holder, account in list(self._standing):
                        if account == KIND_AGENTS and holder in self._heard:
                            self._heard[holder]()
        finally:
            self._listening, self._outlook = None, None

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            held = {holder: ids for holder, held_by in self._holders.items() if (ids := held_by())}
            if not held:
                continue
            try:
                await self._governor.call("renew", held)
            except HeadraceError as exc:
                logger.warning("leases could not be renewed: {}", exc)


def _answer(standing: _Standing, what: list[Lease] | Exception) -> None:
    if standing.answer.done():
        return
    if isinstance(what, Exception):
        standing.answer.set_exception(what)
    else:
        standing.answer.set_result(what)
