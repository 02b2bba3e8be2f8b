"""Fills free slots: takes pull requests through the cache, starts what is due, and lets the rest wait explicitly.

Pure, as :mod:`events.decide`, of which it is a part.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

from events.admitting import queue_neighbours
from events.candidates import Generate, GiveUp, Try, may_generate, policy_of, starting_context, without_agent
from events.commands import AwaitLease, FillSlots, Slot
from events.planner import Due, Gap, gap_of, gaps, plan
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

__all__ = ["await_lease", "fill", "give_up", "release"]


def fill(state: RepositoryState, command: FillSlots, now: float) -> list[RepositoryEvent]:
    """What shall run in the slots at ``now`` (POSIX seconds), and what waits for what."""
    if now < state.not_before or not command.slots or state.policy is None:
        return []
    events, state = _through_the_cache(state)
    free = list(command.slots)
    if not policy_of(state).generate:
        return events + _one_by_one(state, free, now)
    planned, left = _as_planned(state, free, now, awaits=command.awaits)
    events += planned
    events += _race(state, free, planned)
    if any(one.issue_number is None for one in free):
        events += _hold_the_rest(state, planned, now, left)
    return events


def await_lease(state: RepositoryState, command: AwaitLease, now: float) -> list[RepositoryEvent]:
    """Those of the pull requests whose session is due wait for a lease from now on."""
    if now < state.not_before or state.policy is None or not policy_of(state).generate:
        return []
    asked = set(command.issue_numbers)
    events: list[RepositoryEvent] = []
    for due in plan(state, slots=1, now=now):
        pr = due.pr
        if not isinstance(due.step, Generate) or pr.issue_number not in asked:
            continue
        if pr.state in (PrState.FIND_SIMILAR, PrState.HELD):
            events += _back(pr, "it is its turn")
            events.append(LeaseAwaited(issue_number=pr.issue_number, reason=command.reason, until=command.until))
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


def _as_planned(
    state: RepositoryState, free: list[Slot], now: float, *, awaits: bool
) -> tuple[list[RepositoryEvent], set[int]]:
    """The events of the plan, and whose session is due and waits for nothing yet; takes the slots that it uses out of
    ``free``."""
    events: list[RepositoryEvent] = []
    left: set[int] = set()
    for due in plan(state, slots=len(free), now=now):
        if not free:
            break
        pr, step = due.pr, due.step
        slot = _slot_for(due, free)
        if isinstance(step, GiveUp):
            events += _back(pr, "it is its turn")
            events.append(give_up(pr, step))
            continue
        if slot is None:
            if not isinstance(step, Generate):
                continue
            if not awaits:
                left.add(pr.issue_number)
            elif pr.state is not PrState.AWAITING_LEASE:
                events += _back(pr, "it is its turn")
                events.append(LeaseAwaited(issue_number=pr.issue_number, reason=f"no agent is free; {step.reason}"))
            continue
        if not (isinstance(step, Generate) and pr.state is PrState.AWAITING_LEASE):
            events += _back(pr, "it is its turn")
        free.remove(slot)
        events.append(_start(state, pr, slot, step))
    return events, left


def _slot_for(due: Due, free: Sequence[Slot]) -> Slot | None:
    """The slot for a step: for a session one with an agent for it, for all else rather one without."""
    if isinstance(due.step, Generate):
        mine = (None, due.pr.issue_number)
        return next((one for one in reversed(free) if one.agent is not None and one.issue_number in mine), None)
    open_to_all = [one for one in reversed(free) if one.issue_number is None]
    return next((one for one in open_to_all if one.agent is None), next(iter(open_to_all), None))


def _race(state: RepositoryState, free: list[Slot], planned: Sequence[RepositoryEvent]) -> list[RepositoryEvent]:
    """Further sessions on other accounts for pull requests on which one has failed before: the first verified wins."""
    events: list[RepositoryEvent] = []
    policy = policy_of(state)
    if policy.race <= 1:
        return events
    begun = [one for one in planned if isinstance(one, AttemptStarted) and one.stage is Stage.LLM_GENERATE]
    for slot in [one for one in free if one.agent is not None and one.issue_number is not None]:
        pr = state.prs.get(slot.issue_number or 0)
        if pr is None or pr.generations < 1:
            continue
        number = pr.issue_number
        accounts = [one.account for one in state.racing(number) if one.stage is Stage.LLM_GENERATE]
        accounts += [one.account for one in begun if one.issue_number == number]
        joins = 1 <= len(accounts) < policy.race
        if not joins or slot.account in accounts or not may_generate(state, pr, under_way=len(accounts)):
            continue
        others = f"{len(accounts)} other session{'s' * (len(accounts) != 1)}"
        reason = f"races {others} on it: the first that verifies it wins"
        started = _start(state, pr, slot, Generate(reason))
        free.remove(slot)
        begun.append(started)
        events.append(started)
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
        account=slot.account if generates else None,
        agent_lease=slot.agent_lease if generates else None,
        context=starting_context(state, pr) if generates else step.context,  # type: ignore[union-attr]
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


def _hold_the_rest(
    state: RepositoryState, decided: Iterable[RepositoryEvent], now: float, due: set[int]
) -> list[RepositoryEvent]:
    """Slots are left over: whoever is not due waits for an attempt, each part of a gap for the nearest in it.

    Whoever is to be left alone for a while is left out: it is due when that time is over.
    """
    new = [one for one in decided if isinstance(one, AttemptStarted)]
    busy = {one.attempt_id: (one.issue_number, one.stage) for one in state.inflight.values() if not one.lost}
    busy.update((one.attempt_id, (one.issue_number, one.stage)) for one in new)
    gone = {one.issue_number for one in decided if isinstance(one, (AttemptStarted, LeaseAwaited, PullRequestFailed))}
    gone |= due
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
