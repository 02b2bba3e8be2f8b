"""How a repository's actor asks for what it would use, and never for more than that: runners, and sessions.

Two wishes at most stand at the desk at any time: one for runners, one for sessions. The latter names pull requests;
when others are wanted it is withdrawn and made anew. What is granted is handed to ``fill``; until that has returned
nothing further of its kind is asked for, so that nothing is asked for twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from actors import faults
from actors.governor import RUNNERS
from actors.leasing import LeaseDesk
from events.capacity import Outlook
from events.governor import KIND_AGENTS
from events.types import Lease
from events.wanting import SessionWanted, Wanted

__all__ = ["Seeker"]

PATIENCE_S = 1.0
"""How long a wish for a session stands before the pull requests are said to wait for it."""


class Seeker:
    """See the module. ``failed`` hears why a wish could not be fulfilled at all; ``wake`` that one is over."""

    def __init__(
        self,
        desk: LeaseDesk,
        holder: str,
        *,
        fill: Callable[[list[Lease]], Awaitable[None]],
        failed: Callable[[Exception], None],
        wake: Callable[[], None],
    ) -> None:
        self._desk, self._holder, self._fill, self._failed, self._wake = desk, holder, fill, failed, wake
        self._runners: asyncio.Task[None] | None = None
        self._sessions: asyncio.Task[None] | None = None
        self._asked: tuple[SessionWanted, ...] = ()
        self._filling = False
        self._since = 0.0

    @property
    def is_busy(self) -> bool:
        """Whether a wish stands, or what was granted is being put to use."""
        return self._runners is not None or self._sessions is not None

    @property
    def is_seeking_runners(self) -> bool:
        """Whether a wish for runners stands, or is being put to use."""
        return self._runners is not None

    def seek(self, want: Wanted, *, most: int) -> None:
        """Sees to it that the wishes that stand are for what is wanted, for at most ``most`` runners."""
        if want.runners and self._runners is None:
            self._runners = asyncio.create_task(self._seek_runners(min(want.runners, most)))
        if self._sessions is None:
            if want.sessions:
                self._asked, self._since = want.sessions, asyncio.get_running_loop().time()
                self._sessions = asyncio.create_task(self._seek_sessions(want.sessions))
        elif want.sessions != self._asked and not self._filling:
            self._desk.withdraw(self._holder, KIND_AGENTS)

    def refusal(self) -> tuple[Outlook | None, float]:
        """Why no session is granted, if one has been wished for long enough to say so; and seconds until then."""
        if self._sessions is None or self._filling or self._desk.outlook is None:
            return None, 0.0
        left = self._since + PATIENCE_S - asyncio.get_running_loop().time()
        return (self._desk.outlook, 0.0) if left <= 0 else (None, left)

    def withdraw(self) -> None:
        """Takes all wishes back; what was granted already is still put to use."""
        self._desk.withdraw(self._holder)

    async def settle(self, timeout_s: float) -> None:
        """Waits, at most so many seconds, until what was granted has been put to use."""
        tasks = [one for one in (self._runners, self._sessions) if one is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    def cancel(self) -> None:
        """Ends all of it at once."""
        for one in (self._runners, self._sessions):
            if one is not None:
                one.cancel()
        self._runners = self._sessions = None

    async def _seek_runners(self, count: int) -> None:
        try:
            leases = await self._desk.acquire(self._holder, RUNNERS, count)
            faults.hit(faults.REPOSITORY_LEASED)
            await self._fill(leases)
        except Exception as exc:
            self._failed(exc)
        finally:
            self._runners = None
            self._wake()

    async def _seek_sessions(self, sessions: tuple[SessionWanted, ...]) -> None:
        try:
            leases = await self._desk.acquire(self._holder, KIND_AGENTS, len(sessions), sessions)
            self._filling = True
            if leases:
                faults.hit(faults.REPOSITORY_LEASED_AGENT)
                await self._fill(leases)
        except Exception as exc:
            self._failed(exc)
        finally:
            self._sessions, self._filling = None, False
            self._wake()
