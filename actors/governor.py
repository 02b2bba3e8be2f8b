"""RateLimitGovernor: the singleton that leases slots of accounts; here, the runners (account ``docker``).

- *Success*: ``acquire`` returns leases that are in the log. They hold until released, or until their holder has not
  renewed them for ``ttl_s`` seconds.
- *Failure*: a caller that never gets its answer loses nothing: the lease that it does not know of is never renewed.
- *Crash*: the next incarnation folds the stream and claims it; an earlier one that still lives is refused by the log
  at its next grant and answers nobody any more.

Requests are served in the order of their arrival, one slot each in turn, so that no holder starves another.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from loguru import logger

from actors import faults
from actors.gateway import Ref
from actors.ids import new_id
from actors.log_client import LogClient, StreamWriter
from events import governor as machine
from events.errors import VersionConflict
from events.types import Account, GovernorClaimed, GovernorEvent, Lease

__all__ = ["GOVERNOR", "RUNNERS", "RateLimitGovernor"]

GOVERNOR = "governor"
RUNNERS = "docker"
"""The account whose slots are the runners of a sweep."""

TTL_S = 30.0


class _Request:
    """A caller that waits for up to ``count`` leases."""

    def __init__(self, holder: str, account: str, count: int) -> None:
        self.holder, self.account, self.count = holder, account, count
        self.future: asyncio.Future[list[Lease]] = asyncio.get_running_loop().create_future()


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
        self._requests: deque[_Request] = deque()
        self._releases: list[str] = []
        self._renewed: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._failure: BaseException | None = None

    def __repr__(self) -> str:
        return "RateLimitGovernor"

    async def acquire(self, holder: str, account: str, count: int) -> list[Lease]:
        """Waits until at least one slot of ``account`` is free for ``holder``; returns 1..``count`` leases."""
        await self._running()
        request = _Request(holder, account, count)
        self._requests.append(request)
        self._wake.set()
        return await request.future

    async def release(self, lease_ids: list[str]) -> None:
        """Gives leases back; unknown ones are ignored, so it may come late and twice."""
        await self._running()
        self._releases += lease_ids
        self._wake.set()

    async def renew(self, holder: str, lease_ids: list[str]) -> list[str]:
        """Keeps ``lease_ids`` of ``holder`` alive; returns those that still hold."""
        await self._running()
        now = self._clock()
        held = [one for one in lease_ids if one in self._state.leases and self._state.leases[one].holder == holder]
        self._renewed.update(dict.fromkeys(held, now))
        return held

    async def give_back_all_but(self, holder: str, lease_ids: list[str]) -> None:
        """For a holder that has come back or leaves: what it no longer knows of or waits for is free at once."""
        await self._running()
        for request in self._requests:
            if request.holder == holder and not request.future.done():
                request.future.set_result([])
        keep = set(lease_ids)
        mine = [one.lease_id for one in self._state.leases.values() if one.holder == holder]
        await self.release([one for one in mine if one not in keep])

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

    def _stop(self, exc: BaseException) -> None:
        self._failure = exc
        self._started.set()
        for request in self._requests:
            if not request.future.done():
                request.future.set_exception(exc)
        self._requests.clear()

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
        faults.hit(faults.GOVERNOR_BEFORE_TURN)
        releases, self._releases = self._releases, []
        await self._record(machine.release(self._state, releases))
        for lease_id in releases:
            self._renewed.pop(lease_id, None)
        await self._expire()
        await self._grant()

    async def _expire(self) -> None:
        limit = self._clock() - TTL_S
        silent = [one for one in self._state.leases if self._renewed.get(one, 0.0) < limit]
        await self._record(machine.expire(self._state, silent, reason=f"not renewed for {TTL_S:.0f} s"))

    async def _grant(self) -> None:
        """One slot to each request in turn, until slots or wishes run out."""
        waiting = [one for one in self._requests if not one.future.done()]
        wishes: list[tuple[_Request, machine.Request]] = []
        for turn in range(max((one.count for one in waiting), default=0)):
            wishes += [
                (one, machine.Request(lease_id=new_id(), account=one.account, holder=one.holder))
                for one in waiting
                if turn < one.count
            ]
        events = machine.grant(self._state, [wish for _, wish in wishes], now=self._clock(), ttl_s=TTL_S)
        if not events:
            return
        await self._record(events)
        faults.hit(faults.GOVERNOR_GRANTED)
        now = self._clock()
        granted: dict[_Request, list[Lease]] = {}
        for request, wish in wishes:
            lease = self._state.leases.get(wish.lease_id)
            if lease is not None:
                self._renewed[lease.lease_id] = now
                granted.setdefault(request, []).append(lease)
        for request, leases in granted.items():
            if not request.future.done():
                request.future.set_result(leases)
        self._requests = deque(one for one in self._requests if not one.future.done())

    async def _record(self, events: list[GovernorEvent]) -> None:
        await self._stream.append(events)
        for event in events:
            machine.evolve(self._state, event)
        await self._stream.keep(self._state)
