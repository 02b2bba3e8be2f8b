"""decide and evolve of the repository machine: what is tried in which order, what waits, what ends."""

from __future__ import annotations

from events.commands import Admit, Claim, FillSlots, ImportContexts, Interrupt, TakeOutcome
from events.decide import is_drained
from events.types import (
    AttemptFailed,
    AttemptInterrupted,
    AttemptSucceeded,
    CacheHit,
    ImportedContext,
    LeaseAwaited,
    NeighboursQueued,
    PullRequestFailed,
    PullRequestHeld,
    PullRequestReopened,
    PullRequestsAdmitted,
    StageEntered,
)
from events.work import FailureClass, Stage, VerificationRules
from tests.events.worlds import RULES, STOCK, Repository, admission, known_context, outcome, policy


def test_the_first_pull_request_goes_through_the_cache_and_tries_the_stock_template() -> None:
    repository = Repository(1)
    (attempt,) = repository.fill()
    assert (attempt.stage, attempt.context) == (Stage.TRY_DEFAULT, STOCK)
    stages = [one.stage for one in repository.events if isinstance(one, StageEntered)]
    assert stages == [Stage.CHECK_CACHE, Stage.FIND_SIMILAR]


def test_a_verified_neighbours_context_is_tried_before_the_stock_template() -> None:
    repository = Repository(1, 2)
    (first,) = repository.fill()
    repository.end(first, context="c1")
    (second,) = repository.fill()
    assert (second.stage, second.context, second.source) == (Stage.TRY_SIMILAR, "c1", 1)
    assert second.reason == "tries PR 1's context: verified on the left, 1 days away"


def two_verified_ends() -> Repository:
    """PRs 1 and 9 verified by contexts ``left`` and ``right`` of their own."""
    repository = Repository(1, try_default=False, generate=True)
    (one,) = repository.fill(1, agent="claude")
    repository.end(one, context="left")
    repository.join(9, try_default=False, generate=True)
    (similar,) = repository.fill(1, agent="claude")
    repository.end(similar, verified=False)
    (nine,) = repository.fill(1, agent="claude")
    repository.end(nine, context="right")
    return repository


def test_the_nearest_context_of_each_side_comes_first_nearer_side_or_not() -> None:
    repository = two_verified_ends()
    repository.join(8, try_default=False, generate=True)
    tried = []
    for _ in range(2):
        (attempt,) = repository.fill(1, agent="claude")
        tried.append((attempt.stage, attempt.source))
        repository.end(attempt, verified=False)
    assert tried == [(Stage.TRY_SIMILAR, 1), (Stage.TRY_SIMILAR, 9)]
    (generation,) = repository.fill(1, agent="claude")
    assert generation.stage is Stage.LLM_GENERATE


def test_a_context_refuted_on_a_pull_request_is_never_tried_on_it_again() -> None:
    repository = Repository(1, 2)
    (first,) = repository.fill()
    repository.end(first)
    (second,) = repository.fill()
    assert second.context == STOCK
    repository.end(second, verified=False)
    assert repository.state_of(2) == "failed"
    assert not repository.fill()


def test_without_an_agent_a_pull_request_fails_when_nothing_is_left_and_says_why() -> None:
    repository = Repository(1)
    (attempt,) = repository.fill()
    events = repository.end(attempt, verified=False)
    assert [type(one) for one in events] == [AttemptFailed, PullRequestFailed]
    failed = events[-1]
    assert isinstance(failed, PullRequestFailed)
    assert failed.reason == "failed as recipe (1 context refuted, no agent is enabled)"
    assert is_drained(repository.state)


def test_infra_failures_refute_nothing_and_are_retried_later_and_later() -> None:
    repository = Repository(1)
    waits = []
    for _ in range(4):
        (attempt,) = repository.fill()
        (failed,) = repository.end(attempt, verified=False, cls=FailureClass.INFRA)
        assert isinstance(failed, AttemptFailed)
        assert failed.retry_at is not None
        waits.append(failed.retry_at - repository.now)
        assert not repository.fill(), "nothing starts before the retry time"
        repository.now = failed.retry_at
    assert waits == [2.0, 4.0, 8.0, 16.0]
    pr = repository.state.prs[1]
    assert (pr.tried, pr.infra_failures, str(pr.state)) == (set(), 4, "find_similar")
    (attempt,) = repository.fill()
    repository.end(attempt)
    assert (repository.state.infra_streak, repository.state_of(1)) == (0, "succeeded")


def test_one_generation_is_in_flight_and_who_may_be_served_is_held() -> None:
    repository = Repository(1, 2, 3, try_default=False, generate=True)
    (generation,) = repository.fill(3, agent="claude")
    assert generation.stage is Stage.LLM_GENERATE
    assert generation.issue_number == 2, "the middle of what is unexplained"
    (held,) = [one for one in repository.events if isinstance(one, PullRequestHeld)]
    assert (held.issue_number, held.others, held.behind) == (1, [3], generation.attempt_id)
    assert held.reason == "PR 2's generation may serve it"
    assert [repository.state_of(number) for number in (1, 3)] == ["held", "held"]
    assert not repository.fill(3, agent="claude"), "who is held takes no slot"
    repository.end(generation, context="c1")
    attempts = repository.fill(3, agent="claude")
    assert [(one.stage, one.context) for one in attempts] == [(Stage.TRY_SIMILAR, "c1")] * 2


def test_when_a_generation_fails_another_of_the_stretch_generates_and_its_context_is_tried_on_the_first() -> None:
    repository = Repository(1, 2, 3, try_default=False, generate=True, max_attempts=1)
    (generation,) = repository.fill(3, agent="claude")
    repository.end(generation, verified=False, context="bad")
    (again,) = repository.fill(3, agent="claude")
    assert (again.stage, again.issue_number) == (Stage.LLM_GENERATE, 1)
    assert [repository.state_of(number) for number in (2, 3)] == ["held", "held"]
    repository.end(again, context="good")
    attempts = repository.fill(3, agent="claude")
    assert sorted((one.issue_number, one.context) for one in attempts) == [(2, "good"), (3, "good")]


def test_when_every_generation_of_a_stretch_has_failed_all_of_it_has_failed() -> None:
    repository = Repository(1, 2, try_default=False, generate=True, max_attempts=2)
    sessions = 0
    while attempts := repository.fill(2, agent="claude"):
        for one in attempts:
            sessions += 1
            repository.end(one, verified=False, context=None)
    assert sessions == 4
    failed = [one for one in repository.events if isinstance(one, PullRequestFailed)]
    assert sorted(one.issue_number for one in failed) == [1, 2]
    assert failed[0].reason == "failed as recipe (0 contexts refuted, all 2 generations failed)"
    assert is_drained(repository.state)


def test_a_verified_pull_request_between_two_separates_them_and_both_generate_at_once() -> None:
    repository = Repository(5, try_default=False, generate=True)
    (middle,) = repository.fill(1, agent="claude")
    repository.end(middle, context="middle")
    repository.join(1, 9, try_default=False, generate=True)
    for attempt in repository.fill(2, agent="claude"):
        assert attempt.context == "middle"
        repository.end(attempt, verified=False)
    generations = repository.fill(2, agent="claude")
    assert [(one.stage, one.issue_number) for one in generations] == [(Stage.LLM_GENERATE, 1), (Stage.LLM_GENERATE, 9)]


def test_a_pull_request_without_agent_capacity_waits_and_says_so() -> None:
    repository = Repository(1, try_default=False, generate=True)
    assert not repository.fill(1)
    assert any(isinstance(one, LeaseAwaited) for one in repository.events)
    assert repository.state_of(1) == "awaiting_lease"
    (attempt,) = repository.fill(1, agent="codex")
    assert (attempt.stage, attempt.agent) == (Stage.LLM_GENERATE, "codex")


def test_an_interrupted_attempt_costs_nothing_and_is_tried_again() -> None:
    repository = Repository(1)
    (attempt,) = repository.fill()
    (event,) = repository.do(Interrupt(attempt_id=attempt.attempt_id, reason="killed", blobs={"build_log": "d"}))
    assert isinstance(event, AttemptInterrupted)
    (again,) = repository.fill()
    assert again.context == STOCK


def test_a_cancelled_outcome_interrupts() -> None:
    repository = Repository(1)
    (attempt,) = repository.fill()
    (event,) = repository.end(attempt, verified=False, cancelled=True)
    assert isinstance(event, AttemptInterrupted)


def test_an_outcome_for_an_attempt_that_has_ended_changes_nothing() -> None:
    repository = Repository(1)
    (attempt,) = repository.fill()
    repository.end(attempt)
    version = repository.state.version
    assert repository.end(attempt, verified=False) == []
    assert repository.do(Interrupt(attempt_id=attempt.attempt_id, reason="late")) == []
    assert repository.state.version == version


def test_success_queues_unreached_neighbours_nearest_first_within_window_and_cap() -> None:
    rows = [admission(10), *(admission(n, seed=False) for n in (1, 8, 9, 12, 13, 40))]
    repository = Repository(rows=rows, window_days=10.0, neighbor_cap=4)
    assert list(repository.state.ready) == [10]
    (attempt,) = repository.fill(5)
    events = repository.end(attempt)
    queued = next(one for one in events if isinstance(one, NeighboursQueued))
    assert queued.issue_numbers == [9, 8, 12, 13]
    assert not repository.state.prs[40].reached
    assert repository.state.counts("s")["unreached"] == 2


def test_a_cascade_goes_on_from_each_success_and_ends_with_the_rest_unreached() -> None:
    rows = [admission(1), admission(8, seed=False), admission(15, seed=False), admission(60, seed=False)]
    repository = Repository(rows=rows, window_days=10.0)
    while attempts := repository.fill(2):
        for one in attempts:
            repository.end(one)
    assert repository.state.counts("s") == {"succeeded": 3, "unreached": 1}
    assert is_drained(repository.state)


def test_tasks_per_repo_keeps_that_many_seeds_spread_over_time() -> None:
    repository = Repository(*range(1, 11), tasks_per_repo=2)
    assert sorted(repository.state.ready) == [3, 8]


def test_admitting_the_same_rows_again_changes_nothing() -> None:
    repository = Repository(1, 2)
    again = Admit(sweep="s", rules=RULES, policy=policy(), pull_requests=[admission(1), admission(2)])
    assert repository.do(again) == []


def test_other_inputs_reopen_a_verified_pull_request_and_equal_ones_do_not() -> None:
    repository = Repository(1, 2)
    for attempt in repository.fill(2):
        repository.end(attempt)
    rows = [admission(1, inputs="other"), admission(2)]
    repository.do(Admit(sweep="s", rules=RULES, policy=policy(), pull_requests=rows))
    assert (repository.state_of(1), repository.state_of(2)) == ("queued", "succeeded")
    assert repository.state.verified == [(repository.state.prs[2].at, 2)]


def test_stricter_rules_reopen_what_was_verified_under_others() -> None:
    repository = Repository(1)
    (attempt,) = repository.fill()
    repository.end(attempt)
    strict = VerificationRules(min_pass_ratio=1.0)
    repository.do(Admit(sweep="s", rules=strict, policy=policy(), pull_requests=[admission(1)]))
    assert repository.state_of(1) == "queued"
    assert repository.state.prs[1].rules == strict


def test_another_sweep_keeps_successes_and_reopens_failures() -> None:
    repository = Repository(1, 2)
    one, two = repository.fill(2)
    repository.end(one)
    repository.end(two, verified=False)
    repository.do(Claim(incarnation="i2", sweep="t"))
    events = repository.do(Admit(sweep="t", rules=RULES, policy=policy(), pull_requests=[admission(1), admission(2)]))
    assert [type(event) for event in events] == [PullRequestsAdmitted, PullRequestReopened]
    assert (repository.state_of(1), repository.state_of(2)) == ("succeeded", "queued")
    assert repository.state.counts("t") == {"succeeded": 1, "queued": 1}


def test_a_claim_for_another_sweep_works_on_its_own_pull_requests_only() -> None:
    repository = Repository(1, 2)
    repository.do(Claim(incarnation="i2", sweep="t"))
    repository.do(Admit(sweep="t", rules=RULES, policy=policy(), pull_requests=[admission(2)]))
    assert list(repository.state.ready) == [2]
    repository.do(Claim(incarnation="i3", sweep="s"))
    assert sorted(repository.state.ready) == [1, 2]


def test_a_context_that_the_cache_knows_for_these_inputs_and_rules_ends_the_work() -> None:
    repository = Repository(1, 2)
    known = ImportedContext(
        context="c",
        issue_number=1,
        created_at=admission(1).created_at,
        inputs="inputs-1",
        rules=RULES,
        attempt_id="old",
    )
    other = ImportedContext(
        context="c", issue_number=2, created_at=admission(2).created_at, inputs="other", rules=RULES, attempt_id="old"
    )
    repository.do(ImportContexts(contexts=[known, other]))
    assert repository.do(ImportContexts(contexts=[known, other])) == []
    (attempt,) = repository.fill(1)
    assert any(isinstance(one, CacheHit) and one.issue_number == 1 for one in repository.events)
    assert (repository.state_of(1), attempt.issue_number, attempt.context) == ("succeeded", 2, "c")


def test_unused_slots_start_nothing_twice() -> None:
    repository = Repository(1)
    assert len(repository.fill(4)) == 1
    assert repository.do(FillSlots(slots=[])) == []


def test_success_is_recorded_with_the_context_that_was_verified() -> None:
    repository = Repository(1, try_default=False, generate=True)
    (attempt,) = repository.fill(1, agent="claude")
    events = repository.do(TakeOutcome(attempt_id=attempt.attempt_id, outcome=outcome(context="made")))
    assert isinstance(events[0], AttemptSucceeded)
    assert repository.state.prs[1].context == "made"


def test_a_cache_hit_starts_the_cascade_like_any_success() -> None:
    repository = Repository(rows=[admission(1), admission(2, seed=False), admission(90, seed=False)])
    repository.do(ImportContexts(contexts=[known_context(1)]))
    (attempt,) = repository.fill(1)
    (queued,) = [one for one in repository.events if isinstance(one, NeighboursQueued)]
    assert (queued.source, queued.issue_numbers) == (1, [2])
    assert (attempt.issue_number, attempt.context) == (2, "c")


def test_a_pull_request_verified_by_an_earlier_sweep_starts_the_cascade_of_a_later_one() -> None:
    repository = Repository(1)
    (attempt,) = repository.fill()
    repository.end(attempt)
    repository.do(Claim(incarnation="i2", sweep="t"))
    rows = [admission(1), *(admission(n, seed=False) for n in (2, 3, 90))]
    repository.do(Admit(sweep="t", rules=RULES, policy=policy(), pull_requests=rows))
    assert sorted(repository.state.ready) == [2, 3]
    assert repository.state.counts("t") == {"succeeded": 1, "queued": 2, "unreached": 1}


def test_more_seeds_than_before_are_taken_up() -> None:
    repository = Repository(*range(1, 11), tasks_per_repo=1)
    assert len(repository.state.ready) == 1
    rows = [admission(number) for number in range(1, 11)]
    repository.do(Admit(sweep="s", rules=RULES, policy=policy(tasks_per_repo=4), pull_requests=rows))
    assert len(repository.state.ready) == 4


def test_two_contexts_of_one_pull_request_are_imported_once_and_the_fitting_one_is_found() -> None:
    repository = Repository(1)
    both = [known_context(1, inputs="older", context="a"), known_context(1, context="b")]
    assert repository.do(ImportContexts(contexts=both))
    assert repository.do(ImportContexts(contexts=both)) == []
    repository.fill()
    (hit,) = [one for one in repository.events if isinstance(one, CacheHit)]
    assert hit.context == "b"


def test_a_pull_request_that_alone_meets_infra_failures_waits_longer_and_longer_while_others_go_on() -> None:
    repository = Repository(*range(1, 8))
    waits = []
    for number in range(8, 12):
        repository.join(number)
        attempts = {one.issue_number: one for one in repository.fill(8)}
        assert 1 in attempts, "its own pause is over"
        (failed, *_) = repository.end(attempts.pop(1), verified=False, cls=FailureClass.INFRA)
        assert isinstance(failed, AttemptFailed)
        assert failed.retry_at is not None
        waits.append(failed.retry_at - repository.now)
        for one in attempts.values():
            repository.end(one)
        assert repository.state.infra_streak == 0
        assert not repository.fill(8), "the others are verified, and its own pause lasts"
        repository.now = failed.retry_at
    assert waits == [2.0, 4.0, 8.0, 16.0]


def test_failures_of_one_outage_count_as_one() -> None:
    repository = Repository(*range(1, 9))
    attempts = repository.fill(8)
    for attempt in attempts:
        repository.end(attempt, verified=False, cls=FailureClass.INFRA)
        repository.now += 0.1
    assert repository.state.infra_streak == 1
    assert repository.state.next_start() == 1_000_002.0


def test_what_kills_its_runner_is_tried_later_and_later_and_what_a_run_left_is_not() -> None:
    repository = Repository(1)
    waits = []
    for _ in range(3):
        (attempt,) = repository.fill()
        (event,) = repository.do(Interrupt(attempt_id=attempt.attempt_id, reason="gone", runner_died=True))
        assert isinstance(event, AttemptInterrupted)
        assert event.retry_at is not None
        waits.append(event.retry_at - repository.now)
        assert not repository.fill()
        repository.now = event.retry_at
    assert waits == [2.0, 4.0, 8.0]
    (attempt,) = repository.fill()
    repository.do(Interrupt(attempt_id=attempt.attempt_id, reason="an earlier run"))
    assert repository.fill()
