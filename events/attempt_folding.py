"""How attempts, and what they tell of their pull requests, are folded into a repository's state."""

from __future__ import annotations

from events.errors import IllegalTransition
from events.folding import leave_queue, make_ready, record, succeed
from events.pull_request import PrState
from events.records import InFlight, PrRecord
from events.repository_state import RepositoryState
from events.sessions import ended_session, is_fault_of_account
from events.types import (
    AttemptFailed,
    AttemptInterrupted,
    AttemptRateLimited,
    AttemptStarted,
    AttemptSucceeded,
)
from events.work import FailureClass, SessionReport, Stage

__all__ = ["attempt_failed", "attempt_interrupted", "attempt_rate_limited", "attempt_started", "attempt_succeeded"]

_FIND_SIMILAR, _LLM_GENERATE = PrState.FIND_SIMILAR, Stage.LLM_GENERATE
"""Members of an enum are slow to look up on their class, and these are compared with at every event."""
_STARTED = {stage: f"AttemptStarted:{stage.value}" for stage in Stage}


def _attempt(state: RepositoryState, attempt_id: str, number: int, trigger: str) -> InFlight:
    attempt = state.inflight.get(attempt_id)
    if attempt is None or attempt.issue_number != number or attempt.lost:
        subject, was = f"{attempt_id} of {state.repository}#{number}", "lost" if attempt else "not in flight"
        raise IllegalTransition(machine="attempt", state=was, event=trigger, subject=subject)
    return attempt


def attempt_started(state: RepositoryState, event: AttemptStarted) -> None:
    """An attempt is in flight, and its pull request in the stage of it."""
    pr, to = record(state, event.issue_number, _STARTED[event.stage])
    if event.attempt_id in state.inflight:
        subject = f"{event.attempt_id} of {state.repository}#{event.issue_number}"
        raise IllegalTransition(machine="attempt", state="in flight", event="AttemptStarted", subject=subject)
    pr.state, pr.reason, pr.attempt_id = to, event.reason, event.attempt_id
    leave_queue(state, event.issue_number)
    state.inflight[event.attempt_id] = InFlight(
        attempt_id=event.attempt_id,
        issue_number=event.issue_number,
        stage=event.stage,
        context=event.context,
        agent=event.agent,
        lease=event.lease,
        runner=event.runner,
        source=event.source,
        account=event.account,
        agent_lease=event.agent_lease,
    )


def _end_attempt(
    state: RepositoryState, attempt_id: str, number: int, trigger: str
) -> tuple[PrRecord, InFlight, PrState]:
    attempt = _attempt(state, attempt_id, number, trigger)
    rivals = [one for one in state.racing(number) if one is not attempt] if attempt.stage is _LLM_GENERATE else []
    succeeded = trigger == "AttemptSucceeded"
    pr, to = record(state, number, trigger if succeeded or not rivals else f"{trigger}:racing")
    del state.inflight[attempt_id]
    for one in rivals if succeeded else ():
        one.lost = True
    pr.attempt_id = rivals[0].attempt_id if rivals and not succeeded else None
    return pr, attempt, to


def _count_session(state: RepositoryState, attempt: InFlight, report: SessionReport | None, at: float = 0.0) -> None:
    if attempt.account is not None:
        state.sessions[attempt.attempt_id] = ended_session(
            report,
            attempt_id=attempt.attempt_id,
            account=attempt.account,
            lease_id=attempt.agent_lease or "",
            sweep=state.sweep,
            at=at,
        )


def _descends(state: RepositoryState, attempt: InFlight, made: str | None) -> None:
    """What a session left was made from what it started from, whatever became of it: the next may start from that."""
    if made is not None and attempt.context is not None and attempt.context != made:
        state.parents.setdefault(made, set()).add(attempt.context)


def attempt_succeeded(state: RepositoryState, event: AttemptSucceeded) -> None:
    """A pull request is verified; sessions that raced on it have lost."""
    pr, attempt, to = _end_attempt(state, event.attempt_id, event.issue_number, "AttemptSucceeded")
    state.infra_streak, state.not_before = 0, 0.0
    _count_session(state, attempt, event.outcome.session)
    pr.verified_by, pr.source, pr.tests = attempt.stage, attempt.source, event.outcome.blobs.get("tests")
    if attempt.stage is _LLM_GENERATE:
        _descends(state, attempt, event.context)
    succeed(state, pr, to, event.context, event.outcome.message)


def attempt_failed(state: RepositoryState, event: AttemptFailed) -> None:
    """An attempt came to nothing; what that refutes and which budget it spends."""
    pr, attempt, to = _end_attempt(state, event.attempt_id, event.issue_number, "AttemptFailed")
    pr.state, pr.reason = to, event.outcome.message
    _count_session(state, attempt, event.outcome.session)
    made = event.outcome.context if attempt.stage is _LLM_GENERATE else None
    if attempt.account is not None:
        _descends(state, attempt, made)
    if event.outcome.failure_class is FailureClass.INFRA:
        pr.infra_failures += 1
        pr.not_before = event.retry_at or 0.0
        alone = is_fault_of_account(event.outcome.session)
        if (
            not alone and pr.not_before > state.not_before
        ):  # else it ended within the pause of a failure before it: one outage
            state.infra_streak += 1
            state.not_before = pr.not_before
        state.keep_unjudged(pr, attempt, made)
    else:
        state.infra_streak, state.not_before = 0, 0.0
        pr.failure_class = event.outcome.failure_class
        pr.failures.append(event.attempt_id)
        if event.outcome.failure_class is not FailureClass.TAMPER:
            pr.made = made or pr.made
        state.count_failure(pr, attempt, event.outcome)
    _make_ready_again(state, pr, to)


def _make_ready_again(state: RepositoryState, pr: PrRecord, to: PrState) -> None:
    if to is _FIND_SIMILAR:  # else other sessions are still racing on it
        make_ready(state, pr)


def attempt_rate_limited(state: RepositoryState, event: AttemptRateLimited) -> None:
    """A session met its account's limit, which costs its pull request no attempt."""
    pr, attempt, to = _end_attempt(state, event.attempt_id, event.issue_number, "AttemptRateLimited")
    _count_session(state, attempt, event.session, event.at)
    pr.state, pr.reason = to, event.message
    pr.rate_limits += 1
    pr.made = event.context or pr.made
    _descends(state, attempt, event.context)
    _make_ready_again(state, pr, to)


def attempt_interrupted(state: RepositoryState, event: AttemptInterrupted) -> None:
    """An attempt ended without a verdict, or lost the race."""
    lost = state.inflight.get(event.attempt_id)
    if lost is not None and lost.lost and lost.issue_number == event.issue_number:
        del state.inflight[event.attempt_id]
        _count_session(state, lost, event.session)
        return
    pr, attempt, to = _end_attempt(state, event.attempt_id, event.issue_number, "AttemptInterrupted")
    _count_session(state, attempt, event.session)
    pr.state, pr.reason = to, event.reason
    if event.retry_at is not None:
        pr.runner_deaths += 1
        pr.not_before = event.retry_at
    _make_ready_again(state, pr, to)
