"""Fills free slots: takes pull requests through the cache, starts what is due, and lets the rest wait explicitly.

Pure, as :mod:`events.decide`, of which it is a part.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

from events.admitting import queue_neighbours
from events.candidates import Generate, GiveUp, Try, policy_of, without_agent
from events.commands import Slot
from events.planner import Gap, gap_of, gaps, plan
from events.pull_request import IN_ATTEMPT, PrState
from events.records import InFlight, PrRecord, import_key
from events.repository import evolve
from events.repository_state import RepositoryState
from events.types import (
    AttemptStarted,
    CacheHit,
    LeaseAwaited,
    PullRequestFailed,
    PullRequestHeld,
    RepositoryEvent,
    StageEntered,
)
from events.work import FailureClass, Stage

__all__ = ["fill", "give_up", "release"]


def fill(state: RepositoryState, slots: Sequence[Slot], now: float) -> list[RepositoryEvent]:
    """What shall run in ``slots`` at ``now`` (POSIX seconds), and what waits for what."""
    if now < state.not_before or not slots or state.policy is None:
        return []
    events, state = _through_the_cache(state)
    free = list(slots)
    if not policy_of(state).generate:
        return events + _one_by_one(state, free, now)
    started = _as_planned(state, free, now)
    events += started
    if free:
        events += _hold_the_rest(state, started, now)
    return events


def _through_the_cache(state: RepositoryState) -> tuple[list[RepositoryEvent], RepositoryState]:
    """Takes all queued pull requests, and those that a hit brings in, to ``find_similar`` or to success.

    Returns the events, and the state after them, or ``state`` itself where they change nothing that a plan looks at.
    """
    events = _enter(state)
    if not any(isinstance(one, CacheHit) for one in events):
        return events, state
    state, done = copy.deepcopy(state), events
    while done:
        for event in done:
            evolve(state, event)
        done = _enter(state)
        events = events + done
    return events, state


def _enter(state: RepositoryState) -> list[RepositoryEvent]:
    """Looks all queued pull requests up in the cache."""
    fresh = list(state.queued)
    if not fresh:
        return []
    events: list[RepositoryEvent] = [StageEntered(issue_number=fresh[0], stage=Stage.CHECK_CACHE, others=fresh[1:])]
    missed = []
    unreached = list(state.unreached)
    for number in fresh:
        pr = state.prs[number]
        known = state.imported.get(import_key(number, pr.inputs, pr.rules)) if state.imported else None
        if known is None:
            missed.append(number)
            continue
        why = f"already verified for these inputs by attempt {known.attempt_id}"
        events.append(
            CacheHit(
                issue_number=number,
                context=known.context,
                attempt_id=known.attempt_id,
                reason=why,
                tests=known.tests,
            )
        )
        events += queue_neighbours(pr, unreached, policy_of(state))
    if missed:
        reason = "the cache has no context for these inputs"
        entered = StageEntered(issue_number=missed[0], stage=Stage.FIND_SIMILAR, reason=reason, others=missed[1:])
        events.append(entered)
    return events


def _one_by_one(state: RepositoryState, free: list[Slot], now: float) -> list[RepositoryEvent]:
    """Without agents no pull request waits for another: each takes the next slot."""
    events: list[RepositoryEvent] = []
    members = state.members.get(state.sweep, set())
    for number in [*(number for number in state.waiting if number in members), *state.ready]:
        if not free:
            break
        pr = state.prs[number]
        if now < pr.not_before:
            continue
        if pr.state in (PrState.HELD, PrState.AWAITING_LEASE):
            reason = "no agent may be paid any more"
            events.append(StageEntered(issue_number=number, stage=Stage.FIND_SIMILAR, reason=reason))
        step = without_agent(state, pr)
        events.append(give_up(pr, step) if isinstance(step, GiveUp) else _start(state, pr, free.pop(), step))
    return events


def _as_planned(state: RepositoryState, free: list[Slot], now: float) -> list[RepositoryEvent]:
    """The events of the plan; takes the slots that it uses out of ``free``."""
    events: list[RepositoryEvent] = []
    for due in plan(state, slots=len(free), now=now):
        if not free:
            break
        pr, step = due.pr, due.step
        if isinstance(step, Generate):
            slot = next((one for one in reversed(free) if one.agent is not None), None)
        else:
            slot = next((one for one in reversed(free) if one.agent is None), free[-1])
        if slot is None:
            if pr.state is not PrState.AWAITING_LEASE:
                events += _back(pr, "it is its turn")
                events.append(LeaseAwaited(issue_number=pr.issue_number, reason=f"no agent is free; {step.reason}"))
            continue
        if not (isinstance(step, Generate) and pr.state is PrState.AWAITING_LEASE):
            events += _back(pr, "it is its turn")
        if isinstance(step, GiveUp):
            events.append(give_up(pr, step))
            continue
        free.remove(slot)
        events.append(_start(state, pr, slot, step))
    return events


def _back(pr: PrRecord, reason: str) -> list[RepositoryEvent]:
    if pr.state not in (PrState.HELD, PrState.AWAITING_LEASE):
        return []
    return [StageEntered(issue_number=pr.issue_number, stage=Stage.FIND_SIMILAR, reason=reason)]


def _start(state: RepositoryState, pr: PrRecord, slot: Slot, step: Try | Generate) -> AttemptStarted:
    generates = isinstance(step, Generate)
    return AttemptStarted(
        attempt_id=slot.attempt_id,
        issue_number=pr.issue_number,
        stage=Stage.LLM_GENERATE if generates else step.stage,  # type: ignore[union-attr]
        sweep=state.sweep,
        lease=slot.lease,
        runner=slot.runner,
        agent=slot.agent if generates else None,
        context=None if generates else step.context,  # type: ignore[union-attr]
        source=None if generates else step.source,  # type: ignore[union-attr]
        reason=step.reason,
    )


def give_up(
    pr: PrRecord, step: GiveUp, *, message: str = "", stage: str | None = None, cls: FailureClass | None = None
) -> PullRequestFailed:
    """The end of a pull request for which nothing is left to try; ``message``, ``cls``: how its last attempt ended.

    Where an agent tampered, that is why it fails, whatever was tried afterwards.
    """
    message = message or pr.reason
    cls = FailureClass.TAMPER if pr.generation_ended else cls or pr.failure_class
    reason = f"{message} ({step.reason})" if message and message != step.reason else step.reason
    return PullRequestFailed(
        issue_number=pr.issue_number, reason=reason, stage=stage or str(pr.state), failure_class=cls
    )


# ---------------------------------------------------------------- waiting


def _hold_the_rest(state: RepositoryState, decided: Iterable[RepositoryEvent], now: float) -> list[RepositoryEvent]:
    """Slots are left over: whoever is not due waits for an attempt, each part of a gap for the nearest in it.

    Whoever is to be left alone for a while is left out: it is due when that time is over.
    """
    new = [one for one in decided if isinstance(one, AttemptStarted)]
    busy = {one.attempt_id: (one.issue_number, one.stage) for one in state.inflight.values()}
    busy.update((one.attempt_id, (one.issue_number, one.stage)) for one in new)
    gone = {one.issue_number for one in decided if isinstance(one, (AttemptStarted, LeaseAwaited, PullRequestFailed))}
    if not busy or not any(number not in gone for number in state.ready):
        return []
    events: list[RepositoryEvent] = []
    for gap in gaps(state):
        rest = [
            n
            for _, n in state.open[gap.start : gap.end]
            if n in state.ready and n not in gone and now >= state.prs[n].not_before
        ]
        if not rest:
            continue
        behind, number, stage = _whom_to_wait_for(state, gap, busy)
        what = "generation may serve it" if stage is Stage.LLM_GENERATE else "verification shows which context fits"
        reason = f"PR {number}'s {what}"
        events.append(PullRequestHeld(issue_number=rest[0], behind=behind, reason=reason, others=rest[1:]))
    return events


def _whom_to_wait_for(state: RepositoryState, gap: Gap, busy: dict[str, tuple[int, Stage]]) -> tuple[str, int, Stage]:
    middle = state.prs[state.open[(gap.start + gap.end) // 2][1]].at
    low, high = state.open[gap.start], state.open[gap.end - 1]

    def rank(attempt_id: str) -> tuple[bool, bool, float]:
        number, stage = busy[attempt_id]
        pr = state.prs[number]
        return not low <= (pr.at, number) <= high, stage is not Stage.LLM_GENERATE, abs(pr.at - middle)

    behind = min(busy, key=rank)
    return behind, *busy[behind]


def release(state: RepositoryState, attempt: InFlight, *, context: str | None, reason: str) -> list[RepositoryEvent]:
    """Who need not wait any more once ``attempt`` has ended; ``context``: what it verified, if anything.

    Whoever waits for it, and, where it may have changed what is known of a stretch, whoever waits there.
    """
    found = dict.fromkeys(state.held.get(attempt.attempt_id, ()))
    pr = state.prs[attempt.issue_number]
    if state.waiting:
        gap = gap_of(state, (pr.at, pr.issue_number))
        news = gap is not None and (gap.context is None or gap.context != context)
        if gap is not None and news:
            found.update((n, None) for _, n in state.open[gap.start : gap.end] if n in state.waiting)
    numbers = [n for n in found if n != pr.issue_number and state.prs[n].state not in IN_ATTEMPT]
    if not numbers:
        return []
    return [StageEntered(issue_number=numbers[0], stage=Stage.FIND_SIMILAR, reason=reason, others=numbers[1:])]
