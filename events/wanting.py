"""What a repository would start now, if it were given runners and agents: what its shell asks the governor for. Pure.

A shell asks for runners only while something is due that needs no agent, and for a session by the pull request that it
is for, so that the governor can tell which serves most. Nothing is asked for that would not be used: a repository whose
only work waits for an agent asks once and then waits.
"""

from __future__ import annotations

import msgspec

from events.candidates import Generate, may_generate, policy_of
from events.planner import Due, plan
from events.pull_request import IN_ATTEMPT, PrState
from events.records import PrRecord
from events.repository_state import RepositoryState
from events.work import Stage

__all__ = ["SessionWanted", "Wanted", "wanted"]


class SessionWanted(msgspec.Struct, frozen=True):
    """A session for this pull request; ``unlocks``: how many open ones it may serve, 0 for one that joins a race."""

    issue_number: int
    unlocks: int


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """``runners``: how many for work without agents. ``next_at``: when more is due by time alone, in POSIX seconds."""

    runners: int = 0
    sessions: tuple[SessionWanted, ...] = ()
    next_at: float | None = None


def wanted(state: RepositoryState, *, most: int, now: float) -> Wanted:
    """What would be started at ``now`` (POSIX seconds), with at most ``most`` runners."""
    if state.policy is None or not (state.ready or state.waiting or state.inflight):
        return Wanted()
    if now < state.not_before:
        return Wanted(next_at=state.not_before)
    waits = [state.prs[number].not_before for _, number in state.open if state.prs[number].state not in IN_ATTEMPT]
    next_at = min((one for one in waits if one > now), default=None)
    ready = [number for number in state.ready if state.prs[number].not_before <= now]
    if not policy_of(state).generate:
        members = state.members.get(state.sweep, set())
        stopped = [number for number in state.waiting if number in members and state.prs[number].not_before <= now]
        return Wanted(runners=len(ready) + len(stopped), next_at=next_at)
    if state.queued:  # what the cache has for them comes first
        return Wanted(runners=len(ready), next_at=next_at)
    due = plan(state, slots=most, now=now)
    sessions = [one for one in due if isinstance(one.step, Generate)]
    others = len(due) - len(sessions)
    planned = {one.pr.issue_number for one in due}
    idle = any(not one.lost for one in state.inflight.values()) and any(number not in planned for number in ready)
    return Wanted(runners=others + idle, sessions=(*_first(sessions), *_rivals(state, sessions)), next_at=next_at)


def _first(sessions: list[Due]) -> list[SessionWanted]:
    return [SessionWanted(one.pr.issue_number, one.unlocks) for one in sessions]


def _rivals(state: RepositoryState, sessions: list[Due]) -> list[SessionWanted]:
    """Further sessions for pull requests on which one has failed, beside the one that is due or under way."""
    race = policy_of(state).race
    if race <= 1:
        return []
    found: list[SessionWanted] = []
    for due in sessions:
        found += _joining(state, due.pr, under_way=1, race=race)
    under_way: dict[int, int] = {}
    for one in state.inflight.values():
        if one.stage is Stage.LLM_GENERATE and not one.lost:
            under_way[one.issue_number] = under_way.get(one.issue_number, 0) + 1
    for number, count in under_way.items():
        pr = state.prs[number]
        if pr.state is PrState.LLM_GENERATE:
            found += _joining(state, pr, under_way=count, race=race)
    return found


def _joining(state: RepositoryState, pr: PrRecord, *, under_way: int, race: int) -> list[SessionWanted]:
    if pr.generations < 1:
        return []
    return [
        SessionWanted(pr.issue_number, 0)
        for count in range(under_way, race)
        if may_generate(state, pr, under_way=count)
    ]
