"""The workers and agents' accounts of a virtual sweep, leased through the governor's own machine.

A session takes a worker and a slot of its agent's account, and starts only if the account's limit allows it; a
verification takes a worker. Leases are granted for what is used and released in batches, one a moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from actors.simulation.journal import Journal
from actors.simulation.world import World
from events import governor
from events.commands import Slot
from events.types import Account, AttemptStarted, GovernorClaimed, GovernorEvent, Lease, LeasesGranted
from events.work import Stage

__all__ = ["Slots"]

RUNNERS = "docker"
STREAM = "governor"


class Slots:
    """Free and taken slots: ``offer``, then ``take`` for each attempt started, then ``grant``, and ``release``."""

    def __init__(self, world: World, journal: Journal) -> None:
        self._world, self._journal = world, journal
        self._state = governor.GovernorState()
        self._free = list(range(world.workers - 1, -1, -1))
        self._free_of = {one.name: list(range(one.slots - 1, -1, -1)) for one in world.agents}
        self._starts: dict[str, deque[float]] = {one.name: deque() for one in world.agents}
        self._granted: list[Lease] = []
        self._leases: dict[str, list[Lease]] = {}
        self._offered = 0
        self.next_reset: float | None = None

    def configure(self, now: float) -> None:
        """Records the accounts."""
        accounts = [Account(name=RUNNERS, slots=self._world.workers)]
        accounts += [Account(name=one.name, slots=one.slots) for one in self._world.agents]
        self._record([GovernorClaimed(incarnation="simulation"), *governor.configure(self._state, accounts)], now)

    def offer(self) -> list[Slot]:
        """Every free worker as a slot, with agents' capacity at the end; to be taken from the end."""
        slots = []
        for slot in self._free:
            self._offered += 1
            attempt, lease = f"a{self._offered}", f"l{self._offered}"
            slots.append(Slot(attempt_id=attempt, lease=lease, runner=f"runner:{slot}"))
        return self.arm(slots)

    def arm(self, slots: list[Slot]) -> list[Slot]:
        """The same slots with the capacity that agents have now, at the end."""
        agents: list[str] = []
        for one in self._world.agents:
            room = len(self._free_of[one.name])
            if one.limit is not None:
                room = min(room, one.limit.sessions - len(self._starts[one.name]))
            agents += [one.name] * room
        plain = max(0, len(slots) - len(agents))
        armed: list[str | None] = [None] * plain
        armed += agents[: len(slots) - plain]
        return [
            slot if slot.agent == agent else msgspec.structs.replace(slot, agent=agent)
            for slot, agent in zip(slots, armed, strict=True)
        ]

    def take(self, started: AttemptStarted, *, holder: str, now: float) -> None:
        """An attempt starts in an offered slot."""
        slot = int(started.runner.removeprefix("runner:"))
        self._free.remove(slot)
        leases = [Lease(lease_id=started.lease, account=RUNNERS, slot=slot, holder=holder, expires_at=now)]
        agent = started.agent
        if agent is not None and started.stage is Stage.LLM_GENERATE:
            place = self._free_of[agent].pop()
            leases.append(
                Lease(lease_id=f"{started.lease}-{agent}", account=agent, slot=place, holder=holder, expires_at=now)
            )
            self._count(agent, now)
        self._leases[started.attempt_id] = leases
        self._granted += leases

    def grant(self, now: float) -> None:
        """Records the leases of what was taken since the last call."""
        if self._granted:
            granted, self._granted = self._granted, []
            self._record([LeasesGranted(leases=granted)], now)

    def release(self, ended: Sequence[AttemptStarted], now: float) -> None:
        """Frees the slots of attempts that have ended."""
        leases = [lease for one in ended for lease in self._leases.pop(one.attempt_id)]
        for lease in leases:
            free = self._free if lease.account == RUNNERS else self._free_of[lease.account]
            free.append(lease.slot)
        self._record(governor.release(self._state, [one.lease_id for one in leases]), now)

    def reset(self, now: float) -> bool:
        """Forgets sessions that an account's limit no longer counts; whether there were any."""
        found = False
        self.next_reset = None
        for one in self._world.agents:
            starts = self._starts[one.name]
            while one.limit is not None and starts and starts[0] + one.limit.per_seconds <= now:
                starts.popleft()
                found = True
        self._find_reset()
        return found

    def _count(self, agent: str, now: float) -> None:
        if any(one.name == agent and one.limit is not None for one in self._world.agents):
            self._starts[agent].append(now)
            self._find_reset()

    def _find_reset(self) -> None:
        """When an exhausted account may start a session again; ``None`` while no account is exhausted."""
        moments = [
            self._starts[one.name][0] + one.limit.per_seconds
            for one in self._world.agents
            if one.limit is not None and len(self._starts[one.name]) >= one.limit.sessions
        ]
        self.next_reset = min(moments, default=None)

    def _record(self, events: list[GovernorEvent], now: float) -> None:
        self._journal.record(STREAM, events, now)
        for event in events:
            governor.evolve(self._state, event)
