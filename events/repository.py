"""The repository machine: a timeline of pull requests, its queue, and what contexts proved on it.

``evolve(state, event)`` folds one event of stream ``repository:OWNER/REPO`` into the state. It validates first and
changes after, so an illegal event raises and leaves the state as it was. For speed it changes the state in place and
returns it: whoever wants the old one keeps a copy. It reads no clock, no files and no randomness; replaying a stream
gives the state that was live when it was written.

What the state guarantees at every version:

- a pull request is startable (in ``ready``) exactly when it belongs to the active sweep, was seeded or reached by the
  cascade, and is in ``queued`` or ``find_similar``;
- an attempt is in ``inflight`` from its start to its end, and its pull request is in that attempt's stage;
- ``verified`` holds exactly the pull requests in ``succeeded``, ordered by time; a context that is revoked verifies
  none of those that its revocation names.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable
from typing import Any

from events.errors import IllegalTransition
from events.pull_request import FINISHED, TRANSITIONS, PrState, next_state
from events.records import InFlight, PrRecord, import_key, posix
from events.repository_state import RepositoryState, remove_place
from events.types import (
    Admission,
    AttemptFailed,
    AttemptInterrupted,
    AttemptRateLimited,
    AttemptStarted,
    AttemptSucceeded,
    CacheHit,
    ContextRevoked,
    ContextsImported,
    LeaseAwaited,
    NeighboursQueued,
    PullRequestFailed,
    PullRequestHeld,
    PullRequestReopened,
    PullRequestsAdmitted,
    RepositoryClaimed,
    RepositoryEvent,
    StageEntered,
)
from events.work import FailureClass, Stage, VerificationRules

__all__ = ["evolve", "fold"]

_QUEUED, _FIND_SIMILAR, _LLM_GENERATE = PrState.QUEUED, PrState.FIND_SIMILAR, Stage.LLM_GENERATE
"""Members of an enum are slow to look up on their class, and these are compared with at every event."""
_ENTERED = {stage: f"StageEntered:{stage.value}" for stage in Stage}
_STARTED = {stage: f"AttemptStarted:{stage.value}" for stage in Stage}


def evolve(state: RepositoryState, event: RepositoryEvent) -> RepositoryState:
    """Folds one event into ``state``, in place, and returns it.

    Raises:
        IllegalTransition: the event is not allowed in this state, or names what the state does not know; the state
            is unchanged.
    """
    handler = _HANDLERS.get(type(event))
    if handler is None:
        name = type(event).__name__
        raise IllegalTransition(machine="repository", state="any", event=name, subject=state.repository)
    handler(state, event)
    state.version += 1
    return state


def _record(state: RepositoryState, number: int, trigger: str) -> tuple[PrRecord, PrState]:
    """The pull request and the state that ``trigger`` leads it to."""
    pr = state.prs.get(number)
    if pr is None:
        subject = f"{state.repository}#{number}"
        raise IllegalTransition(machine="pull request", state="unknown", event=trigger, subject=subject)
    to = TRANSITIONS[pr.state].get(trigger)
    if to is None:
        to = next_state(pr.state, trigger, subject=f"{state.repository}#{number}")
    return pr, to


def _attempt(state: RepositoryState, attempt_id: str, number: int, trigger: str) -> InFlight:
    attempt = state.inflight.get(attempt_id)
    if attempt is None or attempt.issue_number != number:
        subject = f"{attempt_id} of {state.repository}#{number}"
        raise IllegalTransition(machine="attempt", state="not in flight", event=trigger, subject=subject)
    return attempt


def _is_member(state: RepositoryState, number: int) -> bool:
    return number in state.members.get(state.sweep, ())


def _make_ready(state: RepositoryState, pr: PrRecord) -> None:
    number = pr.issue_number
    state.waiting.pop(number, None)
    if pr.reached and number in state.members.get(state.sweep, ()):
        state.ready[number] = None
        if pr.state is _QUEUED:
            state.queued[number] = None


def _leave_queue(state: RepositoryState, number: int) -> None:
    state.ready.pop(number, None)
    state.queued.pop(number, None)
    state.waiting.pop(number, None)


def _not_held(state: RepositoryState, pr: PrRecord) -> None:
    if pr.behind is not None:
        members = state.held.get(pr.behind, {})
        members.pop(pr.issue_number, None)
        if not members:
            state.held.pop(pr.behind, None)
        pr.behind = None


def _forget_success(state: RepositoryState, pr: PrRecord) -> None:
    if pr.state is PrState.SUCCEEDED:
        remove_place(state.verified, (pr.at, pr.issue_number))
        pr.context = pr.verified_by = pr.source = pr.tests = None


def _claimed(state: RepositoryState, event: RepositoryClaimed) -> None:
    state.incarnation = event.incarnation
    if state.sweep != event.sweep:
        state.sweep = event.sweep
        state.ready.clear()
        state.queued.clear()
        state.reindex()
        for number in sorted(state.members.get(event.sweep, ())):
            if state.prs[number].state in (PrState.QUEUED, PrState.FIND_SIMILAR):
                _make_ready(state, state.prs[number])


def _admitted(state: RepositoryState, event: PullRequestsAdmitted) -> None:
    changed = [one for one in event.pull_requests if _is_other_job(state, one, event.rules)]
    for one in changed:
        if one.issue_number in state.prs:
            _record(state, one.issue_number, "PullRequestsAdmitted")
    state.policy = event.policy
    members = state.members.setdefault(event.sweep, set())
    members.update(one.issue_number for one in event.pull_requests)
    for one in changed:
        known = state.prs.get(one.issue_number)
        if known is not None:
            _forget_success(state, known)
            _leave_queue(state, one.issue_number)
            _not_held(state, known)
            state.forget_refutations(known)
        state.prs[one.issue_number] = PrRecord(
            issue_number=one.issue_number,
            created_at=one.created_at,
            at=posix(one.created_at),
            commit=one.commit,
            python_version=one.python_version,
            row=one.row,
            inputs=one.inputs,
            rules=event.rules,
            reached=one.seed,
        )
    for one in event.pull_requests:
        pr = state.prs[one.issue_number]
        pr.reached = pr.reached or one.seed
        if pr.state in (PrState.QUEUED, PrState.FIND_SIMILAR):
            _make_ready(state, pr)
    state.reindex()


def _is_other_job(state: RepositoryState, one: Admission, rules: VerificationRules) -> bool:
    known = state.prs.get(one.issue_number)
    return known is None or known.inputs != one.inputs or known.rules != rules


def _imported(state: RepositoryState, event: ContextsImported) -> None:
    for one in event.contexts:
        state.imported[import_key(one.issue_number, one.inputs, one.rules)] = one
        if one.parent is not None:
            state.parents.setdefault(one.context, set()).add(one.parent)


def _stage_entered(state: RepositoryState, event: StageEntered) -> None:
    trigger = _ENTERED[event.stage]
    if event.others:
        moved = [_record(state, number, trigger) for number in (event.issue_number, *event.others)]
    else:
        moved = [_record(state, event.issue_number, trigger)]
    reason, queued = event.reason, state.queued
    for pr, to in moved:
        pr.state, pr.reason = to, reason
        if pr.behind is not None:
            _not_held(state, pr)
        queued.pop(pr.issue_number, None)
        if to is _FIND_SIMILAR:
            _make_ready(state, pr)


def _cache_hit(state: RepositoryState, event: CacheHit) -> None:
    pr, to = _record(state, event.issue_number, "CacheHit")
    pr.verified_by, pr.tests = Stage.CHECK_CACHE, event.tests
    _succeed(state, pr, to, event.context, event.reason)


def _held(state: RepositoryState, event: PullRequestHeld) -> None:
    numbers = (event.issue_number, *event.others)
    moved = [_record(state, number, "PullRequestHeld") for number in numbers]
    for pr, to in moved:
        pr.state, pr.reason, pr.behind = to, event.reason, event.behind
        _leave_queue(state, pr.issue_number)
        state.waiting[pr.issue_number] = None
    state.held.setdefault(event.behind, {}).update(dict.fromkeys(numbers))


def _lease_awaited(state: RepositoryState, event: LeaseAwaited) -> None:
    pr, to = _record(state, event.issue_number, "LeaseAwaited")
    pr.state, pr.reason = to, event.reason
    _leave_queue(state, event.issue_number)
    state.waiting[event.issue_number] = None


def _attempt_started(state: RepositoryState, event: AttemptStarted) -> None:
    pr, to = _record(state, event.issue_number, _STARTED[event.stage])
    if event.attempt_id in state.inflight:
        subject = f"{event.attempt_id} of {state.repository}#{event.issue_number}"
        raise IllegalTransition(machine="attempt", state="in flight", event="AttemptStarted", subject=subject)
    pr.state, pr.reason, pr.attempt_id = to, event.reason, event.attempt_id
    _leave_queue(state, event.issue_number)
    state.inflight[event.attempt_id] = InFlight(
        attempt_id=event.attempt_id,
        issue_number=event.issue_number,
        stage=event.stage,
        context=event.context,
        agent=event.agent,
        lease=event.lease,
        runner=event.runner,
        source=event.source,
    )


def _end_attempt(
    state: RepositoryState, attempt_id: str, number: int, trigger: str
) -> tuple[PrRecord, InFlight, PrState]:
    attempt = _attempt(state, attempt_id, number, trigger)
    pr, to = _record(state, number, trigger)
    del state.inflight[attempt_id]
    pr.attempt_id = None
    return pr, attempt, to


def _succeed(state: RepositoryState, pr: PrRecord, to: PrState, context: str, reason: str) -> None:
    pr.state, pr.context, pr.reason = to, context, reason
    _leave_queue(state, pr.issue_number)
    state.close(pr)
    insort(state.verified, (pr.at, pr.issue_number))


def _attempt_succeeded(state: RepositoryState, event: AttemptSucceeded) -> None:
    pr, attempt, to = _end_attempt(state, event.attempt_id, event.issue_number, "AttemptSucceeded")
    state.infra_streak, state.not_before = 0, 0.0
    pr.verified_by, pr.source, pr.tests = attempt.stage, attempt.source, event.outcome.blobs.get("tests")
    if attempt.stage is _LLM_GENERATE and attempt.context is not None and attempt.context != event.context:
        state.parents.setdefault(event.context, set()).add(attempt.context)
    _succeed(state, pr, to, event.context, event.outcome.message)


def _attempt_failed(state: RepositoryState, event: AttemptFailed) -> None:
    pr, attempt, to = _end_attempt(state, event.attempt_id, event.issue_number, "AttemptFailed")
    pr.state, pr.reason = to, event.outcome.message
    if event.outcome.failure_class is FailureClass.INFRA:
        pr.infra_failures += 1
        pr.not_before = event.retry_at or 0.0
        if pr.not_before > state.not_before:  # else it ended within the pause of a failure before it: one outage
            state.infra_streak += 1
            state.not_before = pr.not_before
    else:
        state.infra_streak, state.not_before = 0, 0.0
        pr.failure_class = event.outcome.failure_class
        state.count_failure(pr, attempt, event.outcome)
    _make_ready(state, pr)


def _attempt_rate_limited(state: RepositoryState, event: AttemptRateLimited) -> None:
    pr, _, to = _end_attempt(state, event.attempt_id, event.issue_number, "AttemptRateLimited")
    pr.state, pr.reason = to, event.message
    pr.rate_limits += 1
    _make_ready(state, pr)


def _attempt_interrupted(state: RepositoryState, event: AttemptInterrupted) -> None:
    pr, _, to = _end_attempt(state, event.attempt_id, event.issue_number, "AttemptInterrupted")
    pr.state, pr.reason = to, event.reason
    if event.retry_at is not None:
        pr.runner_deaths += 1
        pr.not_before = event.retry_at
    _make_ready(state, pr)


def _neighbours_queued(state: RepositoryState, event: NeighboursQueued) -> None:
    for number in event.issue_numbers:
        if number not in state.prs:
            subject = f"{state.repository}#{number}"
            raise IllegalTransition(machine="pull request", state="unknown", event="NeighboursQueued", subject=subject)
    for number in event.issue_numbers:
        pr = state.prs[number]
        if not pr.reached:
            pr.reached = True
            if pr.state not in FINISHED and _is_member(state, number):
                remove_place(state.unreached, (pr.at, number))
                insort(state.open, (pr.at, number))
        if pr.state in (PrState.QUEUED, PrState.FIND_SIMILAR):
            _make_ready(state, pr)


def _failed(state: RepositoryState, event: PullRequestFailed) -> None:
    pr, to = _record(state, event.issue_number, "PullRequestFailed")
    pr.state, pr.reason = to, event.reason
    pr.failure_class = event.failure_class or pr.failure_class
    _leave_queue(state, event.issue_number)
    state.close(pr)


def _reopened(state: RepositoryState, event: PullRequestReopened) -> None:
    pr, to = _record(state, event.issue_number, "PullRequestReopened")
    if pr.state in FINISHED:
        _forget_success(state, pr)
    state.forget_refutations(pr)
    pr.generation_ended, pr.failure_class = False, None
    _begin_anew(state, pr, to, event.reason)


def _begin_anew(state: RepositoryState, pr: PrRecord, to: PrState, reason: str) -> None:
    """A finished pull request is open again, with its budgets whole."""
    pr.state, pr.reason = to, reason
    pr.generations = pr.rate_limits = pr.infra_failures = pr.runner_deaths = 0
    pr.not_before = 0.0
    pr.reached = True
    if _is_member(state, pr.issue_number):
        insort(state.open, (pr.at, pr.issue_number))
    _make_ready(state, pr)


def _revoked(state: RepositoryState, event: ContextRevoked) -> None:
    moved = [_record(state, number, "ContextRevoked") for number in event.issue_numbers]
    gone = set(event.contexts)
    state.revoked.update((context, event.why) for context in event.contexts)
    state.imported = {key: one for key, one in state.imported.items() if one.context not in gone}
    for number in [number for number in state.again if state.prs[number].again in gone]:
        del state.again[number]
    for pr in state.prs.values():
        for context in pr.flaked.keys() & gone:
            del pr.flaked[context]
    for pr, to in moved:
        if event.attempt_id is not None and pr.verified_by is _LLM_GENERATE and pr.context == event.context:
            pr.generation_ended = True  # it was this pull request's session that tampered
        _forget_success(state, pr)
        _begin_anew(state, pr, to, f"its context was revoked: {event.why}")


_HANDLERS: dict[type, Callable[[RepositoryState, Any], None]] = {
    RepositoryClaimed: _claimed,
    PullRequestsAdmitted: _admitted,
    ContextsImported: _imported,
    StageEntered: _stage_entered,
    CacheHit: _cache_hit,
    PullRequestHeld: _held,
    LeaseAwaited: _lease_awaited,
    AttemptStarted: _attempt_started,
    AttemptSucceeded: _attempt_succeeded,
    AttemptFailed: _attempt_failed,
    AttemptRateLimited: _attempt_rate_limited,
    AttemptInterrupted: _attempt_interrupted,
    NeighboursQueued: _neighbours_queued,
    PullRequestFailed: _failed,
    PullRequestReopened: _reopened,
    ContextRevoked: _revoked,
}


def fold(repository: str, events: Iterable[RepositoryEvent]) -> RepositoryState:
    """The state after ``events``, from nothing."""
    state = RepositoryState(repository=repository)
    for event in events:
        evolve(state, event)
    return state
