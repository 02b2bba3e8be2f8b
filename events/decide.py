"""``decide(state, command, now)``: what a repository's stream must record next. Pure; ``evolve`` is its counterpart.

A command is a request from a shell: pull requests to admit, slots to fill, an outcome to take in. The answer is a
list of events, possibly empty; nothing is changed. The shell appends them, folds them, and only then acts. Ids and
times arrive in the command or as ``now`` (POSIX seconds).

Every command may be repeated: what the stream already says is not said again. An outcome for an attempt that is no
longer in flight yields nothing.
"""

from __future__ import annotations

from typing import assert_never

from events.admitting import admit, queue_neighbours
from events.candidates import GiveUp, policy_of, too_often_limited, without_agent
from events.commands import (
    Admit,
    AwaitLease,
    Claim,
    Command,
    FillSlots,
    ImportContexts,
    Interrupt,
    Reopen,
    Revoke,
    TakeOutcome,
)
from events.filling import await_lease, fill, give_up, release
from events.records import InFlight, PrRecord, context_of
from events.repository_state import RepositoryState
from events.revoking import (
    distrusted,
    import_contexts,
    naming_the_check,
    not_counted,
    orphaned,
    reopen,
    revoke,
    tampering,
)
from events.sessions import is_fault_of_account, is_limited
from events.types import (
    AttemptFailed,
    AttemptInterrupted,
    AttemptRateLimited,
    AttemptSucceeded,
    PullRequestFailed,
    RepositoryClaimed,
    RepositoryEvent,
)
from events.work import FailureClass, Outcome, SessionReport, Stage

__all__ = ["decide", "is_drained"]

BACKOFF_S = 2.0
"""The first pause after an infra failure; each further one is twice as long."""
BACKOFF_MAX_S = 60.0
"""The longest pause of a repository."""
OWN_BACKOFF_MAX_S = 600.0
"""The longest pause of one pull request that meets them alone, or that kills its runners."""
LOST = "lost the race: another session verified the pull request first"


def decide(state: RepositoryState, command: Command, now: float) -> list[RepositoryEvent]:  # noqa: PLR0911 - a table
    """The events that ``command`` calls for in ``state`` at ``now`` (POSIX seconds)."""
    match command:
        case Claim():
            return [RepositoryClaimed(incarnation=command.incarnation, sweep=command.sweep)]
        case Admit():
            return admit(state, command)
        case ImportContexts():
            return import_contexts(state, command)
        case FillSlots():
            return fill(state, command, now)
        case AwaitLease():
            return await_lease(state, command, now)
        case TakeOutcome():
            return _take_outcome(state, command, now)
        case Interrupt():
            return _interrupt(state, command, now)
        case Revoke():
            return revoke(state, command)
        case Reopen():
            return reopen(state, command)
        case _:
            assert_never(command)


# ---------------------------------------------------------------- outcomes


def _take_outcome(state: RepositoryState, command: TakeOutcome, now: float) -> list[RepositoryEvent]:
    attempt = state.inflight.get(command.attempt_id)
    if attempt is None:
        return []
    outcome = command.outcome
    if attempt.lost:
        return _end_interrupted(state, attempt, LOST, outcome.blobs, session=outcome.session)
    if outcome.cancelled:
        reason = outcome.message or "cancelled"
        return _end_interrupted(state, attempt, reason, outcome.blobs, session=outcome.session)
    pr = state.prs[attempt.issue_number]
    context = context_of(attempt, outcome)
    news: list[RepositoryEvent] = []
    if outcome.verified and context is not None:
        why = distrusted(state, attempt, context)
        if why is None:
            return _verified(state, attempt, pr, context, outcome)
        outcome, news = not_counted(outcome, why), orphaned(state, context, why)
    elif outcome.failure_class is FailureClass.TAMPER:
        outcome = naming_the_check(outcome)
        news = tampering(state, attempt, outcome)
    elif attempt.stage is Stage.LLM_GENERATE and is_limited(outcome.session):
        return _rate_limited(state, attempt, outcome, now)
    return _failed(state, attempt, outcome, news, now)


def _failed(
    state: RepositoryState, attempt: InFlight, outcome: Outcome, news: list[RepositoryEvent], now: float
) -> list[RepositoryEvent]:
    """The end of an attempt without a verified context; ``news``: what it means for other pull requests."""
    pr, cls, context = state.prs[attempt.issue_number], outcome.failure_class, context_of(attempt, outcome)
    infra = cls is FailureClass.INFRA
    failed = AttemptFailed(
        attempt_id=attempt.attempt_id,
        issue_number=pr.issue_number,
        outcome=outcome,
        retry_at=_retry_at(state, pr, outcome, now) if infra else None,
    )
    events: list[RepositoryEvent] = [failed, *news]
    flaked = pr.flaked.get(context) if context is not None else None
    first = context is not None and (flaked is None or flaked.unjudged)
    tried_once_more = cls is FailureClass.FLAKE and first
    if not infra and not tried_once_more and not policy_of(state).generate:
        step = without_agent(state, pr, refuted=context)
        if isinstance(step, GiveUp):
            events.append(give_up(pr, step, message=outcome.message, stage=outcome.stage, cls=cls))
    return events + release(state, attempt, context=None, reason=f"PR {pr.issue_number}'s {_noun(attempt)} failed")


def _rate_limited(state: RepositoryState, attempt: InFlight, outcome: Outcome, now: float) -> list[RepositoryEvent]:
    """The end of a session at its account's limit; the end of its pull request too, if that has happened too often."""
    pr, session = state.prs[attempt.issue_number], outcome.session
    events: list[RepositoryEvent] = [
        AttemptRateLimited(
            attempt_id=attempt.attempt_id,
            issue_number=pr.issue_number,
            account=attempt.account or (session.account if session is not None else ""),
            message=outcome.message,
            reset_at=session.reset_at if session is not None else None,
            at=now,
            context=outcome.context,
            session=session,
            blobs=outcome.blobs,
        )
    ]
    times = pr.rate_limits + 1
    if times > policy_of(state).rl_max_retries and len(state.racing(pr.issue_number)) == 1:
        events.append(
            PullRequestFailed(
                issue_number=pr.issue_number,
                reason=f"{outcome.message} ({too_often_limited(times)})",
                stage=str(Stage.LLM_GENERATE),
                failure_class=FailureClass.AGENT,
            )
        )
    reason = f"PR {pr.issue_number}'s session met the limit of {attempt.account}"
    return events + release(state, attempt, context=None, reason=reason)


def _noun(attempt: InFlight) -> str:
    return "generation" if attempt.stage is Stage.LLM_GENERATE else "verification"


def _retry_at(state: RepositoryState, pr: PrRecord, outcome: Outcome, now: float) -> float:
    """When to try again after an infra failure: with everybody else in one outage, or alone, later and later."""
    if is_fault_of_account(outcome.session):
        return now + min(OWN_BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(pr.infra_failures, 10))
    if now < state.not_before:
        return state.not_before
    shared = min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(state.infra_streak, 10))
    own = min(OWN_BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(pr.infra_failures, 10)) if state.infra_streak == 0 else 0.0
    return now + max(shared, own)


def _verified(
    state: RepositoryState, attempt: InFlight, pr: PrRecord, context: str, outcome: Outcome
) -> list[RepositoryEvent]:
    number = pr.issue_number
    succeeded = AttemptSucceeded(attempt_id=attempt.attempt_id, issue_number=number, context=context, outcome=outcome)
    queued = queue_neighbours(pr, list(state.unreached), policy_of(state))
    reason = f"PR {number} is verified: its context comes first"
    return [succeeded, *queued, *release(state, attempt, context=context, reason=reason)]


def _interrupt(state: RepositoryState, command: Interrupt, now: float) -> list[RepositoryEvent]:
    attempt = state.inflight.get(command.attempt_id)
    if attempt is None:
        return []
    retry_at = None
    if attempt.lost:
        return _end_interrupted(state, attempt, f"{LOST}; {command.reason}", command.blobs)
    if command.runner_died:
        deaths = state.prs[attempt.issue_number].runner_deaths
        retry_at = now + min(OWN_BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(deaths, 10))
    return _end_interrupted(state, attempt, command.reason, command.blobs, retry_at=retry_at)


def _end_interrupted(
    state: RepositoryState,
    attempt: InFlight,
    reason: str,
    blobs: dict[str, str],
    *,
    retry_at: float | None = None,
    session: SessionReport | None = None,
) -> list[RepositoryEvent]:
    ended = AttemptInterrupted(
        attempt_id=attempt.attempt_id,
        issue_number=attempt.issue_number,
        reason=reason,
        blobs=blobs,
        retry_at=retry_at,
        session=session,
    )
    why = f"PR {attempt.issue_number}'s {_noun(attempt)} was interrupted"
    return [ended, *release(state, attempt, context=None, reason=why)]


def is_drained(state: RepositoryState) -> bool:
    """Whether the active sweep has nothing left to do here: all finished, or not reached by any cascade."""
    return not state.inflight and not state.open
