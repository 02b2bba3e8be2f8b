"""What can happen: every event of every stream, as frozen structs in the past tense.

======================  ==========================================================================
stream                  events
======================  ==========================================================================
``sweep:NAME``          ``SweepEvent``: which repositories a sweep holds, and each run of it
``repository:O/R``      ``RepositoryEvent``: the pull requests, their attempts, what contexts proved
``governor``            ``GovernorEvent``: accounts and the leases on them
``gather:O/R``          ``GatherEvent``: the reports of a repository, wave by wave
``attempt:ID``          ``OutcomeReported``: the mailbox in which a runner leaves its outcome
======================  ==========================================================================

An event holds what replay needs and what people ask for; logs, transcripts and scripts are blobs that it names by
SHA-256. ``reason`` is a sentence for people: why this was decided. The type of a stored event is its class name, its
schema number is in :mod:`events.codec`.
"""

from __future__ import annotations

import msgspec

from events.base_event import BaseEvent
from events.gather_events import Drift, GatherEvent, GatherFinished, GatherPrepared
from events.governor_events import (
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
from events.work import (
    Admission,
    CascadePolicy,
    FailureClass,
    ImportedContext,
    Outcome,
    SessionReport,
    Stage,
    VerificationRules,
)

__all__ = [
    "Account",
    "AccountPaused",
    "AccountProbed",
    "AccountReopened",
    "AccountsConfigured",
    "Admission",
    "AttemptFailed",
    "AttemptInterrupted",
    "AttemptRateLimited",
    "AttemptStarted",
    "AttemptSucceeded",
    "Budget",
    "BudgetReached",
    "CacheHit",
    "ContextRevoked",
    "ContextsImported",
    "Drift",
    "Event",
    "GatherEvent",
    "GatherFinished",
    "GatherPrepared",
    "GovernorClaimed",
    "GovernorEvent",
    "ImportedContext",
    "Lease",
    "LeaseAwaited",
    "LeasesExpired",
    "LeasesGranted",
    "LeasesReleased",
    "NeighboursQueued",
    "OutcomeReported",
    "PullRequestFailed",
    "PullRequestHeld",
    "PullRequestReopened",
    "PullRequestsAdmitted",
    "RepositoriesAdmitted",
    "RepositoryActivated",
    "RepositoryClaimed",
    "RepositoryEvent",
    "RepositoryRetired",
    "RepositoryRows",
    "StageEntered",
    "SweepDefined",
    "SweepEvent",
    "SweepRunEnded",
    "SweepRunStarted",
    "UsageCounted",
]


# ---------------------------------------------------------------- repository:OWNER/REPO


class RepositoryClaimed(BaseEvent, frozen=True):
    """A repository actor took this stream over; what an earlier incarnation still appends is refused."""

    incarnation: str
    sweep: str


class PullRequestsAdmitted(BaseEvent, frozen=True):
    """Pull requests joined the timeline, or joined it anew with other inputs or rules."""

    sweep: str
    rules: VerificationRules
    policy: CascadePolicy
    pull_requests: list[Admission]


class ContextsImported(BaseEvent, frozen=True):
    """What the build-context cache knew of this repository and this stream did not."""

    contexts: list[ImportedContext]


class StageEntered(BaseEvent, frozen=True):
    """A pull request moved on to a stage that runs nothing itself (``check_cache``, ``find_similar``).

    ``others``: further pull requests that did the same at the same moment for the same reason.
    """

    issue_number: int
    stage: Stage
    reason: str = ""
    others: list[int] = msgspec.field(default_factory=list)


class CacheHit(BaseEvent, frozen=True):
    """A context is already verified for exactly this pull request, under these rules: nothing is built again.

    ``tests``: the ``tests`` blob of the attempt that verified it, if that is known.
    """

    issue_number: int
    context: str
    attempt_id: str
    reason: str
    tests: str | None = None


class PullRequestHeld(BaseEvent, frozen=True):
    """A pull request waits for an attempt in flight whose result may serve it.

    ``others``: further pull requests that wait for the same attempt from the same moment on.
    """

    issue_number: int
    behind: str
    reason: str
    others: list[int] = msgspec.field(default_factory=list)


class LeaseAwaited(BaseEvent, frozen=True):
    """A pull request waits for agent capacity. ``until``: the reset time in POSIX seconds, if one is known."""

    issue_number: int
    reason: str
    until: float | None = None


class AttemptStarted(BaseEvent, frozen=True):
    """The intent of one attempt, durable before any of its effects. Everything it makes carries ``attempt_id``.

    Of a session, ``agent`` is the backend, ``account`` whose slot it uses, and ``agent_lease`` the lease on that.
    """

    attempt_id: str
    issue_number: int
    stage: Stage
    sweep: str
    lease: str
    runner: str
    agent: str | None = None
    account: str | None = None
    agent_lease: str | None = None
    context: str | None = None
    """What is tried; for ``llm_generate``, what the session starts from."""
    source: int | None = None
    """The pull request that the context was verified on, for ``try_similar``."""
    reason: str = ""


class AttemptSucceeded(BaseEvent, frozen=True):
    """A context was verified on this pull request."""

    attempt_id: str
    issue_number: int
    context: str
    outcome: Outcome


class AttemptFailed(BaseEvent, frozen=True):
    """An attempt ended without a verified context. ``retry_at`` (POSIX seconds) is set for infra failures only."""

    attempt_id: str
    issue_number: int
    outcome: Outcome
    retry_at: float | None = None


class AttemptRateLimited(BaseEvent, frozen=True):
    """An agent's account was exhausted; costs no attempt. ``reset_at``: POSIX seconds, if the agent told.

    ``at``: when this was taken in, in POSIX seconds; ``session``: what was used until then.
    """

    attempt_id: str
    issue_number: int
    account: str
    message: str
    reset_at: float | None = None
    at: float = 0.0
    context: str | None = None
    """What the agent had left by then."""
    session: SessionReport | None = None
    blobs: dict[str, str] = msgspec.field(default_factory=dict)


class AttemptInterrupted(BaseEvent, frozen=True):
    """An attempt's processes ended before its verdict; what it left behind was looked for and ended.

    ``retry_at`` (POSIX seconds) is set when its runner died under it: what kills runners is tried later and later.
    """

    attempt_id: str
    issue_number: int
    reason: str
    retry_at: float | None = None
    blobs: dict[str, str] = msgspec.field(default_factory=dict)
    session: SessionReport | None = None


class NeighboursQueued(BaseEvent, frozen=True):
    """A success put its neighbours into the cascade queue, nearest first."""

    source: int
    issue_numbers: list[int]
    reason: str


class PullRequestFailed(BaseEvent, frozen=True):
    """Nothing is left to try on this pull request."""

    issue_number: int
    reason: str
    stage: str
    failure_class: FailureClass | None = None


class PullRequestReopened(BaseEvent, frozen=True):
    """A finished pull request is to be worked on again."""

    issue_number: int
    sweep: str
    reason: str


class ContextRevoked(BaseEvent, frozen=True):
    """A context is not to be trusted any more, nor is what was made from it: none of them is used again here.

    ``contexts``: itself, and those that descend from it and were not revoked before. ``issue_numbers``: the pull
    requests that were verified by one of them; they are worked on again. ``attempt_id``: the attempt that found it
    tampering; else somebody revoked it by hand.
    """

    context: str
    why: str
    contexts: list[str]
    issue_numbers: list[int] = msgspec.field(default_factory=list)
    attempt_id: str | None = None


RepositoryEvent = (
    RepositoryClaimed
    | PullRequestsAdmitted
    | ContextsImported
    | StageEntered
    | CacheHit
    | PullRequestHeld
    | LeaseAwaited
    | AttemptStarted
    | AttemptSucceeded
    | AttemptFailed
    | AttemptRateLimited
    | AttemptInterrupted
    | NeighboursQueued
    | PullRequestFailed
    | PullRequestReopened
    | ContextRevoked
)

# ---------------------------------------------------------------- attempt:ID


class OutcomeReported(BaseEvent, frozen=True):
    """A runner's outcome, durable before anybody is told: it survives the death of whoever waits for it."""

    attempt_id: str
    outcome: Outcome


# ---------------------------------------------------------------- sweep:NAME


class RepositoryRows(msgspec.Struct, frozen=True, kw_only=True):
    """A repository of a sweep: ``rows`` is the blob of its timeline rows (JSON Lines)."""

    repository: str
    rows: str
    pull_requests: int


class SweepDefined(BaseEvent, frozen=True):
    """A sweep came to be, or was defined anew: from a timeline of this digest, under these rules and this policy."""

    sweep: str
    timeline: str
    timeline_digest: str
    rules: VerificationRules
    policy: CascadePolicy


class RepositoriesAdmitted(BaseEvent, frozen=True):
    """Repositories joined a sweep, or joined it anew with other rows."""

    repositories: list[RepositoryRows]


class SweepRunStarted(BaseEvent, frozen=True):
    """A driver began, or went on with, a sweep."""

    run: str
    host: str
    pid: int
    workers: int


class RepositoryActivated(BaseEvent, frozen=True):
    """A repository got its actor."""

    repository: str


class RepositoryRetired(BaseEvent, frozen=True):
    """A repository has nothing left to do; its actor ended. The counts are of its pull requests."""

    repository: str
    succeeded: int
    failed: int
    unreached: int


class SweepRunEnded(BaseEvent, frozen=True):
    """A run ended in order. ``how``: ``finished``, ``interrupted``, ``environment`` or ``failed``."""

    run: str
    how: str
    reason: str = ""


SweepEvent = (
    SweepDefined | RepositoriesAdmitted | SweepRunStarted | RepositoryActivated | RepositoryRetired | SweepRunEnded
)

Event = RepositoryEvent | SweepEvent | GovernorEvent | GatherEvent | OutcomeReported
