"""Errors that only the Python API raises; all others are those of :mod:`events.errors`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from events.errors import HeadraceError

__all__ = ["RateLimitError", "SynthesisCancelled"]


class RateLimitError(HeadraceError):
    """An agent's account is exhausted. The attempt is in the log and cost no budget: call again after ``reset_at``.

    >>> from datetime import UTC
    >>> error = RateLimitError(pull_request="o/r#7", account="claude", reset_at=datetime(2026, 2, 1, 8, tzinfo=UTC))
    >>> print(error)
    o/r#7: account claude is exhausted until 2026-02-01T08:00:00+00:00; run it again then, or with another agent
    """

    code = "HR610"

    def __init__(self, *, pull_request: str, account: str, reset_at: datetime | None = None, reason: str = "") -> None:
        self.pull_request, self.account, self.reset_at, self.reason = pull_request, account, reset_at, reason
        until = f"until {reset_at.isoformat()}" if reset_at is not None else "until a time that it did not tell"
        why = f" ({reason})" if reason else ""
        super().__init__(
            f"{pull_request}: account {account} is exhausted {until}{why}; run it again then, or with another agent"
        )

    def _fields(self) -> Mapping[str, object]:
        return {
            "pull_request": self.pull_request,
            "account": self.account,
            "reset_at": self.reset_at,
            "reason": self.reason,
        }


class SynthesisCancelled(HeadraceError):
    """A run was cancelled before its end. What was verified by then is in the log, and running it again goes on.

    >>> SynthesisCancelled("the run of sweep s was cancelled").exit_code
    130
    """

    code = "HR611"
    exit_code = 130
