"""What to do next for one pull request: the order in which contexts are tried, and when to wait or to give up.

Pure and read-only: it looks at the state and says what is due; :mod:`events.decide` turns that into events.

The order for a pull request that is not in the cache:

1. the contexts of its nearest verified neighbours, one from each side of the time line first, then outwards, at most
   ``max_candidates`` in all and beyond those two only within the neighbour window;
2. the stock template, once;
3. if agents may be paid: wait for a generation in flight that may serve it, or else generate;
4. otherwise it has failed.

A context already refuted on a pull request is never tried on it again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

import msgspec

from events.records import PrRecord
from events.repository import RepositoryState
from events.work import CascadePolicy, Stage

__all__ = ["Generate", "GiveUp", "Hold", "Step", "Try", "candidates", "next_step"]

DAY_S = 86_400.0


class Try(msgspec.Struct, frozen=True):
    """Verify an existing context on the pull request. ``source``: the pull request that it was verified on."""

    stage: Stage
    context: str
    source: int | None
    reason: str


class Generate(msgspec.Struct, frozen=True):
    """Pay an agent."""

    reason: str


class Hold(msgspec.Struct, frozen=True):
    """Wait for the attempt ``behind``."""

    behind: str
    reason: str


class GiveUp(msgspec.Struct, frozen=True):
    """Nothing is left to try."""

    reason: str


Step = Try | Generate | Hold | GiveUp


def next_step(state: RepositoryState, pr: PrRecord, *, generating: dict[str, int], refuted: str | None = None) -> Step:
    """What is due for ``pr``.

    Args:
        state: the repository.
        pr: one of its pull requests, not in an attempt.
        generating: attempt id to issue number of the generations in flight or just decided.
        refuted: a context that an outcome not yet folded has just refuted on ``pr``.
    """
    policy = _policy(state)
    tried = pr.tried | {refuted} if refuted else pr.tried
    if len(tried - {policy.stock_context}) < policy.max_candidates:
        for source, context in candidates(state, pr, policy):
            if context not in tried:
                return Try(Stage.TRY_SIMILAR, context, source.issue_number, _why_candidate(pr, source))
    if policy.try_default and policy.stock_context not in tried:
        return Try(Stage.TRY_DEFAULT, policy.stock_context, None, "no neighbour's context is left to try")
    if not policy.generate:
        return GiveUp(_why_given_up(tried, "no agent is enabled"))
    if pr.generations >= policy.max_attempts:
        return GiveUp(_why_given_up(tried, f"all {policy.max_attempts} generations failed"))
    for attempt_id, number in generating.items():
        if number != pr.issue_number and not _separated(state, pr, state.prs[number]):
            return Hold(attempt_id, f"PR {number}'s generation may serve it")
    return Generate("no known context builds it")


def candidates(state: RepositoryState, pr: PrRecord, policy: CascadePolicy) -> Iterator[tuple[PrRecord, str]]:
    """Verified neighbours with their contexts: the nearest of each side first, then by distance within the window."""
    seen: set[str] = set()
    for rank, source in enumerate(_outwards(state, pr)):
        if rank >= 2 and abs(source.at - pr.at) > policy.window_days * DAY_S:
            return
        if source.context is not None and source.context not in seen:
            seen.add(source.context)
            yield source, source.context


def _outwards(state: RepositoryState, pr: PrRecord) -> Iterator[PrRecord]:
    """Verified pull requests: the nearest of each side, then all others by distance."""
    line = state.verified
    right = bisect_left(line, (pr.at, pr.issue_number))
    left = right - 1
    for index in (left, right):
        if 0 <= index < len(line):
            yield state.prs[line[index][1]]
    left, right = left - 1, right + 1
    while left >= 0 or right < len(line):
        if right >= len(line) or (left >= 0 and pr.at - line[left][0] <= line[right][0] - pr.at):
            yield state.prs[line[left][1]]
            left -= 1
        else:
            yield state.prs[line[right][1]]
            right += 1


def _separated(state: RepositoryState, pr: PrRecord, other: PrRecord) -> bool:
    """Whether a verified pull request lies between the two: its context was tried on ``pr`` first and refuted."""
    low, high = sorted(((pr.at, pr.issue_number), (other.at, other.issue_number)))
    index = bisect_left(state.verified, low)
    return index < len(state.verified) and state.verified[index] < high


def _why_candidate(pr: PrRecord, source: PrRecord) -> str:
    days = abs(source.at - pr.at) / DAY_S
    side = "left" if (source.at, source.issue_number) < (pr.at, pr.issue_number) else "right"
    return f"tries PR {source.issue_number}'s context: verified on the {side}, {days:.0f} days away"


def _why_given_up(tried: frozenset[str] | set[str], end: str) -> str:
    return f"{len(tried)} context{'s' * (len(tried) != 1)} refuted, {end}"


def _policy(state: RepositoryState) -> CascadePolicy:
    assert state.policy is not None, "a pull request is only ever admitted together with a policy"  # noqa: S101
    return state.policy
