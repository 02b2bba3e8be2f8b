"""The workers and agents' accounts of a virtual sweep, leased through the governor's own machine.

A session takes a worker and a slot of its agent's account, and starts only if the account's limit allows it; a
verification takes a worker. Leases are granted for what is used and released in batches, one a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.simulation.journal import Journal
from actors.simulation.world import World
from events import governor
from events.capacity import next_opening, room_of
from events.commands import Slot
from events.governor import RUNNERS
from events.sessions import EndedSession
from events.types import Account, AttemptStarted, Budget, GovernorClaimed, GovernorEvent, Lease, LeasesGranted

__all__ = ["Offers", "Slots"]

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
                Slot(
                    attempt_id=f"a{name}",
                    lease=f"l{name}",
                    runner=f"{RUNNER}{self._free.pop()}",
                    agent=agent,
                    account=agent,
                    agent_lease=f"l{name}-{agent}" if agent is not None else None,
                )
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
        self._granted: list[Lease] = []
        self._leases: dict[str, list[Lease]] = {}
        self._offered = 0

    def configure(self, now: float) -> None:
        """Records the accounts; the limit of one is the budget that it has in any window."""
        accounts = [Account(name=RUNNERS, slots=self._world.workers)]
        for one in self._world.agents:
            budget = Budget(sessions=one.limit.sessions) if one.limit is not None else Budget()
            window_s = one.limit.per_seconds if one.limit is not None else 0.0
            accounts.append(Account(name=one.name, slots=one.slots, agent=one.name, budget=budget, window_s=window_s))
        self._record([GovernorClaimed(incarnation="simulation"), *governor.configure(self._state, accounts)], now)

    def offer(self, now: float) -> Offers:
        """Every free worker as a slot, and the sessions that each agent may start now."""
        rooms = {one.name: room_of(self._state, one, now) for one in self._state.agents()}
        return Offers(list(self._free), {name: room for name, room in rooms.items() if room > 0}, self._name)

    def next_opening(self, now: float) -> float | None:
        """When an exhausted account may start a session again; ``None`` while no account is exhausted."""
        return next_opening(self._state, now)

    def _name(self) -> str:
        self._offered += 1
        return str(self._offered)

    def take(self, started: AttemptStarted, *, holder: str, now: float) -> None:
        """An attempt starts in an offered slot."""
        slot = int(started.runner.removeprefix(RUNNER))
        del self._free[slot]
        leases = [Lease(lease_id=started.lease, account=RUNNERS, slot=slot, holder=holder, expires_at=now)]
        if started.account is not None and started.agent_lease is not None:
            leases.append(
                Lease(
                    lease_id=started.agent_lease,
                    account=started.account,
                    slot=self._free_of[started.account].pop(),
                    holder=holder,
                    expires_at=now,
                    issue_number=started.issue_number,
                    attempt_id=started.attempt_id,
                    granted_at=now,
                )
            )
        self._leases[started.attempt_id] = leases
        self._granted += leases

    def grant(self, now: float) -> None:
        """Records the leases of what was taken since the last call."""
        if self._granted:
            granted, self._granted = self._granted, []
            self._record([LeasesGranted(leases=granted)], now)

    def release(self, ended: Sequence[AttemptStarted], sessions: Sequence[EndedSession], now: float) -> None:
        """Frees the slots of attempts that have ended, and counts the ends of sessions."""
        leases = [lease for one in ended for lease in self._leases.pop(one.attempt_id)]
        for lease in leases:
            if lease.account == RUNNERS:
                self._free[lease.slot] = None
            else:
                self._free_of[lease.account].append(lease.slot)
        for one in sessions:
            self._record(governor.end_session(self._state, one, now=now, pauses=governor.Pauses()), now)
        self._record(governor.release(self._state, [one.lease_id for one in leases]), now)

    def _record(self, events: list[GovernorEvent], now: float) -> None:
        self._journal.record(STREAM, events, now)
        for event in events:
            governor.evolve(self._state, event)
