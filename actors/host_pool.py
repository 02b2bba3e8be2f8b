"""The hosts of a sweep's repositories, as the supervisor sees them: which repository lives where, and how they stand.

A host that dies comes back by itself, empty; what lived there is asked to live there again, which has it take its
stream over. Calls under way are bounded: one for each repository that lives, one for each host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from loguru import logger

from actors.gateway import ActorGone, Ref
from actors.repository import RepositorySnapshot
from events.errors import HeadraceError
from events.types import RepositoryRows

__all__ = ["HostPool"]

AGAIN_S = 0.25
LOOK_S = 0.5
STOP_S = 7.0
"""Beyond its drain time, what stopping a host may take: Ctrl-C promises 15 s in all."""


class HostPool:
    """See the module. ``spawn`` makes the host of a number, or finds it if it is there."""

    def __init__(self, spawn: Callable[[int], Ref], size: int) -> None:
        self._spawn = spawn
        self._hosts = [spawn(number) for number in range(size)]
        self._where: dict[str, int] = {}
        self._over: list[list[str]] = [[] for _ in self._hosts]

    async def live(self, rows: RepositoryRows) -> RepositorySnapshot | None:
        """Has a repository do all its work on the host with the fewest, again whenever that dies; how it stands then.

        ``None``: its host is stopping.
        """
        name = rows.repository
        load = [0] * len(self._hosts)
        for number in self._where.values():
            load[number] += 1
        number = self._where[name] = load.index(min(load))
        away = False
        try:
            while True:
                over, self._over[number] = self._over[number], []
                try:
                    host = self._hosts[number].labelled(f"repository:{name}")
                    return cast(RepositorySnapshot | None, await host.call("live", rows, over))
                except ActorGone as exc:
                    if not away:
                        logger.info("{}: waits for its host ({})", name, exc)
                    away = True
                    await asyncio.sleep(AGAIN_S)
        finally:
            del self._where[name]
            self._over[number].append(name)

    async def watch(self, show: Callable[[RepositorySnapshot], None]) -> None:
        """Shows how every repository stands that lives, again and again."""
        await asyncio.gather(*(self._watch(number, show) for number in range(len(self._hosts))))

    async def _watch(self, number: int, show: Callable[[RepositorySnapshot], None]) -> None:
        while True:
            try:
                for one in cast(list[RepositorySnapshot], await self._hosts[number].call("snapshots")):
                    if self._where.get(one.repository) == number:
                        show(one)
            except ActorGone:
                self._hosts[number] = self._spawn(number)
            except HeadraceError as exc:
                logger.warning("{} does not tell how its repositories stand: {}", self._hosts[number].name, exc)
            await asyncio.sleep(LOOK_S)

    async def stop(self, drain_s: float) -> None:
        """Stops all repositories and starts none any more."""
        await asyncio.gather(*(self._stop(host, [], drain_s) for host in self._hosts))

    async def stop_one(self, repository: str) -> None:
        """Cancels what a repository that cannot go on has running; it is no longer among those that live."""
        await asyncio.gather(*(self._stop(host, [repository], 0.0) for host in self._hosts))

    async def _stop(self, host: Ref, repositories: list[str], drain_s: float) -> None:
        try:
            async with asyncio.timeout(drain_s + STOP_S):
                await host.call("stop", repositories, drain_s)
        except (HeadraceError, TimeoutError) as exc:
            logger.warning("{} could not be stopped in order: {}", host.name, exc)
