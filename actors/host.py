"""RepositoryHost: the process in which repository actors live, several at a time, one after the other.

A process costs a second of CPU to start and memory to keep, a repository actor in it next to nothing: so a sweep of
1,000 repositories has a handful of hosts. Each repository stays on its own: its stream, its claim, its failures. What
they share is the way out: appends, leases and news for runners that are due at the same time travel together.

- *Success*: ``live`` returns when nothing is left to do for a repository.
- *Failure*: a repository that cannot go on says so in its snapshot; the others of its host do not notice.
- *Crash*: all repositories of a host die with it. ``live``, called again, has each take its stream over and go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from actors.repository import Means, RepositoryActor, RepositoryConfig, RepositorySnapshot
from events.types import RepositoryRows

__all__ = ["RepositoryHost"]


class RepositoryHost:
    """See the module. ``live`` and ``snapshots`` may be repeated."""

    def __init__(self, name: str, config: RepositoryConfig, clock: Callable[[], float] = time.time) -> None:
        self._name, self._config, self._clock = name, config, clock
        self._means: Means | None = None
        self._actors: dict[str, RepositoryActor] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"RepositoryHost({self._name})"

    async def live(self, rows: RepositoryRows, over: Sequence[str] = ()) -> RepositorySnapshot | None:
        """Has a repository do all its work, or joins it; how it stands at its end.

        Args:
            rows: the repository.
            over: repositories that are to be forgotten first. One that still works, or this one, is left as it is: its
                successor takes its stream over.

        Returns:
            ``None`` if this host is stopping and the repository was not here.
        """
        for repository in over:
            left = self._actors.pop(repository, None)
            if left is not None:
                left.abandon()
        actor = self._actors.get(rows.repository)
        if actor is None:
            if self._closed:
                return None
            if self._means is None:
                self._means = Means(self._config)
            actor = self._actors[rows.repository] = RepositoryActor(rows, self._config, self._means, self._clock)
        return await actor.live()

    async def snapshots(self) -> list[RepositorySnapshot]:
        """How all repositories stand that are here."""
        return [one.snapshot() for one in self._actors.values()]

    async def stop(self, repositories: list[str], drain_s: float) -> None:
        """Stops some repositories, each as :meth:`RepositoryActor.stop`; all, for good, if none is named."""
        self._closed = self._closed or not repositories
        chosen = [self._actors[one] for one in repositories or self._actors if one in self._actors]
        await asyncio.gather(*(one.stop(drain_s) for one in chosen))
