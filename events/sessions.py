"""The end of a session, as the governor is told of it: which lease is over, what was used, whether a limit was met."""

from __future__ import annotations

import msgspec

from events.work import SessionReport

__all__ = ["EndedSession", "ended_session", "is_fault_of_account", "is_limited"]

_LIMITED, _NOT_STARTED = "rate_limited", "not_started"
_REFUSED = frozenset({"account", _NOT_STARTED})
_FAULT_OF_ACCOUNT = _REFUSED | {"server"}
_ANSWERED = frozenset({"completed", "no_scripts"})


class EndedSession(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One session that is over.

    ``at``: when that was taken in, in POSIX seconds, if it counts; ``limited``: its account has run into a limit;
    ``refused``: the account cannot be used at all (a bad key, no credit, no CLI); ``answered``: it did its work, so it
    can. ``sessions``: 0 if it never began.
    """

    attempt_id: str
    account: str
    lease_id: str
    sweep: str
    at: float = 0.0
    limited: bool = False
    refused: bool = False
    answered: bool = False
    reset_at: float | None = None
    message: str = ""
    sessions: int = 1
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = None


def is_limited(report: SessionReport | None) -> bool:
    """Whether a session was ended by its account's limit."""
    return report is not None and report.ended == _LIMITED


def is_fault_of_account(report: SessionReport | None) -> bool:
    """Whether a session failed for its account, or for what is behind it: other work need not wait for that."""
    return report is not None and report.ended in _FAULT_OF_ACCOUNT


def ended_session(
    report: SessionReport | None, *, attempt_id: str, account: str, lease_id: str, sweep: str, at: float = 0.0
) -> EndedSession:
    """What the governor is to know of a session; without a report nothing is known of what it used."""
    if report is None:
        return EndedSession(attempt_id=attempt_id, account=account, lease_id=lease_id, sweep=sweep, at=at)
    limited = is_limited(report) or report.reset_at is not None
    return EndedSession(
        attempt_id=attempt_id,
        account=account,
        lease_id=lease_id,
        sweep=sweep,
        at=at,
        limited=limited,
        refused=report.ended in _REFUSED,
        answered=not limited and (report.ended in _ANSWERED or bool(report.output_tokens)),
        reset_at=report.reset_at,
        message=report.message,
        sessions=0 if report.ended == _NOT_STARTED else 1,
        input_tokens=report.input_tokens or 0,
        output_tokens=report.output_tokens or 0,
        usd=report.cost_usd,
    )
