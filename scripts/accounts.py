"""Agents' accounts as commands show them: a line each, and a table."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

import msgspec
from rich.table import Table

from events.account_views import AccountView, account_views, all_paused_until
from events.governor_state import GovernorState
from store.log import EventLog
from store.snapshots import load

__all__ = ["AccountLine", "account_lines", "account_table", "clock", "paused_until", "read_governor"]


class AccountLine(msgspec.Struct, frozen=True, kw_only=True):
    """An account in ``status --json``.

    ``paused_until`` is ISO 8601 in UTC; a pause that is ``over`` ends with the session that probes it (``probing``).
    Tokens and ``usd`` are of the sweep; ``usd`` leaves out the ``unpriced_sessions``, of which the CLI told no price.
    ``budget_used`` counts sessions under way too, and only the last ``window_s`` seconds if that is not 0.
    """

    account: str
    agent: str
    slots: int
    used: int
    paused_until: str | None
    paused_why: str
    over: bool
    probing: bool
    sessions: int
    input_tokens: int
    output_tokens: int
    usd: float
    unpriced_sessions: int
    budget: dict[str, float]
    budget_used: dict[str, float]
    window_s: float


def read_governor(log: EventLog) -> GovernorState:
    """Folds stream ``governor``; empty if it is not there."""
    return cast(GovernorState, load(log, "governor").state)


def account_lines(state: GovernorState, *, sweep: str, now: float) -> list[AccountLine]:
    """All agents' accounts, with what they used in ``sweep``, at ``now`` (POSIX seconds)."""
    return [_line(one, now) for one in account_views(state, now, sweep=sweep)]


def paused_until(state: GovernorState, *, now: float) -> str | None:
    """When the first account opens again, in ISO 8601, if all are paused at ``now`` (POSIX seconds)."""
    found = all_paused_until(account_views(state, now), now)
    return clock(found) if found is not None else None


def _line(one: AccountView, now: float) -> AccountLine:
    limits = {name: limit for name in ("sessions", "tokens", "usd") if (limit := getattr(one.budget, name))}
    return AccountLine(
        account=one.account,
        agent=one.agent,
        slots=one.slots,
        used=one.used,
        paused_until=clock(one.paused_until) if one.paused_until is not None else None,
        paused_why=one.reason,
        over=one.paused_until is not None and one.paused_until <= now,
        probing=one.probing,
        sessions=one.sessions,
        input_tokens=one.input_tokens,
        output_tokens=one.output_tokens,
        usd=round(one.usd, 6),
        unpriced_sessions=one.unpriced,
        budget={name: float(limit) for name, limit in limits.items()},
        budget_used={name: round(float(getattr(one.budget_used, name)), 6) for name in limits},
        window_s=one.window_s,
    )


def clock(at: float) -> str:
    """POSIX seconds as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def account_table(lines: list[AccountLine]) -> Table:
    """A row an account."""
    table = Table(title="agents", title_justify="left")
    for column, justify in (
        ("account", "left"),
        ("slots used", "right"),
        ("sessions", "right"),
        ("tokens in", "right"),
        ("tokens out", "right"),
        ("USD", "right"),
        ("budget", "left"),
        ("paused", "left"),
    ):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for one in lines:
        unpriced = f" + {one.unpriced_sessions} untold" if one.unpriced_sessions else ""
        table.add_row(
            one.account,
            f"{one.used} of {one.slots}",
            str(one.sessions),
            f"{one.input_tokens:,}",
            f"{one.output_tokens:,}",
            f"{one.usd:.2f}{unpriced}",
            _budget(one),
            _pause(one),
        )
    return table


def _budget(one: AccountLine) -> str:
    parts = [_of(name, one.budget_used[name], limit) for name, limit in one.budget.items()]
    window = f" in {one.window_s / 3600:g} h" if parts and one.window_s else ""
    return ", ".join(parts) + window


def _of(name: str, used: float, limit: float) -> str:
    return f"{used:,.2f} of {limit:,.2f} USD" if name == "usd" else f"{used:,.0f} of {limit:,.0f} {name}"


def _pause(one: AccountLine) -> str:
    if one.probing:
        return "being probed"
    if one.over:
        return f"until {one.paused_until}; the next session probes it"
    return f"until {one.paused_until}: {one.paused_why}" if one.paused_until is not None else ""
