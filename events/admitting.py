"""How pull requests join a timeline, and how the cascade's queue reaches those that were not seeded. Pure.

Admitting the same rows under the same rules and policy again says nothing. Other inputs or rules make another job of a
pull request; a sweep that admits one that has failed in an earlier sweep opens it again; one that is verified already
starts the cascade at once.
"""

from __future__ import annotations

from bisect import bisect_left

import msgspec

from events.candidates import DAY_S
from events.commands import Admit
from events.pull_request import PrState
from events.records import Place, PrRecord, posix
from events.repository_state import RepositoryState
from events.types import Admission, NeighboursQueued, PullRequestReopened, PullRequestsAdmitted, RepositoryEvent
from events.work import CascadePolicy, VerificationRules

__all__ = ["admit", "queue_neighbours"]


def admit(state: RepositoryState, command: Admit) -> list[RepositoryEvent]:
    """The events that bring a sweep's pull requests in, as far as they are not in already."""
    reached = {number for number, pr in state.prs.items() if pr.reached}
    rows = _limit_seeds(command.pull_requests, command.policy.tasks_per_repo, reached)
    members = state.members.get(command.sweep, set())
    events: list[RepositoryEvent] = []
    new = [
        one
        for one in rows
        if one.issue_number not in members
        or _differs(state, one, command.rules)
        or (one.seed and not state.prs[one.issue_number].reached)
    ]
    if new or state.policy != command.policy:
        events.append(
            PullRequestsAdmitted(sweep=command.sweep, rules=command.rules, policy=command.policy, pull_requests=new)
        )
    unreached = sorted(
        (posix(one.created_at), one.issue_number)
        for one in new
        if not one.seed and not (one.issue_number in state.prs and state.prs[one.issue_number].reached)
    )
    for one in new:
        known = state.prs.get(one.issue_number)
        if known is None or _differs(state, one, command.rules):
            continue
        if known.state is PrState.FAILED:
            reason = f"sweep {command.sweep} admits it anew"
            events.append(PullRequestReopened(issue_number=one.issue_number, sweep=command.sweep, reason=reason))
    changed = {one.issue_number for one in new if _differs(state, one, command.rules)}
    wanted = members | {one.issue_number for one in new}
    for _, number in state.verified:
        if unreached and number in wanted and number not in changed:
            events += queue_neighbours(state.prs[number], unreached, command.policy)
    return events


def queue_neighbours(pr: PrRecord, unreached: list[Place], policy: CascadePolicy) -> list[RepositoryEvent]:
    """The event that queues the nearest of ``unreached`` (ordered by time), which it takes out of the list."""
    chosen: list[int] = []
    reach = policy.window_days * DAY_S
    right = bisect_left(unreached, (pr.at, pr.issue_number))
    left = right - 1
    while len(chosen) < policy.neighbor_cap and (left >= 0 or right < len(unreached)):
        before = pr.at - unreached[left][0] if left >= 0 else float("inf")
        after = unreached[right][0] - pr.at if right < len(unreached) else float("inf")
        if min(before, after) > reach:
            break
        if before <= after:
            chosen.append(unreached[left][1])
            left -= 1
        else:
            chosen.append(unreached[right][1])
            right += 1
    if not chosen:
        return []
    del unreached[left + 1 : right]
    reason = f"PR {pr.issue_number} is verified; these are its nearest neighbours that no cascade had reached"
    return [NeighboursQueued(source=pr.issue_number, issue_numbers=chosen, reason=reason)]


def _differs(state: RepositoryState, one: Admission, rules: VerificationRules) -> bool:
    known = state.prs.get(one.issue_number)
    return known is None or known.inputs != one.inputs or known.rules != rules


def _limit_seeds(rows: list[Admission], limit: int, reached: set[int]) -> list[Admission]:
    """Keeps at most ``limit`` seeds, those already reached among them, the rest spread evenly over the time line; 0
    keeps all."""
    seeds = sorted((one for one in rows if one.seed), key=lambda one: (posix(one.created_at), one.issue_number))
    if limit <= 0 or len(seeds) <= limit:
        return rows
    kept = {one.issue_number for one in seeds if one.issue_number in reached}
    fresh = [one.issue_number for one in seeds if one.issue_number not in kept]
    more = max(0, limit - len(kept))
    kept |= {fresh[(2 * i + 1) * len(fresh) // (2 * more)] for i in range(more)}
    return [
        msgspec.structs.replace(one, seed=False) if one.seed and one.issue_number not in kept else one for one in rows
    ]
