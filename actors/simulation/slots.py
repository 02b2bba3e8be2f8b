"""The workers and agents' accounts of a virtual sweep, leased through the governor's own machine.

A session takes a worker and a slot of its agent's account, and starts only if the account's limit allows it; a
verification takes a worker. Leases are granted for what is used and released in batches, one a moment.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from actors.simulation.journal import Journal
from actors.simulation.world import World
from events import governor
from events.commands import Slot
from events.types import Account, AttemptStarted, GovernorClaimed, GovernorEvent, Lease, LeasesGranted
from events.work import Stage

__all__ = ["Offers", "Slots"]

RUNNERS = "docker"
RUNNER = "runner:"
STREAM = "governor"


class Offers:
    """Free slots of one moment: ``give`` some, ``take_back`` what was not used. Agents' capacity is given first."""

    def __init__(self, free: list[int], rooms: dict[str, int], name: Callable[[], str]) -> None:
        self._free, self._rooms, self._name = free, rooms, name

    def __len__(self) -> int:
        return len(self._free)

    def give(self, count: int) -> list[Slot]:
        """``count`` slots, the first ones with an agent each, as far as there are any."""
        given = []
        for _ in range(count):
            agent = next(iter(self._rooms), None)
            if agent is not None:
                self._change(agent, -1)
            name = self._name()
            given.append(
                Slot(attempt_id=f"a{name}", lease=f"l{name}", runner=f"{RUNNER}{self._free.pop()}", agent=agent)
            )
        return given

    def take_back(self, given: Sequence[Slot], started: Sequence[AttemptStarted]) -> None:
        """Slots of ``given`` in which nothing was started, and agents' capacity that was not used."""
        used = {one.attempt_id: one.agent for one in started}
        for slot in reversed(given):
            if slot.attempt_id not in used:
                self._free.append(int(slot.runner.removeprefix(RUNNER)))
            if slot.agent is not None and used.get(slot.attempt_id) is None:
                self._change(slot.agent, +1)

    def _change(self, agent: str, by: int) -> None:
        room = self._rooms.get(agent, 0) + by
        if room:
            self._rooms[agent] = room
        else:
            del self._rooms[agent]


class Slots:
    """Free and taken slots: ``offer``, then ``take`` for each attempt started, then ``grant``, and ``release``."""

    def __init__(self, world: World, journal: Journal) -> None:
        self._world, self._journal = world, journal
        self._state = governor.GovernorState()
        self._free = dict.fromkeys(range(world.workers - 1, -1, -1))
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

    def offer(self) -> Offers:
        """Every free worker as a slot, and the sessions that each agent may start now."""
        rooms = {}
        for one in self._world.agents:
            room = len(self._free_of[one.name])
            if one.limit is not None:
                room = min(room, one.limit.sessions - len(self._starts[one.name]))
            if room > 0:
                rooms[one.name] = room
        return Offers(list(self._free), rooms, self._name)

    def _name(self) -> str:
        self._offered += 1
        return str(self._offered)

    def take(self, started: AttemptStarted, *, holder: str, now: float) -> None:
        """An attempt starts in an offered slot."""
        slot = int(started.runner.removeprefix(RUNNER))
        del self._free[slot]
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
            if lease.account == RUNNERS:
                self._free[lease.slot] = None
            else:
                self._free_of[lease.account].append(lease.slot)
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
