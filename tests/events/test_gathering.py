"""The gather machine and the waves that it covers."""

from __future__ import annotations

import msgspec
import pytest

from events.commands import TakeOutcome
from events.errors import IllegalTransition
from events.forcing import FORCED, force
from events.gather_events import GatherEvent, GatherFinished, GatherPrepared
from events.gathering import GatherState, evolve, finish, prepare
from events.pull_request import PrState
from events.repository import evolve as fold_repository
from events.types import PullRequestReopened, RepositoryEvent, StageEntered
from events.waves import wave_of
from events.work import FailureClass, SessionReport, Stage
from tests.events.worlds import STOCK, Repository, outcome

PREPARED = GatherPrepared(batch_id="b1", upto=7, issue_numbers=[1, 2], prepared="p")
FINISHED = GatherFinished(batch_id="b1", status="done", result="r", report="t")


def folded(*events: GatherEvent) -> GatherState:
    state = GatherState(repository="o/r")
    for event in events:
        evolve(state, event)
    return state


def test_a_report_is_prepared_and_then_finished() -> None:
    state = folded(PREPARED)
    assert (state.pending, state.upto, state.waves) == (PREPARED, 0, 0)
    evolve(state, FINISHED)
    assert (state.pending, state.upto, state.waves, state.report, state.version) == (None, 7, 1, "t", 2)


def test_a_report_that_could_not_be_made_leaves_the_one_before() -> None:
    again = msgspec.structs.replace(PREPARED, batch_id="b2", upto=9)
    failed = GatherFinished(batch_id="b2", status="failed", result="r", message="too long")
    state = folded(PREPARED, FINISHED, again, failed)
    assert (state.report, state.waves, state.upto) == ("t", 2, 9)


@pytest.mark.parametrize(
    ("before", "event"),
    [
        ((), FINISHED),
        ((PREPARED,), msgspec.structs.replace(PREPARED, batch_id="b2", upto=9)),
        ((PREPARED,), msgspec.structs.replace(FINISHED, batch_id="b2")),
        ((PREPARED, FINISHED), FINISHED),
        ((PREPARED, FINISHED), msgspec.structs.replace(PREPARED, batch_id="b2")),
        ((), StageEntered(issue_number=1, stage=Stage.CHECK_CACHE)),
    ],
)
def test_what_is_not_its_turn_is_illegal_and_changes_nothing(
    before: tuple[GatherEvent, ...], event: GatherEvent
) -> None:
    state = folded(*before)
    with pytest.raises(IllegalTransition, match="o/r"):
        evolve(state, event)
    assert state == folded(*before)


def test_only_a_wave_with_something_in_it_is_prepared_and_each_is_finished_once() -> None:
    state = GatherState(repository="o/r")
    assert prepare(state, batch_id="b1", upto=7, issue_numbers=[], prepared="p") == []
    assert prepare(state, batch_id="b1", upto=7, issue_numbers=[1, 2], prepared="p") == [PREPARED]
    assert finish(state, FINISHED) == []
    evolve(state, PREPARED)
    assert prepare(state, batch_id="b2", upto=9, issue_numbers=[1], prepared="p") == []
    assert finish(state, FINISHED) == [FINISHED]
    evolve(state, FINISHED)
    assert finish(state, FINISHED) == []
    assert prepare(state, batch_id="b2", upto=7, issue_numbers=[1], prepared="p") == []


# ---------------------------------------------------------------- waves


def worked(refused: set[int], *numbers: int) -> Repository:
    """A repository whose pull requests are all finished; ``refused`` by every context."""
    repository = Repository(*numbers)
    while started := repository.fill(1):
        for one in started:
            repository.end(one, verified=one.issue_number not in refused)
    return repository


def take(repository: Repository, events: list[RepositoryEvent]) -> None:
    for event in events:
        fold_repository(repository.state, event)
    repository.events += events


def test_a_wave_is_what_was_finished_in_the_order_of_the_times() -> None:
    repository = worked({2}, 3, 1, 2)
    wave = wave_of(repository.state, repository.events)
    assert [(one.issue_number, one.succeeded) for one in wave] == [(1, True), (2, False), (3, True)]
    assert {one.stage for one in wave if one.succeeded} <= {"try_default", "try_similar"}
    assert wave[1].failure_class == "recipe"
    assert wave[1].outcome is not None
    assert wave[0].context == STOCK


def test_every_stretch_of_a_stream_is_in_one_wave() -> None:
    repository = worked(set(), 1, 2, 3)
    for cut in range(len(repository.events) + 1):
        parts = (repository.events[:cut], repository.events[cut:])
        numbers = [one.issue_number for part in parts for one in wave_of(repository.state, part)]
        assert sorted(numbers) == [1, 2, 3]


def test_what_is_open_again_is_not_in_the_wave_and_what_ends_again_is_told_as_it_ended() -> None:
    repository = worked({1}, 1, 2)
    reopened = PullRequestReopened(issue_number=1, sweep="s", reason="retry")
    take(repository, [reopened])
    assert [one.issue_number for one in wave_of(repository.state, repository.events)] == [2]
    (started,) = repository.fill(1)
    repository.end(started)
    told = {one.issue_number: one.succeeded for one in wave_of(repository.state, repository.events)}
    assert told == {1: True, 2: True}


def test_the_sessions_on_a_pull_request_are_told_with_their_accounts() -> None:
    repository = Repository(1, generate=True, try_default=False)
    for verified in (False, True):
        (started,) = repository.fill(1, agent="codex")
        assert started.stage is Stage.LLM_GENERATE
        session = SessionReport(account="codex:work", agent="codex", ended="completed")
        ended = outcome(verified=verified, context=f"c{verified}", cls=FailureClass.RECIPE)
        told = msgspec.structs.replace(ended, session=session)
        repository.do(TakeOutcome(attempt_id=started.attempt_id, outcome=told))
    (one,) = wave_of(repository.state, repository.events)
    assert [(session.account, session.ended) for session in one.sessions] == [
        ("codex:work", "failed"),
        ("codex:work", "verified"),
    ]


# ---------------------------------------------------------------- forcing


def test_a_forced_pull_request_goes_past_its_success_and_the_cache() -> None:
    repository = worked(set(), 1, 2)
    take(repository, force(repository.state, [1, 1, 99], reason=FORCED))
    assert repository.state.prs[1].state is PrState.FIND_SIMILAR
    assert repository.state.prs[2].state is PrState.SUCCEEDED
    (started,) = repository.fill(1)
    assert started.issue_number == 1


def test_several_are_forced_together() -> None:
    repository = worked(set(), 1, 2, 3)
    take(repository, force(repository.state, [1, 3], reason=FORCED))
    states = {number: pr.state for number, pr in repository.state.prs.items()}
    assert states == {1: PrState.FIND_SIMILAR, 2: PrState.SUCCEEDED, 3: PrState.FIND_SIMILAR}


def test_one_that_waits_is_taken_past_the_cache_and_one_under_way_is_left_alone() -> None:
    repository = Repository(1, 2)
    take(repository, force(repository.state, [1], reason=FORCED))
    assert repository.state.prs[1].state is PrState.FIND_SIMILAR
    (started,) = repository.fill(1)
    assert force(repository.state, [started.issue_number], reason=FORCED) == []
