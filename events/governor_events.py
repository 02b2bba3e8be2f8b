"""Events of stream ``governor``: accounts, the leases on them, their limits, and what sessions used of them."""

from __future__ import annotations

import msgspec

from events.base_event import BaseEvent

__all__ = [
    "Account",
    "AccountPaused",
    "AccountProbed",
    "AccountReopened",
    "AccountsConfigured",
    "Budget",
    "BudgetReached",
    "GovernorClaimed",
    "GovernorEvent",
    "Lease",
    "LeasesExpired",
    "LeasesGranted",
    "LeasesReleased",
    "UsageCounted",
]


class Budget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What may be used at most; 0: no such limit. ``tokens`` are input and output together."""

    sessions: int = 0
    tokens: int = 0
    usd: float = 0.0


class Account(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something of which a limited number can be used at once: an agent's account, or the runners (``docker``).

    ``agent``: the backend of an agent's account, empty for others. ``budget``: of any ``window_s`` seconds, by the
    starts of sessions; of the whole sweep if that is 0.
    """

    name: str
    slots: int
    agent: str = ""
    budget: Budget = Budget()
    window_s: float = 0.0


class Lease(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The right to use one slot of an account. ``expires_at``: POSIX seconds, unless its holder renews it.

    Of a session, ``issue_number`` and ``attempt_id`` tell for what; ``granted_at`` is in POSIX seconds.
    """

    lease_id: str
    account: str
    slot: int
    holder: str
    expires_at: float
    issue_number: int = 0
    attempt_id: str = ""
    granted_at: float = 0.0


class GovernorClaimed(BaseEvent, frozen=True):
    """A governor took the stream over; an earlier incarnation can grant nothing more. ``run``: its driver's run."""

    incarnation: str
    run: str = ""


class AccountsConfigured(BaseEvent, frozen=True):
    """The accounts and their slots from now on; ``budget``: of all agents' accounts together, for ``sweep``."""

    accounts: list[Account]
    sweep: str = ""
    budget: Budget = Budget()


class LeasesGranted(BaseEvent, frozen=True):
    """Slots were given to holders."""

    leases: list[Lease]


class LeasesReleased(BaseEvent, frozen=True):
    """Holders gave slots back."""

    lease_ids: list[str]


class LeasesExpired(BaseEvent, frozen=True):
    """Holders stopped renewing; their slots are free again."""

    lease_ids: list[str]
    reason: str = ""


class AccountPaused(BaseEvent, frozen=True):
    """An account grants nothing until then (POSIX seconds), and then one lease to probe it.

    ``reset_at``: when its limit is over, if the agent told; ``until`` is later by the jitter, or by the default pause.
    ``refused``: it cannot be used at all (a bad key, no credit, no CLI); the next run tries it again at once.
    """

    account: str
    until: float
    reason: str
    attempt_id: str
    reset_at: float | None = None
    refused: bool = False


class AccountProbed(BaseEvent, frozen=True):
    """A pause is over: this lease, the next that is granted, shows whether the account may be used again."""

    account: str
    lease_id: str


class AccountReopened(BaseEvent, frozen=True):
    """An account may be used with all its slots again."""

    account: str
    reason: str = ""


class UsageCounted(BaseEvent, frozen=True):
    """What one session used. ``at``: when it started, in POSIX seconds; ``usd``: ``None`` where its CLI tells none."""

    account: str
    attempt_id: str
    at: float
    sweep: str = ""
    sessions: int = 1
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = None


class BudgetReached(BaseEvent, frozen=True):
    """Of a budget nothing is left. ``account``: whose, empty for the sweep's; ``what``: sessions, tokens or usd."""

    account: str
    what: str
    spent: float
    limit: float


GovernorEvent = (
    GovernorClaimed
    | AccountsConfigured
    | LeasesGranted
    | LeasesReleased
    | LeasesExpired
    | AccountPaused
    | AccountProbed
    | AccountReopened
    | UsageCounted
    | BudgetReached
)
