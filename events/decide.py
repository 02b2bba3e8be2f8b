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

from events.planner import DAY_S, Generate, GiveUp, Hold, Step, Try, next_step
from events.pull_request import FINISHED, IN_ATTEMPT, PrState
from events.repository import InFlight, PrRecord, RepositoryState, posix
from events.types import (
    Admission,
    AttemptFailed,
    AttemptInterrupted,
    AttemptStarted,
    AttemptSucceeded,
    CacheHit,
    ContextsImported,
    ImportedContext,
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
from events.work import CascadePolicy, FailureClass, Outcome, Stage, VerificationRules

__all__ = [
    "Admit",
    "Claim",
    "Command",
    "FillSlots",
    "ImportContexts",
    "Interrupt",
    "Slot",
    "TakeOutcome",
    "decide",
    "is_drained",
]

INFRA_BACKOFF_S = 2.0
INFRA_BACKOFF_MAX_S = 60.0


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """An actor takes the stream over for a sweep."""

    incarnation: str
    sweep: str


class Admit(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep's pull requests of this repository."""

    sweep: str
    rules: VerificationRules
    policy: CascadePolicy
    pull_requests: list[Admission]


class ImportContexts(msgspec.Struct, frozen=True, kw_only=True):
    """What the build-context cache knows of this repository."""

    contexts: list[ImportedContext]


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """A leased place on a runner, and the id that an attempt in it would get. ``agent``: may pay that agent."""

    attempt_id: str
    lease: str
    runner: str
    agent: str | None = None


class FillSlots(msgspec.Struct, frozen=True, kw_only=True):
    """Slots are free: what shall run in them?"""

    slots: Sequence[Slot]


class TakeOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt has ended."""

    attempt_id: str
    outcome: Outcome


class Interrupt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt's processes are gone and it left no outcome."""

    attempt_id: str
    reason: str
    blobs: dict[str, str] = msgspec.field(default_factory=dict)


Command = Claim | Admit | ImportContexts | FillSlots | TakeOutcome | Interrupt


def decide(state: RepositoryState, command: Command, now: float) -> list[RepositoryEvent]:
    """The events that ``command`` calls for in ``state`` at ``now`` (POSIX seconds)."""
    match command:
        case Claim():
            return [RepositoryClaimed(incarnation=command.incarnation, sweep=command.sweep)]
        case Admit():
            return _admit(state, command)
        case ImportContexts():
            return _import(state, command)
        case FillSlots():
            return _fill(state, command.slots, now)
        case TakeOutcome():
            return _take_outcome(state, command, now)
        case Interrupt():
            return _interrupt(state, command)
        case _:
            assert_never(command)


# ---------------------------------------------------------------- admission


def _admit(state: RepositoryState, command: Admit) -> list[RepositoryEvent]:
    rows = _limit_seeds(command.pull_requests, command.policy.tasks_per_repo)
    members = state.members.get(command.sweep, set())
    events: list[RepositoryEvent] = []
    new = [one for one in rows if one.issue_number not in members or _differs(state, one, command.rules)]
    if new or state.policy != command.policy:
        events.append(
            PullRequestsAdmitted(sweep=command.sweep, rules=command.rules, policy=command.policy, pull_requests=new)
        )
    for one in new:
        known = state.prs.get(one.issue_number)
        if known is not None and known.state is PrState.FAILED and not _differs(state, one, command.rules):
            reason = f"sweep {command.sweep} admits it anew"
            events.append(PullRequestReopened(issue_number=one.issue_number, sweep=command.sweep, reason=reason))
    return events


def _differs(state: RepositoryState, one: Admission, rules: VerificationRules) -> bool:
    known = state.prs.get(one.issue_number)
    return known is None or known.inputs != one.inputs or known.rules != rules


def _limit_seeds(rows: list[Admission], limit: int) -> list[Admission]:
    """Keeps at most ``limit`` seeds, spread evenly over the time line; 0 keeps all."""
    seeds = sorted((one for one in rows if one.seed), key=lambda one: (posix(one.created_at), one.issue_number))
    if limit <= 0 or len(seeds) <= limit:
        return rows
    kept = {seeds[(2 * i + 1) * len(seeds) // (2 * limit)].issue_number for i in range(limit)}
    return [
        msgspec.structs.replace(one, seed=False) if one.seed and one.issue_number not in kept else one for one in rows
    ]


def _import(state: RepositoryState, command: ImportContexts) -> list[RepositoryEvent]:
    new = [one for one in command.contexts if state.imported.get(one.issue_number) != one]
    return [ContextsImported(contexts=new)] if new else []


# ---------------------------------------------------------------- filling slots


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
        entered, hit = _enter(state, pr)
        events += entered
        if hit is not None:
            events.append(hit)
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
    known = state.imported.get(number)
    if known is not None and known.inputs == pr.inputs and known.rules == pr.rules:
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
    backoff = min(INFRA_BACKOFF_MAX_S, INFRA_BACKOFF_S * 2.0 ** min(state.infra_streak, 10))
    events: list[RepositoryEvent] = [
        AttemptFailed(
            attempt_id=attempt.attempt_id,
            issue_number=pr.issue_number,
            outcome=outcome,
            retry_at=now + backoff if infra else None,
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


def _verified(
    state: RepositoryState, attempt: InFlight, pr: PrRecord, context: str, outcome: Outcome
) -> list[RepositoryEvent]:
    number = pr.issue_number
    events: list[RepositoryEvent] = [
        AttemptSucceeded(attempt_id=attempt.attempt_id, issue_number=number, context=context, outcome=outcome)
    ]
    reached = _unreached_neighbours(state, pr)
    if reached:
        reason = f"PR {number} is verified; these are its nearest neighbours that no cascade had reached"
        events.append(NeighboursQueued(source=number, issue_numbers=reached, reason=reason))
    return events + _release(state, attempt, f"PR {number}'s generation was verified: its context comes first")


def _unreached_neighbours(state: RepositoryState, pr: PrRecord) -> list[int]:
    policy = state.policy
    if policy is None:
        return []
    members = state.members.get(state.sweep, set())
    near = [
        (abs(other.at - pr.at), other.issue_number)
        for other in state.prs.values()
        if not other.reached and other.issue_number in members and abs(other.at - pr.at) <= policy.window_days * DAY_S
    ]
    return [number for _, number in sorted(near)[: policy.neighbor_cap]]


def _give_up(
    pr: PrRecord, step: GiveUp, message: str, *, stage: str, cls: FailureClass | None = None
) -> PullRequestFailed:
    reason = f"{message} ({step.reason})" if message and message != step.reason else step.reason
    return PullRequestFailed(issue_number=pr.issue_number, reason=reason, stage=stage, failure_class=cls)


def _interrupt(state: RepositoryState, command: Interrupt) -> list[RepositoryEvent]:
    attempt = state.inflight.get(command.attempt_id)
    if attempt is None:
        return []
    return _end_interrupted(state, attempt, command.reason, command.blobs)


def _end_interrupted(
    state: RepositoryState, attempt: InFlight, reason: str, blobs: dict[str, str]
) -> list[RepositoryEvent]:
    ended = AttemptInterrupted(
        attempt_id=attempt.attempt_id, issue_number=attempt.issue_number, reason=reason, blobs=blobs
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
