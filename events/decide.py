"""``decide(state, command, now)``: what a repository's stream must record next. Pure; ``evolve`` is its counterpart.

A command is a request from a shell: pull requests to admit, slots to fill, an outcome to take in. The answer is a
list of events, possibly empty; nothing is changed. The shell appends them, folds them, and only then acts. Ids and
times arrive in the command or as ``now`` (POSIX seconds).

Every command may be repeated: what the stream already says is not said again. An outcome for an attempt that is no
longer in flight yields nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import assert_never

import msgspec

from events.candidates import DAY_S, GiveUp, policy_of, without_agent
from events.filling import Slot, fill, give_up, release
from events.pull_request import PrState
from events.repository_state import InFlight, PrRecord, RepositoryState, posix
from events.types import (
    Admission,
    AttemptFailed,
    AttemptInterrupted,
    AttemptSucceeded,
    ContextsImported,
    ImportedContext,
    NeighboursQueued,
    PullRequestReopened,
    PullRequestsAdmitted,
    RepositoryClaimed,
    RepositoryEvent,
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
            return fill(state, command.slots, now)
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
    if not infra and not policy_of(state).generate:
        step = without_agent(state, pr, refuted=context)
        if isinstance(step, GiveUp):
            end = give_up(pr, step, message=outcome.message, stage=outcome.stage, cls=outcome.failure_class)
            events.append(end)
    return events + release(state, attempt, context=None, reason=f"PR {pr.issue_number}'s {_noun(attempt)} failed")


def _noun(attempt: InFlight) -> str:
    return "generation" if attempt.stage is Stage.LLM_GENERATE else "verification"


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
    return events + release(state, attempt, context=context, reason=f"PR {number} is verified: its context comes first")


def _unreached_neighbours(state: RepositoryState, pr: PrRecord) -> list[int]:
    """Unreached pull requests within the window, nearest first, at most as many as the cap."""
    policy, line = state.policy, state.unreached
    if policy is None or not line:
        return []
    found: list[int] = []
    reach = policy.window_days * DAY_S
    right = bisect_left(line, (pr.at, pr.issue_number))
    left = right - 1
    while len(found) < policy.neighbor_cap:
        before = pr.at - line[left][0] if left >= 0 else float("inf")
        after = line[right][0] - pr.at if right < len(line) else float("inf")
        if min(before, after) > reach:
            break
        found.append(line[left][1] if before <= after else line[right][1])
        left, right = (left - 1, right) if before <= after else (left, right + 1)
    return found


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
    reason = f"PR {attempt.issue_number}'s {_noun(attempt)} was interrupted"
    return [ended, *release(state, attempt, context=None, reason=reason)]


def is_drained(state: RepositoryState) -> bool:
    """Whether the active sweep has nothing left to do here: all finished, or not reached by any cascade."""
    return not state.inflight and not state.open
