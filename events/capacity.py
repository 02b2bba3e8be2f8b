"""How many sessions may be granted now, on which account, and if none: why, and until when. Pure and read-only.

An account grants what its slots, its pause and its budget leave, and all of them together what the sweep's budget
leaves. Sessions under way count as sessions already; their tokens and money are known only at their ends, so a budget
of these may be exceeded by what is under way when it is reached.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from events.governor_events import Account, Budget
from events.governor_state import GovernorState, Used

__all__ = ["Outlook", "Room", "next_opening", "outlook", "reached", "room_of", "used_of"]


class Outlook(msgspec.Struct, frozen=True, kw_only=True):
    """Why no session is granted now. ``until``: POSIX seconds at which that may change by itself, if that is known;
    ``never``: not in this run, whatever happens."""

    reason: str
    until: float | None = None
    never: bool = False


class Room:
    """What may be granted at one moment, counted down as it is granted."""

    def __init__(self, state: GovernorState, now: float) -> None:
        self._pauses = state.pauses
        self._order = [one.name for one in state.agents()]
        self.slots = {name: state.free_slots(name) for name in state.accounts}
        self._left = {one.name: room_of(state, one, now) for one in state.agents()}
        self._all = _sweep_left(state)
        self._racing = {
            (one.holder, one.issue_number, one.account) for one in state.leases.values() if one.issue_number
        }

    @property
    def sessions(self) -> int:
        """How many sessions may be granted in all."""
        total = sum(self._left.values())
        return total if self._all is None else min(total, self._all)

    def is_free(self, name: str) -> bool:
        """Whether a slot of this very account may be granted."""
        return bool(self.slots.get(name)) and self._left.get(name, 1) > 0

    def choose(self, holder: str, issue_number: int) -> str | None:
        """The account for a session: none that works on that pull request already; one that is to be probed first,
        then the one with most free slots; one that its provider refused last."""
        if self._all is not None and self._all <= 0:
            return None
        able = [
            name for name in self._order if self._left[name] > 0 and (holder, issue_number, name) not in self._racing
        ]
        return max(able, key=self._rank, default=None)

    def _rank(self, name: str) -> tuple[int, int]:
        pause = self._pauses.get(name)
        return 0 if pause is None else -1 if pause.refused else 1, len(self.slots[name])

    def take(self, name: str, *, holder: str = "", issue_number: int = 0) -> int:
        """Takes a slot of an account and returns it."""
        if name in self._left:
            self._left[name] -= 1
            if self._all is not None:
                self._all -= 1
            if issue_number:
                self._racing.add((holder, issue_number, name))
        return self.slots[name].pop(0)


def used_of(state: GovernorState, account: Account, now: float, *, under_way: bool = True) -> Used:
    """What counts against an account's budget at ``now``; sessions ``under_way`` are counted, or left out."""
    if account.window_s > 0:
        return _sum(now, _in_window(state, account, now, under_way=under_way))
    spent = state.spent_of(account.name)
    sessions = spent.sessions + (state.in_use(account.name) if under_way else 0)
    return Used(now, sessions, spent.tokens, spent.usd)


def _in_window(state: GovernorState, account: Account, now: float, *, under_way: bool = True) -> list[Used]:
    """The sessions that a window ending now counts, by their starts."""
    found = [one for one in state.recent.get(account.name, ()) if one.at + account.window_s > now]
    if under_way and state.in_use(account.name):
        mine = [one for one in state.leases.values() if one.account == account.name]
        found += [Used(one.granted_at, 1, 0, 0.0) for one in mine if one.granted_at + account.window_s > now]
        found.sort(key=lambda one: one.at)
    return found


def _sum(now: float, used: list[Used]) -> Used:
    return Used(now, sum(one.sessions for one in used), sum(one.tokens for one in used), sum(one.usd for one in used))


def reached(budget: Budget, *, sessions: int, tokens: int, usd: float) -> tuple[str, float, float] | None:
    """Of what nothing is left, how much was spent, and the limit."""
    for what, spent, limit in (
        ("sessions", sessions, budget.sessions),
        ("tokens", tokens, budget.tokens),
        ("usd", usd, budget.usd),
    ):
        if limit and spent >= limit:
            return what, float(spent), float(limit)
    return None


def room_of(state: GovernorState, account: Account, now: float) -> int:
    """How many sessions one agent's account may be granted at ``now``, the sweep's budget apart."""
    pause = state.pauses.get(account.name)
    if pause is not None and (now < pause.until or pause.probe is not None):
        return 0
    used = used_of(state, account, now)
    if reached(account.budget, sessions=used.sessions, tokens=used.tokens, usd=used.usd):
        return 0
    free = len(state.free_slots(account.name))
    if account.budget.sessions:
        free = min(free, account.budget.sessions - used.sessions)
    return min(free, 1) if pause is not None else free


def _sweep_left(state: GovernorState) -> int | None:
    """How many sessions the sweep's budget leaves; ``None``: any number."""
    spent, budget = state.spent_in_all(), state.budget
    if reached(budget, sessions=0, tokens=spent.tokens, usd=spent.usd):
        return 0
    if not budget.sessions:
        return None
    return max(0, budget.sessions - spent.sessions - sum(state.in_use(one.name) for one in state.agents()))


def next_opening(state: GovernorState, now: float) -> float | None:
    """When, after ``now``, an account may be granted more by time alone; ``None``: at no known time."""
    moments = [one for account in state.agents() if (one := _opens_at(state, account, now)) is not None]
    return min(moments, default=None)


def _opens_at(state: GovernorState, account: Account, now: float) -> float | None:
    pause = state.pauses.get(account.name)
    if pause is not None and pause.probe is not None:
        return None
    freed = _freed_at(state, account, now)
    if pause is None or now >= pause.until:
        return freed
    return pause.until if freed is None else max(freed, pause.until)


def _freed_at(state: GovernorState, account: Account, now: float) -> float | None:
    """When a window has moved on far enough for a budget that is reached now."""
    counted = _in_window(state, account, now) if account.window_s > 0 else []
    used = _sum(now, counted)
    sessions, tokens, usd = used.sessions, used.tokens, used.usd
    for one in counted:
        if not reached(account.budget, sessions=sessions, tokens=tokens, usd=usd):
            return None
        sessions, tokens, usd = sessions - one.sessions, tokens - one.tokens, usd - one.usd
        if not reached(account.budget, sessions=sessions, tokens=tokens, usd=usd):
            return one.at + account.window_s
    return None


def outlook(state: GovernorState, now: float) -> Outlook | None:
    """Why no session may be granted at ``now``; ``None`` if one may."""
    agents = state.agents()
    if not agents:
        return Outlook(reason="no agent's account is configured", never=True)
    spent = state.spent_in_all()
    over = reached(state.budget, sessions=spent.sessions, tokens=spent.tokens, usd=spent.usd)
    if over is not None:
        return Outlook(reason=f"the sweep's budget is reached: {_amount(over)}", never=True)
    if Room(state, now).sessions > 0:
        return None
    if _sweep_left(state) == 0:
        return Outlook(reason="what is left of the sweep's budget is in use")
    whys = [(one, *_blocked(state, one, now)) for one in agents]
    reason = "; ".join(why for _, why, _ in whys)
    never = all(over for _, _, over in whys)
    return Outlook(reason=f"no agent is free: {reason}", until=next_opening(state, now), never=never)


def _blocked(state: GovernorState, account: Account, now: float) -> tuple[str, bool]:
    """Why an account grants nothing, in words, and whether that is for good."""
    name, pause = account.name, state.pauses.get(account.name)
    spent = used_of(state, account, now, under_way=False)
    over = reached(account.budget, sessions=spent.sessions, tokens=spent.tokens, usd=spent.usd)
    if over is not None:
        return f"{name} has reached its budget: {_amount(over)}", account.window_s <= 0
    if pause is not None and pause.refused and now < pause.until:
        return f"{name} cannot be used ({pause.reason})", True
    if pause is not None and now < pause.until:
        return f"{name} is paused until {_clock(pause.until)} ({pause.reason})", False
    if pause is not None and pause.probe is not None:
        return f"{name} is being probed after its pause", False
    if not state.free_slots(name):
        return f"all {account.slots} slots of {name} are taken", False
    return f"what is left of {name}'s budget is in use", False


def _amount(over: tuple[str, float, float]) -> str:
    what, spent, limit = over
    return f"{spent:.2f} of {limit:.2f} USD" if what == "usd" else f"{spent:.0f} of {limit:.0f} {what}"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
