"""``decide(state, command, now)``: what a repository's stream must record next. Pure; ``evolve`` is its counterpart.

A command is a request from a shell: pull requests to admit, slots to fill, an outcome to take in. The answer is a
list of events, possibly empty; nothing is changed. The shell appends them, folds them, and only then acts. Ids and
times arrive in the command or as ``now`` (POSIX seconds).

Every command may be repeated: what the stream already says is not said again. An outcome for an attempt that is no
longer in flight yields nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

import msgspec

from events.admitting import admit, queue_neighbours
from events.commands import Admit, Claim, Command, FillSlots, ImportContexts, Interrupt, Slot, TakeOutcome
from events.planner import Generate, GiveUp, Hold, Step, Try, next_step
from events.pull_request import FINISHED, IN_ATTEMPT, PrState
from events.records import InFlight, PrRecord, import_key
from events.repository import RepositoryState
from events.types import (
    AttemptFailed,
    AttemptInterrupted,
    AttemptStarted,
    AttemptSucceeded,
    CacheHit,
    ContextsImported,
    LeaseAwaited,
    PullRequestFailed,
    PullRequestHeld,
    RepositoryClaimed,
    RepositoryEvent,
    StageEntered,
)
from events.work import CascadePolicy, FailureClass, Outcome, Stage

__all__ = ["decide", "is_drained"]

BACKOFF_S = 2.0
"""The first pause after an infra failure; each further one is twice as long."""
BACKOFF_MAX_S = 60.0
"""The longest pause of a repository."""
OWN_BACKOFF_MAX_S = 600.0
"""The longest pause of one pull request that meets them alone, or that kills its runners."""


def decide(state: RepositoryState, command: Command, now: float) -> list[RepositoryEvent]:
    """The events that ``command`` calls for in ``state`` at ``now`` (POSIX seconds)."""
    match command:
        case Claim():
            return [RepositoryClaimed(incarnation=command.incarnation, sweep=command.sweep)]
        case Admit():
            return admit(state, command)
        case ImportContexts():
            return _import(state, command)
        case FillSlots():
            return _fill(state, command.slots, now)
        case TakeOutcome():
            return _take_outcome(state, command, now)
        case Interrupt():
            return _interrupt(state, command, now)
        case _:
            assert_never(command)


# ---------------------------------------------------------------- the cache, and filling slots


def _import(state: RepositoryState, command: ImportContexts) -> list[RepositoryEvent]:
    new = [
        one
        for one in command.contexts
        if state.imported.get(import_key(one.issue_number, one.inputs, one.rules)) != one
    ]
    return [ContextsImported(contexts=new)] if new else []


def _fill(state: RepositoryState, slots: Sequence[Slot], now: float) -> list[RepositoryEvent]:
    if now < state.not_before:
        return []
    events: list[RepositoryEvent] = []
    generating = {
        one.attempt_id: one.issue_number for one in state.inflight.values() if one.stage is Stage.LLM_GENERATE
    }
    free = list(slots)
    for number in [*_to_look_at_again(state, free), *state.ready]:
        if not free:
            break
        pr = state.prs[number]
        if now < pr.not_before:
            continue
        entered, hit = _enter(state, pr)
        events += entered
        if hit is not None:
            events += [hit, *queue_neighbours(pr, _unreached(state), _policy(state))]
            continue
        events += _take_step(state, pr, next_step(state, pr, generating=generating), free, generating)
    return events


def _to_look_at_again(state: RepositoryState, free: list[Slot]) -> list[int]:
    """Those that wait for an agent, when one is there, or when none may be paid any more."""
    pays = state.policy is not None and state.policy.generate
    if pays and all(one.agent is None for one in free):
        return []
    return [number for number in state.waiting if _awaits_lease(state, number)]


def _take_step(
    state: RepositoryState, pr: PrRecord, step: Step, free: list[Slot], generating: dict[str, int]
) -> list[RepositoryEvent]:
    """The events of one step; takes the slot that it uses out of ``free``."""
    number, awaiting = pr.issue_number, pr.state is PrState.AWAITING_LEASE
    back = "what it waited for an agent for has changed"
    again: list[RepositoryEvent] = (
        [StageEntered(issue_number=number, stage=Stage.FIND_SIMILAR, reason=back)] if awaiting else []
    )
    match step:
        case Try():
            return [*again, _start(state, pr, free.pop(), step)]
        case Generate():
            slot = next((one for one in free if one.agent is not None), None)
            if slot is None:
                return [] if awaiting else [LeaseAwaited(issue_number=number, reason=step.reason)]
            free.remove(slot)
            generating[slot.attempt_id] = number
            return [_start_generation(state, pr, slot, step)]
        case Hold():
            return [*again, PullRequestHeld(issue_number=number, behind=step.behind, reason=step.reason)]
        case GiveUp():
            return [*again, _give_up(pr, step, pr.reason, stage=str(pr.state))]
        case _:
            assert_never(step)


def _awaits_lease(state: RepositoryState, number: int) -> bool:
    return state.prs[number].state is PrState.AWAITING_LEASE


def _enter(state: RepositoryState, pr: PrRecord) -> tuple[list[RepositoryEvent], CacheHit | None]:
    """Takes a queued pull request through the cache to ``find_similar``."""
    if pr.state is not PrState.QUEUED:
        return [], None
    number = pr.issue_number
    events: list[RepositoryEvent] = [StageEntered(issue_number=number, stage=Stage.CHECK_CACHE)]
    known = state.imported.get(import_key(number, pr.inputs, pr.rules))
    if known is not None:
        reason = f"already verified for these inputs by attempt {known.attempt_id}"
        return events, CacheHit(issue_number=number, context=known.context, attempt_id=known.attempt_id, reason=reason)
    reason = "the cache has no context for these inputs"
    return [*events, StageEntered(issue_number=number, stage=Stage.FIND_SIMILAR, reason=reason)], None


def _start(state: RepositoryState, pr: PrRecord, slot: Slot, step: Try) -> AttemptStarted:
    return AttemptStarted(
        attempt_id=slot.attempt_id,
        issue_number=pr.issue_number,
        stage=step.stage,
        sweep=state.sweep,
        lease=slot.lease,
        runner=slot.runner,
        context=step.context,
        source=step.source,
        reason=step.reason,
    )


def _start_generation(state: RepositoryState, pr: PrRecord, slot: Slot, step: Generate) -> AttemptStarted:
    return AttemptStarted(
        attempt_id=slot.attempt_id,
        issue_number=pr.issue_number,
        stage=Stage.LLM_GENERATE,
        sweep=state.sweep,
        lease=slot.lease,
        runner=slot.runner,
        agent=slot.agent,
        reason=step.reason,
    )


# ---------------------------------------------------------------- outcomes


def _take_outcome(state: RepositoryState, command: TakeOutcome, now: float) -> list[RepositoryEvent]:
    attempt = state.inflight.get(command.attempt_id)
    if attempt is None:
        return []
    outcome = command.outcome
    if outcome.cancelled:
        return _end_interrupted(state, attempt, outcome.message or "cancelled", outcome.blobs)
    pr = state.prs[attempt.issue_number]
    context = outcome.context or attempt.context
    if outcome.verified and context is not None:
        return _verified(state, attempt, pr, context, outcome)
    infra = outcome.failure_class is FailureClass.INFRA
    events: list[RepositoryEvent] = [
        AttemptFailed(
            attempt_id=attempt.attempt_id,
            issue_number=pr.issue_number,
            outcome=outcome,
            retry_at=_retry_at(state, pr, now) if infra else None,
        )
    ]
    if not infra:
        generating = {
            one.attempt_id: one.issue_number
            for one in state.inflight.values()
            if one.stage is Stage.LLM_GENERATE and one is not attempt
        }
        spent = pr
        if attempt.stage is Stage.LLM_GENERATE:
            spent = msgspec.structs.replace(pr, generations=pr.generations + 1)
        step = next_step(state, spent, generating=generating, refuted=context)
        if isinstance(step, GiveUp):
            events.append(_give_up(pr, step, outcome.message, stage=outcome.stage, cls=outcome.failure_class))
    return events + _release(state, attempt, f"PR {pr.issue_number}'s generation failed")


def _retry_at(state: RepositoryState, pr: PrRecord, now: float) -> float:
    """When to try again after an infra failure: with everybody else in one outage, or alone, later and later."""
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
    queued = queue_neighbours(pr, _unreached(state), _policy(state))
    released = _release(state, attempt, f"PR {number}'s generation was verified: its context comes first")
    return [succeeded, *queued, *released]


def _unreached(state: RepositoryState) -> list[tuple[float, int]]:
    """Times and numbers of the active sweep's pull requests that no cascade has reached."""
    members = state.members.get(state.sweep, set())
    return [(pr.at, pr.issue_number) for pr in state.prs.values() if not pr.reached and pr.issue_number in members]


def _policy(state: RepositoryState) -> CascadePolicy:
    assert state.policy is not None, "a pull request is only ever admitted together with a policy"  # noqa: S101
    return state.policy


def _give_up(
    pr: PrRecord, step: GiveUp, message: str, *, stage: str, cls: FailureClass | None = None
) -> PullRequestFailed:
    reason = f"{message} ({step.reason})" if message and message != step.reason else step.reason
    return PullRequestFailed(issue_number=pr.issue_number, reason=reason, stage=stage, failure_class=cls)


def _interrupt(state: RepositoryState, command: Interrupt, now: float) -> list[RepositoryEvent]:
    attempt = state.inflight.get(command.attempt_id)
    if attempt is None:
        return []
    retry_at = None
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
) -> list[RepositoryEvent]:
    ended = AttemptInterrupted(
        attempt_id=attempt.attempt_id,
        issue_number=attempt.issue_number,
        reason=reason,
        blobs=blobs,
        retry_at=retry_at,
    )
    return [ended, *_release(state, attempt, f"PR {attempt.issue_number}'s generation was interrupted")]


def _release(state: RepositoryState, attempt: InFlight, reason: str) -> list[RepositoryEvent]:
    """Frees what waits for this attempt; after a generation also what waits for an agent, for it may be served now."""
    if attempt.stage is not Stage.LLM_GENERATE:
        return []
    return [
        StageEntered(issue_number=number, stage=Stage.FIND_SIMILAR, reason=reason)
        for number in state.waiting
        if state.prs[number].behind == attempt.attempt_id or _awaits_lease(state, number)
    ]


def is_drained(state: RepositoryState) -> bool:
    """Whether the active sweep has nothing left to do here: all finished, or not reached by any cascade."""
    if state.inflight:
        return False
    for number in state.members.get(state.sweep, ()):
        pr = state.prs[number]
        if pr.state in IN_ATTEMPT or (pr.state not in FINISHED and pr.reached):
            return False
    return True
