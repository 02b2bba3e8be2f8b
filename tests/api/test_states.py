"""A trace tells one pull request's steps, whoever else is in the same events."""

from __future__ import annotations

from actors.api.states import SynthesisState, trace_of
from events.types import AttemptStarted, PullRequestFailed, PullRequestHeld, RepositoryEvent, StageEntered
from events.work import Stage

S = SynthesisState


def entered(number: int, stage: Stage, *others: int) -> StageEntered:
    return StageEntered(issue_number=number, stage=stage, others=list(others))


def started(number: int, stage: Stage) -> AttemptStarted:
    return AttemptStarted(attempt_id="a", issue_number=number, stage=stage, sweep="s", lease="l", runner="r")


def test_each_stage_and_each_attempt_is_a_step_and_so_is_the_failure() -> None:
    events: list[RepositoryEvent] = [
        entered(1, Stage.CHECK_CACHE, 2),
        entered(1, Stage.FIND_SIMILAR, 2),
        started(2, Stage.TRY_SIMILAR),
        started(1, Stage.TRY_DEFAULT),
        started(2, Stage.TRY_SIMILAR),
        started(2, Stage.LLM_GENERATE),
        PullRequestFailed(issue_number=2, reason="", stage="tests"),
    ]
    assert trace_of(events, 1) == [S.CHECK_CACHE, S.FIND_SIMILAR, S.TRY_DEFAULT]
    assert trace_of(events, 2) == [
        S.CHECK_CACHE,
        S.FIND_SIMILAR,
        S.TRY_SIMILAR,
        S.TRY_SIMILAR,
        S.LLM_GENERATE,
        S.FAIL,
    ]
    assert trace_of(events, 3) == []


def test_waiting_in_between_is_no_step() -> None:
    events: list[RepositoryEvent] = [
        entered(1, Stage.FIND_SIMILAR),
        PullRequestHeld(issue_number=1, behind="a", reason=""),
        entered(2, Stage.FIND_SIMILAR, 1),
        started(1, Stage.TRY_SIMILAR),
    ]
    assert trace_of(events, 1) == [S.FIND_SIMILAR, S.TRY_SIMILAR]
