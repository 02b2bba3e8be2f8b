"""The order of the cascade with agents: probes, pivots, safe tries, the odd one, and its indexes after any history."""

from __future__ import annotations

from itertools import pairwise

import pytest

from events.commands import ImportContexts, Revoke
from events.repository import fold
from events.types import AttemptStarted, ImportedContext, PullRequestFailed
from events.work import Stage
from tests.events.worlds import STOCK, Repository, admission, known_context


def generated(context_of: dict[int, str], count: int, **changes: object) -> Repository:
    """PRs 1 to ``count``, some of them verified already with the contexts of their own that ``context_of`` tells."""
    options = {"try_default": False, "generate": True, **changes}
    repository = Repository(rows=[admission(number) for number in context_of], **options)
    while attempts := repository.fill(1, agent="claude"):
        for one in attempts:
            generates = one.stage is Stage.LLM_GENERATE
            context = context_of[one.issue_number] if generates else one.context
            repository.end(one, verified=context == context_of[one.issue_number], context=context)
    repository.join(*(number for number in range(1, count + 1) if number not in context_of), **options)
    return repository


def test_between_two_of_one_context_everything_is_tried_with_it_at_once() -> None:
    repository = generated({1: "c", 9: "c"}, 9)
    attempts = repository.fill(20, agent="claude")
    assert sorted((one.issue_number, one.context) for one in attempts) == [(n, "c") for n in range(2, 9)]
    assert "fits on both sides, around 1 to 9" in attempts[0].reason


def test_between_two_contexts_each_is_first_tried_well_inside_its_half() -> None:
    repository = generated({1: "left", 30: "right"}, 30)
    attempts = repository.fill(2, agent="claude")
    places = {one.context: one.issue_number for one in attempts}
    assert 1 < places["left"] < 16 <= places["right"] < 30


def test_a_refutation_bounds_where_a_context_is_tried_next() -> None:
    repository = generated({1: "left", 30: "right"}, 30)
    for one in repository.fill(2, agent="claude"):
        repository.end(one, verified=False)
    refuted = {one.context: one.issue_number for one in repository.events if isinstance(one, AttemptStarted)}
    for one in repository.fill(40, agent="claude"):
        if one.stage is Stage.LLM_GENERATE:
            continue
        if one.context == "left":
            assert one.issue_number < refuted["left"]
        if one.context == "right":
            assert one.issue_number > refuted["right"]


def test_the_pivot_lies_in_the_stretch_where_both_sides_are_refuted() -> None:
    repository = generated({1: "left", 9: "right"}, 9)
    generation = None
    for _ in range(12):
        for one in repository.fill(1, agent="claude"):
            if one.stage is Stage.LLM_GENERATE:
                generation = one
            else:
                repository.end(one, verified=one.issue_number in {2, 8})
    assert generation is not None
    assert 3 <= generation.issue_number <= 7
    assert "unexplained" in generation.reason


def test_sessions_start_in_parallel_only_far_apart() -> None:
    near = Repository(*range(1, 41), try_default=False, generate=True)
    far = Repository(*range(1, 401), try_default=False, generate=True)
    assert len(near.fill(50, agent="claude")) == 1
    places = sorted(one.issue_number for one in far.fill(50, agent="claude"))
    assert len(places) > 2
    assert min(b - a for a, b in pairwise(places)) > 50


def test_the_stock_template_is_tried_on_the_pivot_only_before_an_agent_is_paid() -> None:
    repository = Repository(*range(1, 6), generate=True)
    (stock,) = repository.fill(5, agent="claude")
    assert (stock.stage, stock.context, stock.issue_number) == (Stage.TRY_DEFAULT, STOCK, 3)
    repository.end(stock, verified=False)
    (generation,) = repository.fill(5, agent="claude")
    assert (generation.stage, generation.issue_number) == (Stage.LLM_GENERATE, 3)


def test_a_pull_request_that_its_surroundings_do_not_fit_gets_a_session_of_its_own() -> None:
    repository = generated({1: "c", 5: "c"}, 5)
    sessions = []
    while attempts := repository.fill(5, agent="claude"):
        for one in attempts:
            if one.stage is Stage.LLM_GENERATE:
                sessions.append(one.issue_number)
                repository.end(one, context="own")
            else:
                repository.end(one, verified=one.issue_number != 3)
    assert sessions == [3]
    assert repository.state.counts("s") == {"succeeded": 5}


@pytest.mark.parametrize("broken", [1, 3, 5])
def test_one_that_nothing_builds_fails_alone(broken: int) -> None:
    repository = Repository(*range(1, 6), try_default=False, generate=True, max_attempts=2)
    while attempts := repository.fill(5, agent="claude"):
        for one in attempts:
            repository.end(one, verified=one.issue_number != broken, context=one.context or "made")
    assert repository.state.counts("s") == {"succeeded": 4, "failed": 1}
    (failed,) = [one for one in repository.events if isinstance(one, PullRequestFailed)]
    assert failed.issue_number == broken


def test_the_indexes_follow_from_the_events_alone() -> None:
    repository = generated({1: "left", 9: "right"}, 9)
    for attempt in repository.fill(6, agent="claude"):
        repository.end(attempt, verified=attempt.issue_number % 2 == 0)
    state = repository.state
    assert fold("o/r", repository.events) == state
    open_ = [pr for pr in state.prs.values() if str(pr.state) not in {"succeeded", "failed"}]
    assert state.open == sorted((pr.at, pr.issue_number) for pr in open_)
    refuted = {(context, pr.issue_number) for pr in state.prs.values() for context in pr.tried}
    assert {(context, number) for context, places in state.refuted.items() for _, number in places} == refuted
    held = {pr.issue_number: pr.behind for pr in state.prs.values() if pr.behind is not None}
    assert {number: behind for behind, numbers in state.held.items() for number in numbers} == held


def test_after_three_failures_a_free_slot_is_used_for_a_second_session_in_the_stretch() -> None:
    repository = generated({}, 8)
    repository.join(*range(1, 9), try_default=False, generate=True)
    for _ in range(3):
        (session,) = repository.fill(3, agent="claude")
        repository.end(session, verified=False, context=None)
    sessions = repository.fill(3, agent="claude")
    assert [one.stage for one in sessions] == [Stage.LLM_GENERATE] * 2
    assert len({one.issue_number for one in sessions}) == 2
    assert "3 sessions have failed" in sessions[1].reason


def test_the_window_bounds_each_side_by_itself() -> None:
    contexts = {1: "far", 96: "left", 102: "near", 103: "second", 104: "third"}
    rows = [admission(number) for number in (*contexts, 101)]
    repository = Repository(rows=rows, try_default=False, max_candidates=10)
    known = [known_context(number, context=context) for number, context in contexts.items()]
    repository.do(ImportContexts(contexts=known))
    tried = []
    while attempts := repository.fill(1):
        tried += [one.context for one in attempts]
        repository.end(attempts[0], verified=False)
    assert tried == ["left", "near", "second", "third"]


# ---------------------------------------------------------------- claims


def claim(number: int, context: str) -> ImportedContext:
    """A context that the cache knows of a pull request, under inputs that none has."""
    return known_context(number, inputs=f"claimed:{context}", context=context)


@pytest.mark.parametrize("agent", [None, "codex"])
def test_what_is_known_from_elsewhere_is_tried_nearest_first_before_the_template_and_any_agent(
    agent: str | None,
) -> None:
    repository = Repository(100, generate=agent is not None)
    repository.do(ImportContexts(contexts=[claim(102, "second"), claim(99, "first"), claim(30, "far")]))
    tried = []
    for _ in range(3):
        (attempt,) = repository.fill(1, agent=agent)
        tried.append((attempt.stage, attempt.context, attempt.source))
        repository.end(attempt, verified=False)
    assert tried == [
        (Stage.TRY_SIMILAR, "first", None),
        (Stage.TRY_SIMILAR, "second", None),
        (Stage.TRY_DEFAULT, STOCK, None),
    ]
    following = repository.fill(1, agent=agent)
    assert [one.stage for one in following] == ([Stage.LLM_GENERATE] if agent else [])


def test_a_claim_is_verified_like_all_others_and_serves_its_neighbours_then() -> None:
    repository = Repository(100, 101)
    repository.do(ImportContexts(contexts=[claim(7, "claimed")]))
    (attempt,) = repository.fill(1)
    assert attempt.context == "claimed"
    repository.end(attempt)
    (following,) = repository.fill(1)
    assert (following.context, following.source) == ("claimed", attempt.issue_number)


def test_claims_spend_the_budget_of_candidates_and_what_is_revoked_is_none() -> None:
    repository = Repository(100, try_default=False, max_candidates=2)
    repository.do(ImportContexts(contexts=[claim(100 + n, f"c{n}") for n in range(1, 5)]))
    repository.do(Revoke(context="c1", why="poisoned"))
    tried = []
    while attempts := repository.fill(1):
        tried += [one.context for one in attempts]
        repository.end(attempts[0], verified=False)
    assert tried == ["c2", "c3"]
