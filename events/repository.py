"""The repository machine: a timeline of pull requests, its queue, and what contexts proved on it.

``evolve(state, event)`` folds one event of stream ``repository:OWNER/REPO`` into the state. It validates first and
changes after, so an illegal event raises and leaves the state as it was. For speed it changes the state in place and
returns it: whoever wants the old one keeps a copy. It reads no clock, no files and no randomness; replaying a stream
gives the state that was live when it was written.

What the state guarantees at every version:

- a pull request is startable (in ``ready``) exactly when it belongs to the active sweep, was seeded or reached by the
  cascade, and is in ``queued`` or ``find_similar``;
- an attempt is in ``inflight`` from its start to its end, and its pull request is in that attempt's stage; of several
  sessions that race on one, those that are under way when one has verified it have lost, and only end interrupted;
- ``verified`` holds exactly the pull requests in ``succeeded``, ordered by time; a context that is revoked verifies
  none of those that its revocation names.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable
from typing import Any

from events.attempt_folding import (
    attempt_failed,
    attempt_interrupted,
    attempt_rate_limited,
    attempt_started,
    attempt_succeeded,
)
from events.errors import IllegalTransition
from events.folding import forget_success, is_member, leave_queue, make_ready, not_held, record, succeed
from events.pull_request import FINISHED, PrState
from events.records import PrRecord, import_key, posix
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
from events.work import Stage, VerificationRules

__all__ = ["evolve", "fold"]

_FIND_SIMILAR, _LLM_GENERATE = PrState.FIND_SIMILAR, Stage.LLM_GENERATE
"""Members of an enum are slow to look up on their class, and these are compared with at every event."""
_ENTERED = {stage: f"StageEntered:{stage.value}" for stage in Stage}


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


def _claimed(state: RepositoryState, event: RepositoryClaimed) -> None:
    state.incarnation = event.incarnation
    if state.sweep != event.sweep:
        state.sweep = event.sweep
        state.ready.clear()
        state.queued.clear()
        state.reindex()
        for number in sorted(state.members.get(event.sweep, ())):
            if state.prs[number].state in (PrState.QUEUED, PrState.FIND_SIMILAR):
                make_ready(state, state.prs[number])


def _admitted(state: RepositoryState, event: PullRequestsAdmitted) -> None:
    changed = [one for one in event.pull_requests if _is_other_job(state, one, event.rules)]
    for one in changed:
        if one.issue_number in state.prs:
            record(state, one.issue_number, "PullRequestsAdmitted")
    state.policy = event.policy
    members = state.members.setdefault(event.sweep, set())
    members.update(one.issue_number for one in event.pull_requests)
    for one in changed:
        known = state.prs.get(one.issue_number)
        if known is not None:
            forget_success(state, known)
            leave_queue(state, one.issue_number)
            not_held(state, known)
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
            make_ready(state, pr)
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
        moved = [record(state, number, trigger) for number in (event.issue_number, *event.others)]
    else:
        moved = [record(state, event.issue_number, trigger)]
    reason, queued = event.reason, state.queued
    for pr, to in moved:
        pr.state, pr.reason = to, reason
        if pr.behind is not None:
            not_held(state, pr)
        queued.pop(pr.issue_number, None)
        if to is _FIND_SIMILAR:
            make_ready(state, pr)


def _cache_hit(state: RepositoryState, event: CacheHit) -> None:
    pr, to = record(state, event.issue_number, "CacheHit")
    pr.verified_by, pr.tests = Stage.CHECK_CACHE, event.tests
    succeed(state, pr, to, event.context, event.reason)


def _held(state: RepositoryState, event: PullRequestHeld) -> None:
    numbers = (event.issue_number, *event.others)
    moved = [record(state, number, "PullRequestHeld") for number in numbers]
    for pr, to in moved:
        pr.state, pr.reason, pr.behind = to, event.reason, event.behind
        leave_queue(state, pr.issue_number)
        state.waiting[pr.issue_number] = None
    state.held.setdefault(event.behind, {}).update(dict.fromkeys(numbers))


def _lease_awaited(state: RepositoryState, event: LeaseAwaited) -> None:
    pr, to = record(state, event.issue_number, "LeaseAwaited")
    pr.state, pr.reason = to, event.reason
    leave_queue(state, event.issue_number)
    state.waiting[event.issue_number] = None


def _neighbours_queued(state: RepositoryState, event: NeighboursQueued) -> None:
    for number in event.issue_numbers:
        if number not in state.prs:
            subject = f"{state.repository}#{number}"
            raise IllegalTransition(machine="pull request", state="unknown", event="NeighboursQueued", subject=subject)
    for number in event.issue_numbers:
        pr = state.prs[number]
        if not pr.reached:
            pr.reached = True
            if pr.state not in FINISHED and is_member(state, number):
                remove_place(state.unreached, (pr.at, number))
                insort(state.open, (pr.at, number))
        if pr.state in (PrState.QUEUED, PrState.FIND_SIMILAR):
            make_ready(state, pr)


def _failed(state: RepositoryState, event: PullRequestFailed) -> None:
    pr, to = record(state, event.issue_number, "PullRequestFailed")
    pr.state, pr.reason = to, event.reason
    pr.failure_class = event.failure_class or pr.failure_class
    leave_queue(state, event.issue_number)
    state.close(pr)


def _reopened(state: RepositoryState, event: PullRequestReopened) -> None:
    pr, to = record(state, event.issue_number, "PullRequestReopened")
    if pr.state in FINISHED:
        forget_success(state, pr)
    state.forget_refutations(pr)
    pr.generation_ended, pr.failure_class = False, None
    _begin_anew(state, pr, to, event.reason)


def _begin_anew(state: RepositoryState, pr: PrRecord, to: PrState, reason: str) -> None:
    """A finished pull request is open again, with its budgets whole."""
    pr.state, pr.reason = to, reason
    pr.generations = pr.aborted = pr.rate_limits = pr.infra_failures = pr.runner_deaths = 0
    pr.not_before = 0.0
    pr.reached = True
    if is_member(state, pr.issue_number):
        insort(state.open, (pr.at, pr.issue_number))
    make_ready(state, pr)


def _revoked(state: RepositoryState, event: ContextRevoked) -> None:
    moved = [record(state, number, "ContextRevoked") for number in event.issue_numbers]
    gone = set(event.contexts)
    state.revoked.update((context, event.why) for context in event.contexts)
    state.imported = {key: one for key, one in state.imported.items() if one.context not in gone}
    for pr in state.prs.values():
        for context in pr.flaked.keys() & gone:
            del pr.flaked[context]
        if pr.made in gone:
            pr.made = None
    for number in [number for number in state.again if state.prs[number].again is None]:
        del state.again[number]
    for pr, to in moved:
        if event.attempt_id is not None and pr.verified_by is _LLM_GENERATE and pr.context == event.context:
            pr.generation_ended = True  # it was this pull request's session that tampered
        forget_success(state, pr)
        _begin_anew(state, pr, to, f"its context was revoked: {event.why}")


_HANDLERS: dict[type, Callable[[RepositoryState, Any], None]] = {
    RepositoryClaimed: _claimed,
    PullRequestsAdmitted: _admitted,
    ContextsImported: _imported,
    StageEntered: _stage_entered,
    CacheHit: _cache_hit,
    PullRequestHeld: _held,
    LeaseAwaited: _lease_awaited,
    AttemptStarted: attempt_started,
    AttemptSucceeded: attempt_succeeded,
    AttemptFailed: attempt_failed,
    AttemptRateLimited: attempt_rate_limited,
    AttemptInterrupted: attempt_interrupted,
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
