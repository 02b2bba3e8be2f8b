"""The plain worker-pool policy, for comparison: no single flight, no pivots, no evidence.

All pull requests of all repositories stand in one queue, in random order. A worker takes the next one and stays with
it: it tries the contexts of the verified neighbours within the window, nearest first, and when all of them are refuted
it starts a session of its own.
"""

from __future__ import annotations

from events.candidates import DAY_S
from events.commands import Slot
from events.repository_state import RepositoryState
from events.types import AttemptStarted, PullRequestFailed, RepositoryEvent, StageEntered
from events.work import Stage

__all__ = ["next_attempt"]

MAX_TRIES = 2


def next_attempt(state: RepositoryState, number: int, slot: Slot) -> list[RepositoryEvent]:
    """What a worker that holds ``slot`` does next for a pull request: an attempt, or giving it up.

    Nothing, if the attempt would be a session and the slot has no agent.
    """
    pr, policy = state.prs[number], state.policy
    assert policy is not None  # noqa: S101 - set with the first admission
    events: list[RepositoryEvent] = []
    if pr.state == "queued":
        for stage in (Stage.CHECK_CACHE, Stage.FIND_SIMILAR):
            events.append(StageEntered(issue_number=number, stage=stage))
    near = sorted(
        (abs(at - pr.at), other) for at, other in state.verified if abs(at - pr.at) <= policy.window_days * DAY_S
    )
    contexts: dict[str, int] = {}
    for _, other in near:
        context = state.prs[other].context
        if context is not None and context not in pr.tried:
            contexts.setdefault(context, other)
    if len(pr.tried) < MAX_TRIES and contexts:
        context, source = next(iter(contexts.items()))
        reason = f"PR {source}'s context: nearest that is verified"
        return [*events, _start(state, number, slot, Stage.TRY_SIMILAR, context=context, source=source, reason=reason)]
    if pr.generations >= policy.max_attempts or not policy.generate:
        return [*events, PullRequestFailed(issue_number=number, reason="nothing is left to try", stage="find_similar")]
    if slot.agent is None:
        return []
    return [*events, _start(state, number, slot, Stage.LLM_GENERATE, reason="no neighbour's context builds it")]


def _start(
    state: RepositoryState,
    number: int,
    slot: Slot,
    stage: Stage,
    *,
    reason: str,
    context: str | None = None,
    source: int | None = None,
) -> AttemptStarted:
    return AttemptStarted(
        attempt_id=slot.attempt_id,
        issue_number=number,
        stage=stage,
        sweep=state.sweep,
        lease=slot.lease,
        runner=slot.runner,
        agent=slot.agent if stage is Stage.LLM_GENERATE else None,
        account=slot.account if stage is Stage.LLM_GENERATE else None,
        agent_lease=slot.agent_lease if stage is Stage.LLM_GENERATE else None,
        context=context,
        source=source,
        reason=reason,
    )
