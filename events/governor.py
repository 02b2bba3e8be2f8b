"""The governor's machine: accounts, their slots, and who holds a lease on which.

``evolve`` folds stream ``governor``; ``grant``, ``release`` and ``expire`` decide. At every version an account has at
most as many leases as slots, each on a slot of its own: :func:`evolve` refuses an event that would break this. A
release of a lease that is already gone yields no event, so late and repeated releases are harmless. Leases are kept
in the log, so a governor that starts anew knows what its predecessor granted; renewals are not: a new governor counts
every lease as renewed at its start, and lets it expire if its holder stays silent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from events.errors import IllegalTransition
from events.types import (
    Account,
    AccountsConfigured,
    GovernorClaimed,
    GovernorEvent,
    Lease,
    LeasesExpired,
    LeasesGranted,
    LeasesReleased,
)

__all__ = ["GovernorState", "Request", "configure", "evolve", "expire", "fold", "grant", "release"]


class GovernorState(msgspec.Struct, kw_only=True):
    """Accounts by name, leases by id, and the taken slots of each account."""

    version: int = 0
    incarnation: str = ""
    run: str = ""
    accounts: dict[str, Account] = msgspec.field(default_factory=dict)
    leases: dict[str, Lease] = msgspec.field(default_factory=dict)
    taken: dict[str, set[int]] = msgspec.field(default_factory=dict)

    def free_slots(self, account: str) -> list[int]:
        """The free slots of an account, lowest first; none for an unknown account."""
        known = self.accounts.get(account)
        taken = self.taken.get(account, set())
        return [slot for slot in range(known.slots if known else 0) if slot not in taken]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A holder's wish for one slot of an account; ``lease_id`` is the id that the lease would get."""

    lease_id: str
    account: str
    holder: str


def configure(state: GovernorState, accounts: Sequence[Account]) -> list[GovernorEvent]:
    """The event that sets these accounts, if they are not set already."""
    return [] if state.accounts == {one.name: one for one in accounts} else [AccountsConfigured(accounts=[*accounts])]


def grant(state: GovernorState, requests: Iterable[Request], *, now: float, ttl_s: float) -> list[GovernorEvent]:
    """Leases for as many of ``requests`` as there are free slots, in their order, until ``now + ttl_s``."""
    free: dict[str, list[int]] = {}
    leases = []
    for request in requests:
        slots = free.setdefault(request.account, state.free_slots(request.account))
        if slots:
            leases.append(
                Lease(
                    lease_id=request.lease_id,
                    account=request.account,
                    slot=slots.pop(0),
                    holder=request.holder,
                    expires_at=now + ttl_s,
                )
            )
    return [LeasesGranted(leases=leases)] if leases else []


def release(state: GovernorState, lease_ids: Iterable[str]) -> list[GovernorEvent]:
    """The event that frees those of ``lease_ids`` that are still held."""
    held = [one for one in dict.fromkeys(lease_ids) if one in state.leases]
    return [LeasesReleased(lease_ids=held)] if held else []


def expire(state: GovernorState, lease_ids: Iterable[str], *, reason: str) -> list[GovernorEvent]:
    """The event that takes those of ``lease_ids`` back that are still held."""
    held = [one for one in dict.fromkeys(lease_ids) if one in state.leases]
    return [LeasesExpired(lease_ids=held, reason=reason)] if held else []


def evolve(state: GovernorState, event: GovernorEvent) -> GovernorState:
    """Folds one event into ``state``, in place, and returns it.

    Raises:
        IllegalTransition: a lease on a taken or unknown slot, or the end of a lease that is not held; the state is
            unchanged.
    """
    handler = _HANDLERS.get(type(event))
    if handler is None:
        raise IllegalTransition(machine="governor", state="any", event=type(event).__name__, subject="governor")
    handler(state, event)
    state.version += 1
    return state


def fold(events: Iterable[GovernorEvent]) -> GovernorState:
    """The state after ``events``, from nothing."""
    state = GovernorState()
    for event in events:
        evolve(state, event)
    return state


def _claimed(state: GovernorState, event: GovernorClaimed) -> None:
    state.incarnation, state.run = event.incarnation, event.run


def _configured(state: GovernorState, event: AccountsConfigured) -> None:
    state.accounts = {one.name: one for one in event.accounts}


def _granted(state: GovernorState, event: LeasesGranted) -> None:
    asked: set[tuple[str, int]] = set()
    for one in event.leases:
        place = (one.account, one.slot)
        known = state.accounts.get(one.account)
        in_use = place in asked or one.slot in state.taken.get(one.account, ()) or one.lease_id in state.leases
        if known is None or not 0 <= one.slot < known.slots or in_use:
            where = f"slot {one.slot} of {one.account}"
            raise IllegalTransition(machine="governor", state="not free", event="LeasesGranted", subject=where)
        asked.add(place)
    for one in event.leases:
        state.leases[one.lease_id] = one
        state.taken.setdefault(one.account, set()).add(one.slot)


def _ended(state: GovernorState, event: LeasesReleased | LeasesExpired) -> None:
    for lease_id in event.lease_ids:
        if lease_id not in state.leases:
            name = type(event).__name__
            raise IllegalTransition(machine="governor", state="not held", event=name, subject=f"lease {lease_id}")
    for lease_id in event.lease_ids:
        lease = state.leases.pop(lease_id)
        state.taken[lease.account].discard(lease.slot)


_HANDLERS: dict[type, Callable[[GovernorState, Any], None]] = {
    GovernorClaimed: _claimed,
    AccountsConfigured: _configured,
    LeasesGranted: _granted,
    LeasesReleased: _ended,
    LeasesExpired: _ended,
}
