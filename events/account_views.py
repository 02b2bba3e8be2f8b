"""An agent's account as people are shown it. Pure."""

from __future__ import annotations

import msgspec

from events.capacity import used_of
from events.governor_events import Budget
from events.governor_state import GovernorState, Spent

__all__ = ["AccountView", "account_views", "all_paused_until"]


class AccountView(msgspec.Struct, frozen=True, kw_only=True):
    """One account: ``used`` of its ``slots``, until when it is paused (POSIX seconds) and why, what its sessions used.

    ``sessions``, tokens and ``usd`` are of the present sweep; of ``unpriced`` sessions the CLI told no price, and they
    are not in ``usd``. ``budget_used``: what counts against ``budget``, of the last ``window_s`` seconds.
    """

    account: str
    agent: str
    slots: int
    used: int
    paused_until: float | None
    reason: str
    probing: bool
    sessions: int
    input_tokens: int
    output_tokens: int
    usd: float
    unpriced: int
    budget: Budget
    window_s: float
    budget_used: Budget


def account_views(state: GovernorState, now: float, *, sweep: str | None = None) -> list[AccountView]:
    """All agents' accounts at ``now``, as they were configured, with what they used in ``sweep`` (default: the present
    one). A pause that is over and not probed yet is shown."""
    views = []
    used = state.spent.get(state.sweep if sweep is None else sweep, {})
    for one in state.agents():
        pause, spent = state.pauses.get(one.name), used.get(one.name, Spent())
        counted = used_of(state, one, now)
        views.append(
            AccountView(
                account=one.name,
                agent=one.agent,
                slots=one.slots,
                used=state.in_use(one.name),
                paused_until=pause.until if pause is not None else None,
                reason=pause.reason if pause is not None else "",
                probing=pause is not None and pause.probe is not None,
                sessions=spent.sessions,
                input_tokens=spent.input_tokens,
                output_tokens=spent.output_tokens,
                usd=spent.usd,
                unpriced=spent.unpriced,
                budget=one.budget,
                window_s=one.window_s,
                budget_used=Budget(sessions=counted.sessions, tokens=counted.tokens, usd=counted.usd),
            )
        )
    return views


def all_paused_until(views: list[AccountView], now: float) -> float | None:
    """When the first account opens again, if all are paused at ``now``."""
    paused = [one.paused_until for one in views if one.paused_until is not None and one.paused_until > now]
    return min(paused) if views and len(paused) == len(views) else None
