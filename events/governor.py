"""The governor's machine: accounts, their slots, who holds a lease on which, their limits and what they have used.

``evolve`` folds stream ``governor``; ``grant``, ``release``, ``expire`` and ``end_session`` decide. At every version an
account has at most as many leases as slots, each on a slot of its own, and one that is paused has no new lease but the
one that probes it: :func:`evolve` refuses an event that would break this. A release of a lease that is already gone
yields no event, and a session that was counted is not counted again, so late and repeated news are harmless. Leases
are kept in the log, so a governor that starts anew knows what its predecessor granted; renewals are not: a new governor
counts every lease as renewed at its start, and lets it expire if its holder stays silent.

::

    account:  open ──AccountPaused──▶ paused ──(until)──▶ due ──AccountProbed──▶ probing ──AccountReopened──▶ open
                                        ▲                  ▲                         │
                                        │                  └─ the probe told nothing ┤
                                        └───────────── AccountPaused ────────────────┘
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from events.capacity import Room, reached, used_of
from events.errors import IllegalTransition
from events.governor_state import GovernorState, Pause, Spent, Used
from events.sessions import EndedSession
from events.types import (
    Account,
    AccountPaused,
    AccountProbed,
    AccountReopened,
    AccountsConfigured,
    Budget,
    BudgetReached,
    GovernorClaimed,
    GovernorEvent,
    Lease,
    LeasesExpired,
    LeasesGranted,
    LeasesReleased,
    UsageCounted,
)

__all__ = [
    "KIND_AGENTS",
    "RUNNERS",
    "GovernorState",
    "Pauses",
    "Request",
    "configure",
    "end_session",
    "evolve",
    "expire",
    "fold",
    "forgive",
    "grant",
    "release",
]

RUNNERS = "docker"
"""The account whose slots are the runners of a sweep."""
KIND_AGENTS = "agents"
"""Asked for in place of an account: any agent's account that may be used."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A holder's wish for one slot of an account; ``lease_id`` is the id that the lease would get.

    For a session, ``account`` is ``KIND_AGENTS``, and ``beside`` the id of a runner's lease that is granted with it or
    not at all.
    """

    lease_id: str
    account: str
    holder: str
    issue_number: int = 0
    attempt_id: str = ""
    beside: str = ""


class Pauses(msgspec.Struct, frozen=True, kw_only=True):
    """How long an account is paused: ``default_s`` if no reset time is known, else until it and ``jitter_s`` longer."""

    default_s: float = 3600.0
    jitter_s: float = 0.0


def configure(
    state: GovernorState, accounts: Sequence[Account], *, sweep: str = "", budget: Budget | None = None
) -> list[GovernorEvent]:
    """The event that sets these accounts and the sweep's budget, if they are not set already."""
    wanted = AccountsConfigured(accounts=[*accounts], sweep=sweep, budget=budget or Budget())
    same = state.accounts == {one.name: one for one in accounts}
    return [] if same and (state.sweep, state.budget) == (wanted.sweep, wanted.budget) else [wanted]


def forgive(state: GovernorState) -> list[GovernorEvent]:
    """Opens what was refused in an earlier run: somebody may have mended it since."""
    reason = "a new run asks it again"
    return [AccountReopened(account=name, reason=reason) for name, one in state.pauses.items() if one.refused]


def grant(state: GovernorState, requests: Iterable[Request], *, now: float, ttl_s: float) -> list[GovernorEvent]:
    """Leases for as many of ``requests`` as there is room for, in their order, until ``now + ttl_s``."""
    room = Room(state, now)
    probes: list[GovernorEvent] = []
    leases = []

    def lease(lease_id: str, account: str, request: Request) -> Lease:
        return Lease(
            lease_id=lease_id,
            account=account,
            slot=room.take(account, holder=request.holder, issue_number=request.issue_number),
            holder=request.holder,
            expires_at=now + ttl_s,
            issue_number=request.issue_number,
            attempt_id=request.attempt_id,
            granted_at=now if request.attempt_id else 0.0,
        )

    for request in requests:
        if request.account != KIND_AGENTS:
            if room.is_free(request.account):
                leases.append(lease(request.lease_id, request.account, request))
            continue
        if request.beside and not room.is_free(RUNNERS):
            continue
        account = room.choose(request.holder, request.issue_number)
        if account is None:
            continue
        if account in state.pauses:
            probes.append(AccountProbed(account=account, lease_id=request.lease_id))
        leases.append(lease(request.lease_id, account, request))
        if request.beside:
            leases.append(lease(request.beside, RUNNERS, request))
    return [*probes, LeasesGranted(leases=leases)] if leases else []


def release(state: GovernorState, lease_ids: Iterable[str]) -> list[GovernorEvent]:
    """The event that frees those of ``lease_ids`` that are still held."""
    held = [one for one in dict.fromkeys(lease_ids) if one in state.leases]
    return [LeasesReleased(lease_ids=held)] if held else []


def expire(state: GovernorState, lease_ids: Iterable[str], *, reason: str) -> list[GovernorEvent]:
    """The event that takes those of ``lease_ids`` back that are still held."""
    held = [one for one in dict.fromkeys(lease_ids) if one in state.leases]
    return [LeasesExpired(lease_ids=held, reason=reason)] if held else []


def end_session(state: GovernorState, end: EndedSession, *, now: float, pauses: Pauses) -> list[GovernorEvent]:
    """What the end of a session says of its account, and the end of its lease; told again, nothing."""
    events: list[GovernorEvent] = []
    lease = state.leases.get(end.lease_id)
    if end.attempt_id not in state.counted:
        started_at = lease.granted_at if lease is not None and lease.granted_at else end.at or now
        used = UsageCounted(
            account=end.account,
            attempt_id=end.attempt_id,
            at=started_at,
            sweep=end.sweep,
            sessions=end.sessions,
            input_tokens=end.input_tokens,
            output_tokens=end.output_tokens,
            usd=end.usd,
        )
        events = [used, *_reached_by(state, used, now)]
        if end.account in state.accounts:
            events += _told(state, end, now, pauses)
    if lease is not None:
        events.append(LeasesReleased(lease_ids=[lease.lease_id]))
    return events


def _told(state: GovernorState, end: EndedSession, now: float, pauses: Pauses) -> list[GovernorEvent]:
    """Whether an account is paused, or open again, after the end of a session on it."""
    pause = state.pauses.get(end.account)
    probed = pause is not None and pause.probe == end.lease_id
    if end.limited or end.refused:
        met_at = end.at or now
        known = end.reset_at if end.limited else None
        until = max(known, met_at) + pauses.jitter_s if known is not None else met_at + pauses.default_s
        learnt = (
            pause is None
            or probed
            or pause.refused
            or (known is not None and (pause.reset_at is None or known > pause.reset_at))
        )
        if not learnt or until <= now:
            return []
        return [
            AccountPaused(
                account=end.account,
                until=until,
                reason=end.message or ("its limit is reached" if end.limited else "it was refused"),
                attempt_id=end.attempt_id,
                reset_at=known,
                refused=end.refused and not end.limited,
            )
        ]
    if probed and end.answered:
        return [AccountReopened(account=end.account, reason="its probe ended without a limit")]
    return []


def _reached_by(state: GovernorState, used: UsageCounted, now: float) -> list[GovernorEvent]:
    """The budgets of which this session took the last."""
    events: list[GovernorEvent] = []
    tokens, usd = used.input_tokens + used.output_tokens, used.usd or 0.0
    account = state.accounts.get(used.account)
    counts: list[tuple[str, Budget, Used]] = []
    if account is not None and used.sweep == state.sweep:
        counts.append((account.name, account.budget, used_of(state, account, now, under_way=False)))
        spent = state.spent_in_all()
        counts.append(("", state.budget, Used(now, spent.sessions, spent.tokens, spent.usd)))
    for name, budget, before in counts:
        if reached(budget, sessions=before.sessions, tokens=before.tokens, usd=before.usd):
            continue
        over = reached(
            budget, sessions=before.sessions + used.sessions, tokens=before.tokens + tokens, usd=before.usd + usd
        )
        if over is not None:
            what, amount, limit = over
            events.append(BudgetReached(account=name, what=what, spent=amount, limit=limit))
    return events


def evolve(state: GovernorState, event: GovernorEvent) -> GovernorState:
    """Folds one event into ``state``, in place, and returns it.

    Raises:
        IllegalTransition: a lease on a taken or unknown slot or on a paused account, the end of a lease that is not
            held, a second count of one session; the state is unchanged.
    """
    handler = _HANDLERS.get(type(event))
    if handler is None:
        raise _illegal(event, "any", "governor")
    handler(state, event)
    state.version += 1
    return state


def fold(events: Iterable[GovernorEvent]) -> GovernorState:
    """The state after ``events``, from nothing."""
    state = GovernorState()
    for event in events:
        evolve(state, event)
    return state


def _illegal(event: object, state: str, subject: str) -> IllegalTransition:
    return IllegalTransition(machine="governor", state=state, event=type(event).__name__, subject=subject)


def _claimed(state: GovernorState, event: GovernorClaimed) -> None:
    state.incarnation, state.run = event.incarnation, event.run


def _configured(state: GovernorState, event: AccountsConfigured) -> None:
    state.accounts = {one.name: one for one in event.accounts}
    state.sweep, state.budget = event.sweep, event.budget


def _granted(state: GovernorState, event: LeasesGranted) -> None:
    asked: set[tuple[str, int]] = set()
    for one in event.leases:
        place = (one.account, one.slot)
        known = state.accounts.get(one.account)
        in_use = place in asked or one.slot in state.taken.get(one.account, ()) or one.lease_id in state.leases
        if known is None or not 0 <= one.slot < known.slots or in_use:
            raise _illegal(event, "not free", f"slot {one.slot} of {one.account}")
        pause = state.pauses.get(one.account)
        if pause is not None and pause.probe != one.lease_id:
            raise _illegal(event, "paused", f"account {one.account}")
        asked.add(place)
    for one in event.leases:
        state.leases[one.lease_id] = one
        state.taken.setdefault(one.account, set()).add(one.slot)


def _leases_ended(state: GovernorState, event: LeasesReleased | LeasesExpired) -> None:
    for lease_id in event.lease_ids:
        if lease_id not in state.leases:
            raise _illegal(event, "not held", f"lease {lease_id}")
    for lease_id in event.lease_ids:
        lease = state.leases.pop(lease_id)
        state.taken[lease.account].discard(lease.slot)
        pause = state.pauses.get(lease.account)
        if pause is not None and pause.probe == lease_id:
            pause.probe = None


def _paused(state: GovernorState, event: AccountPaused) -> None:
    if event.account not in state.accounts:
        raise _illegal(event, "unknown", f"account {event.account}")
    state.pauses[event.account] = Pause(
        until=event.until, reason=event.reason, reset_at=event.reset_at, refused=event.refused
    )


def _probed(state: GovernorState, event: AccountProbed) -> None:
    pause = state.pauses.get(event.account)
    if pause is None or pause.probe is not None:
        raise _illegal(event, "open" if pause is None else "probing", f"account {event.account}")
    pause.probe = event.lease_id


def _reopened(state: GovernorState, event: AccountReopened) -> None:
    if event.account not in state.pauses:
        raise _illegal(event, "open", f"account {event.account}")
    del state.pauses[event.account]


def _counted(state: GovernorState, event: UsageCounted) -> None:
    if event.attempt_id in state.counted:
        raise _illegal(event, "counted", f"attempt {event.attempt_id}")
    state.counted.add(event.attempt_id)
    spent = state.spent.setdefault(event.sweep, {}).setdefault(event.account, Spent())
    spent.sessions += event.sessions
    spent.input_tokens += event.input_tokens
    spent.output_tokens += event.output_tokens
    spent.usd += event.usd or 0.0
    spent.unpriced += event.sessions if event.usd is None else 0
    account = state.accounts.get(event.account)
    if account is not None and account.window_s > 0:
        recent = state.recent.setdefault(event.account, [])
        insort(
            recent,
            Used(event.at, event.sessions, event.input_tokens + event.output_tokens, event.usd or 0.0),
            key=lambda one: one.at,
        )
        while recent[0].at + account.window_s < event.at:
            del recent[0]


def _budget_reached(state: GovernorState, event: BudgetReached) -> None:
    """For people: what is left is computed from what was counted."""


_HANDLERS: dict[type, Callable[[GovernorState, Any], None]] = {
    GovernorClaimed: _claimed,
    AccountsConfigured: _configured,
    LeasesGranted: _granted,
    LeasesReleased: _leases_ended,
    LeasesExpired: _leases_ended,
    AccountPaused: _paused,
    AccountProbed: _probed,
    AccountReopened: _reopened,
    UsageCounted: _counted,
    BudgetReached: _budget_reached,
}
