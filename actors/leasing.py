"""The desk at which the repositories of one process ask the governor for leases.

All their wishes and everything they give back travel together, so the number of calls does not grow with the number of
repositories: at most ``CALLS`` exchanges are on their way at any time.

- *Success*: ``acquire`` returns leases that are in the log; while their holder is here they are renewed.
- *Failure*: while the governor is away, the desk asks again; what a lost answer granted expires by itself.
- *Crash*: nobody renews what this process held; its repositories' successors give it back before they ask.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from loguru import logger

from actors.gateway import ActorGone, Ref
from actors.governor import Wish
from actors.ids import new_id
from events.errors import HeadraceError
from events.types import Lease

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
        self._joined: dict[str, int] = {}
        self._lost = 0
        self._standing: dict[str, _Standing] = {}
        self._releases: list[str] = []
        self._changed = False
        self._calls: set[asyncio.Task[None]] = set()
        self._sequence = self._number = 0
        self._timer: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None

    def join(self, holder: str, held: Callable[[], list[str]]) -> None:
        """From now on what ``held`` names is renewed for ``holder``."""
        self._holders[holder] = held
        self._joined[holder] = self._lost
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew())

    def leave(self, holder: str) -> bool:
        """Renews nothing more for ``holder`` and withdraws its wish.

        Returns whether every answer has arrived since it joined: if not, it may hold a lease that nobody knows of.
        """
        self._holders.pop(holder, None)
        self.withdraw(holder)
        return self._joined.pop(holder, -1) == self._lost

    def withdraw(self, holder: str) -> None:
        """Takes the wish of ``holder`` back, which is answered with nothing."""
        standing = self._standing.pop(holder, None)
        if standing is not None:
            _answer(standing, [])
            self._soon()

    async def acquire(self, holder: str, account: str, count: int) -> list[Lease]:
        """Waits for 1..``count`` leases on slots of ``account``; none if ``holder`` leaves meanwhile.

        A holder has one wish at a time. Raises what the governor raises.
        """
        self._number += 1
        wish = Wish(number=self._number, holder=holder, account=account, count=count)
        standing = self._standing[holder] = _Standing(wish)
        self._soon()
        try:
            return await standing.answer
        finally:
            if self._standing.get(holder) is standing:  # it was cancelled
                del self._standing[holder]
                self._soon()

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
            for holder, one in self._standing.items():
                self._number += 1
                one.wish = Wish(number=self._number, holder=holder, account=one.wish.account, count=one.wish.count)
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
        by_holder: dict[str, list[Lease]] = {}
        for lease in leases:
            by_holder.setdefault(lease.holder, []).append(lease)
        for holder, given in by_holder.items():
            standing = self._standing.pop(holder, None)
            if standing is None or standing.answer.done():
                self.release([one.lease_id for one in given])
            else:
                _answer(standing, given)

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
