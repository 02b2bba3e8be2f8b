"""What is due for one pull request alone: existing contexts in their order, the stock template, or giving up.

The order: the contexts of the nearest verified neighbours, one from each side of the time line first, then outwards
within the neighbour window; those that were refuted between their pull request and this one (beyond a boundary) come
last. Then claims: what the cache knows of pull requests nearby and has not verified under these rules. At most
``max_candidates`` in all, and none twice on one pull request, but for one whose verdict flaked: it comes first, once
more. Then the stock template. What is revoked is never tried.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

import msgspec

from events.records import PrRecord, posix
from events.repository_state import RepositoryState
from events.work import CascadePolicy, Stage

__all__ = [
    "DAY_S",
    "Generate",
    "GiveUp",
    "Step",
    "Try",
    "candidates",
    "claims",
    "last_resort",
    "may_generate",
    "may_try_stock",
    "once_more",
    "policy_of",
    "starting_context",
    "too_often_limited",
    "without_agent",
]

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


class GiveUp(msgspec.Struct, frozen=True):
    """Nothing is left to try."""

    reason: str


Step = Try | Generate | GiveUp


def without_agent(state: RepositoryState, pr: PrRecord, *, refuted: str | None = None) -> Try | GiveUp:
    """What is due for ``pr`` when no agent may be paid; ``refuted``: by an outcome that is not folded yet."""
    tried = pr.tried | {refuted} if refuted else pr.tried
    if pr.again is not None and pr.again != refuted:
        return once_more(pr, pr.again)
    step = next(candidates(state, pr, tried=tried), None) or next(claims(state, pr, tried=tried), None)
    if step is not None:
        return step
    stock = policy_of(state).stock_context
    if may_try_stock(state, pr) and stock != refuted:
        return Try(Stage.TRY_DEFAULT, stock, None, "no neighbour's context is left to try")
    return GiveUp(_why_given_up(tried, "no agent is enabled"))


def last_resort(state: RepositoryState, pr: PrRecord) -> Try | GiveUp:
    """What is due for ``pr`` when no session may be paid for it any more and no other can serve it."""
    step = next(candidates(state, pr, tried=pr.tried), None)
    return step or GiveUp(_why_given_up(pr.tried, _why_no_session(state, pr)))


def _why_no_session(state: RepositoryState, pr: PrRecord) -> str:
    policy = policy_of(state)
    if pr.generation_ended:
        return "an agent tampered, which ended its generation"
    if pr.rate_limits > policy.rl_max_retries:
        return too_often_limited(pr.rate_limits)
    if pr.aborted >= policy.max_aborted:
        return f"{pr.aborted} sessions ended without a verdict"
    return f"all {pr.generations} generations failed"


def too_often_limited(times: int) -> str:
    """Why no further session is paid for a pull request whose sessions met a limit so often."""
    return f"its sessions met a rate limit {times} times; `headrace retry` opens it again"


def may_generate(state: RepositoryState, pr: PrRecord, *, under_way: int = 0) -> bool:
    """Whether a session, beside those ``under_way``, may be paid for ``pr``: none of its budgets is spent, and no agent
    tampered on it."""
    policy = policy_of(state)
    return (
        pr.generations + under_way < policy.max_attempts
        and pr.aborted < policy.max_aborted
        and pr.rate_limits <= policy.rl_max_retries
        and not pr.generation_ended
    )


def starting_context(state: RepositoryState, pr: PrRecord) -> str | None:
    """What a session for ``pr`` starts from: what the last one on it left, else the nearest verified context, else the
    stock template; ``None`` where that is revoked, and its text is a start all the same."""
    if pr.made is not None and pr.made not in state.revoked:
        return pr.made
    nearest = next((one.context for one in _outwards(state, pr) if one.context is not None), None)
    stock = policy_of(state).stock_context
    return nearest or (stock if stock not in state.revoked else None)


def may_try_stock(state: RepositoryState, pr: PrRecord) -> bool:
    """Whether the stock template is enabled, trusted, and not refuted on ``pr``."""
    policy = policy_of(state)
    return policy.try_default and policy.stock_context not in pr.tried and policy.stock_context not in state.revoked


def once_more(pr: PrRecord, context: str) -> Try:
    """The second and last try of a context whose verdict was a flake; a session's own is an existing one by now."""
    flaked = pr.flaked[context]
    stage = Stage.TRY_SIMILAR if flaked.stage is Stage.LLM_GENERATE else flaked.stage
    if flaked.unjudged:
        return Try(stage, context, flaked.source, "a session made it and it has no verdict yet: the environment failed")
    return Try(stage, context, flaked.source, "its verdict was not the same twice: tries it once more")


def candidates(state: RepositoryState, pr: PrRecord, *, tried: set[str], most: int | None = None) -> Iterator[Try]:
    """Contexts to try on ``pr``, in their order; none once ``most`` (default: ``max_candidates``) were refuted.

    What is revoked does not count among these, and no verified pull request has it.
    """
    policy = policy_of(state)
    most = policy.max_candidates if most is None else min(most, policy.max_candidates)
    refuted = tried - {policy.stock_context}
    if state.revoked:
        refuted = refuted - state.revoked.keys()
    if len(refuted) >= most:
        return
    seen = set(tried)
    beyond: list[PrRecord] = []
    for rank, source in enumerate(_outwards(state, pr)):
        if rank >= 2 and abs(source.at - pr.at) > policy.window_days * DAY_S:
            break
        context = source.context
        if context is None or context in seen:
            continue
        seen.add(context)
        if _refuted_between(state, context, source, pr):
            beyond.append(source)
        else:
            yield _try(pr, source, "")
    for source in beyond:
        yield _try(pr, source, ", though it was refuted nearer")


def claims(state: RepositoryState, pr: PrRecord, *, tried: set[str]) -> Iterator[Try]:
    """Contexts that came in from the cache and that no pull request here has, nearest first.

    Bounded like ``candidates``: the two nearest, all others within the window, ``max_candidates`` refuted in all.
    """
    policy = policy_of(state)
    if not state.imported or len(tried - {policy.stock_context} - state.revoked.keys()) >= policy.max_candidates:
        return
    near = sorted(
        (abs(posix(one.created_at) - pr.at), one.issue_number, one.context) for one in state.imported.values()
    )
    seen: set[str] = set()
    for distance, number, context in near:
        if len(seen) >= 2 and distance > policy.window_days * DAY_S:
            return
        if context not in seen:
            seen.add(context)
            if context in tried or context == policy.stock_context:
                continue
            days = f"{distance / DAY_S:.0f} days away"
            reason = f"tries a context that is known of PR {number}, {days}, and not verified under these rules"
            yield Try(Stage.TRY_SIMILAR, context, None, reason)


def policy_of(state: RepositoryState) -> CascadePolicy:
    """The policy in force."""
    assert state.policy is not None, "a pull request is only ever admitted together with a policy"  # noqa: S101
    return state.policy


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


def _refuted_between(state: RepositoryState, context: str, source: PrRecord, pr: PrRecord) -> bool:
    places = state.refuted.get(context)
    if not places:
        return False
    low, high = sorted(((source.at, source.issue_number), (pr.at, pr.issue_number)))
    return bisect_right(places, low) < bisect_left(places, high)


def _try(pr: PrRecord, source: PrRecord, caveat: str) -> Try:
    assert source.context is not None  # noqa: S101 - candidates are verified
    days = abs(source.at - pr.at) / DAY_S
    side = "left" if (source.at, source.issue_number) < (pr.at, pr.issue_number) else "right"
    reason = f"tries PR {source.issue_number}'s context: verified on the {side}, {days:.0f} days away{caveat}"
    return Try(Stage.TRY_SIMILAR, source.context, source.issue_number, reason)


def _why_given_up(tried: set[str], end: str) -> str:
    return f"{len(tried)} context{'s' * (len(tried) != 1)} refuted, {end}"
