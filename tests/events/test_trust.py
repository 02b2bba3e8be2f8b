"""Whom a failure is charged to, what tampering and revocation take out of use, and what a context brings along."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from events.candidates import may_generate
from events.commands import Admit, Claim, FillSlots, ImportContexts, Reopen, Revoke, Slot, TakeOutcome
from events.decide import is_drained
from events.pull_request import PrState
from events.records import import_key
from events.types import (
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    CacheHit,
    ContextRevoked,
    PullRequestFailed,
    PullRequestReopened,
    RepositoryEvent,
)
from events.work import Check, FailureClass, Stage, VerificationRules
from tests.events.worlds import RULES, STOCK, Repository, admission, known_context, outcome, policy

INFRA, RECIPE, TIMEOUT = FailureClass.INFRA, FailureClass.RECIPE, FailureClass.TIMEOUT
FLAKE, TAMPER = FailureClass.FLAKE, FailureClass.TAMPER


def generated(*numbers: int, context: str = "made", max_attempts: int = 3) -> Repository:
    """Pull requests all verified by one context, which the session of the middle one made."""
    repository = Repository(*numbers, try_default=False, generate=True, max_attempts=max_attempts)
    (session,) = repository.fill(len(numbers), agent="claude")
    repository.end(session, context=context)
    while attempts := repository.fill(len(numbers), agent="claude"):
        for one in attempts:
            repository.end(one)
    assert is_drained(repository.state)
    return repository


def revoked_by(events: list[RepositoryEvent]) -> list[ContextRevoked]:
    return [one for one in events if isinstance(one, ContextRevoked)]


# ---------------------------------------------------------------- rules and known failures


@pytest.mark.parametrize(
    "other",
    [
        {"must_pass": ("tests/test_a.py::test",)},
        {"reruns": 0},
        {"allow_known_failures": False},
        {"min_pass_ratio": 0.8},
    ],
)
def test_a_context_verified_under_any_other_rule_is_no_hit(other: dict[str, object]) -> None:
    rules = VerificationRules(**other)  # type: ignore[arg-type]
    assert import_key(1, "inputs-1", rules) != import_key(1, "inputs-1", RULES)
    repository = Repository(1)
    repository.do(ImportContexts(contexts=[replace(known_context(1), rules=rules)]))
    (attempt,) = repository.fill()
    assert (attempt.stage, attempt.context, attempt.source) == (Stage.TRY_SIMILAR, "c", None), "it is verified anew"


def test_a_verified_pull_request_remembers_why_and_which_of_its_tests_failed() -> None:
    repository = Repository(1, 2)
    (first,) = repository.fill(1)
    given = replace(outcome(context=STOCK), blobs={"tests": "t" * 64, "junit": "j" * 64})
    repository.do(TakeOutcome(attempt_id=first.attempt_id, outcome=given))
    (second,) = repository.fill(1)
    repository.end(second)
    one, two = (repository.state.prs[number] for number in (1, 2))
    assert (one.verified_by, one.source, one.tests) == (Stage.TRY_DEFAULT, None, "t" * 64)
    assert (two.verified_by, two.source, two.tests) == (Stage.TRY_SIMILAR, 1, None)


def test_a_cache_hit_brings_the_tests_blob_of_the_attempt_that_verified_it() -> None:
    repository = Repository(1)
    repository.do(ImportContexts(contexts=[replace(known_context(1), tests="t" * 64)]))
    repository.fill()
    assert (repository.state.prs[1].verified_by, repository.state.prs[1].tests) == (Stage.CHECK_CACHE, "t" * 64)


# ---------------------------------------------------------------- whose failure it is


def spent(repository: Repository, number: int) -> tuple[int, int, int, int]:
    """Of each budget: contexts refuted, infra failures, first flakes, sessions."""
    pr = repository.state.prs[number]
    return len(pr.tried), pr.infra_failures, len(pr.flaked.keys() - pr.tried), pr.generations


@pytest.mark.parametrize(
    ("cls", "budgets"),
    [(RECIPE, (1, 0, 0, 0)), (TIMEOUT, (1, 0, 0, 0)), (INFRA, (0, 1, 0, 0)), (FLAKE, (0, 0, 1, 0))],
)
def test_each_class_spends_its_own_budget_only(cls: FailureClass, budgets: tuple[int, int, int, int]) -> None:
    repository = Repository(1, generate=True)
    (attempt,) = repository.fill(1, agent="claude")
    repository.end(attempt, verified=False, cls=cls)
    assert spent(repository, 1) == budgets
    assert repository.state.prs[1].failure_class == (None if cls is INFRA else cls)


@pytest.mark.parametrize(
    ("cls", "budgets"),
    [
        (RECIPE, (1, 0, 0, 1)),
        (TIMEOUT, (1, 0, 0, 1)),
        (FailureClass.AGENT, (1, 0, 0, 1)),
        (INFRA, (0, 1, 0, 0)),
        (FLAKE, (0, 0, 1, 0)),
    ],
)
def test_a_session_is_spent_by_what_it_answers_for_only(cls: FailureClass, budgets: tuple[int, int, int, int]) -> None:
    repository = Repository(1, try_default=False, generate=True)
    (session,) = repository.fill(1, agent="claude")
    repository.end(session, verified=False, cls=cls, context="made")
    assert spent(repository, 1) == budgets


@pytest.mark.parametrize("generate", [False, True])
def test_a_context_that_flakes_is_tried_once_more_before_all_else(generate: bool) -> None:
    repository = Repository(1, generate=generate)
    (first,) = repository.fill(1, agent="claude")
    repository.end(first, verified=False, cls=FLAKE)
    (second,) = repository.fill(1, agent="claude")
    assert (second.stage, second.context) == (Stage.TRY_DEFAULT, STOCK)
    repository.end(second)
    assert repository.state_of(1) == "succeeded"
    assert not repository.state.again


@pytest.mark.parametrize("generate", [False, True])
def test_a_second_flake_refutes(generate: bool) -> None:
    repository = Repository(1, generate=generate)
    for _ in range(2):
        (attempt,) = repository.fill(1, agent="claude")
        assert attempt.context == STOCK
        repository.end(attempt, verified=False, cls=FLAKE)
    assert repository.state.prs[1].tried == {STOCK}
    if generate:
        (session,) = repository.fill(1, agent="claude")
        assert session.stage is Stage.LLM_GENERATE
    else:
        (failed,) = [one for one in repository.events if isinstance(one, PullRequestFailed)]
        assert failed.failure_class is FLAKE


def test_the_second_try_of_a_neighbours_context_has_the_same_source() -> None:
    repository = Repository(1, 2)
    (first,) = repository.fill(1)
    repository.end(first)
    (similar,) = repository.fill(1)
    repository.end(similar, verified=False, cls=FLAKE)
    (again,) = repository.fill(1)
    assert (again.stage, again.context, again.source) == (Stage.TRY_SIMILAR, STOCK, 1)


def test_the_context_of_a_session_that_flaked_is_tried_once_more_and_no_other_session_is_paid_meanwhile() -> None:
    repository = Repository(1, 2, 3, try_default=False, generate=True, max_attempts=1)
    (session,) = repository.fill(3, agent="claude")
    repository.end(session, verified=False, cls=FLAKE, context="made")
    (again,) = repository.fill(3, agent="claude")
    assert (again.stage, again.issue_number, again.context) == (Stage.TRY_SIMILAR, session.issue_number, "made")
    assert not repository.fill(3, agent="claude")
    repository.end(again, verified=False, cls=FLAKE)
    assert repository.state.prs[session.issue_number].generations == 1
    (other,) = repository.fill(3, agent="claude")
    assert (other.stage, other.issue_number) == (Stage.LLM_GENERATE, 1), "the first has spent its budget"


def test_an_infra_failure_of_a_second_try_leaves_the_second_try() -> None:
    repository = Repository(1)
    (first,) = repository.fill()
    repository.end(first, verified=False, cls=FLAKE)
    (again,) = repository.fill()
    repository.end(again, verified=False, cls=INFRA)
    repository.now += 60
    (once_more,) = repository.fill()
    assert once_more.context == STOCK
    assert spent(repository, 1) == (0, 1, 1, 0)


# ---------------------------------------------------------------- tampering


def test_a_context_that_tampers_on_any_pull_request_is_out_of_use_on_all_at_once() -> None:
    repository = generated(1, 2, 3)
    repository.join(4, try_default=False, generate=True)
    (attempt,) = repository.fill(1, agent="claude")
    events = repository.end(attempt, verified=False, cls=TAMPER)
    assert [type(one) for one in events[:2]] == [AttemptFailed, ContextRevoked]
    (revoked,) = revoked_by(events)
    assert (revoked.contexts, revoked.issue_numbers) == (["made"], [1, 2, 3])
    assert revoked.why == "tampering was found on PR 4: failed as tamper"
    assert [repository.state_of(number) for number in (1, 2, 3)] == ["queued"] * 3
    assert repository.state.revoked == {"made": revoked.why}
    assert not repository.state.verified
    for one in repository.fill(8, agent="claude"):
        assert one.context != "made"


def test_the_check_that_found_tampering_is_named_in_the_message() -> None:
    repository = generated(1)
    repository.join(2, try_default=False, generate=True)
    (attempt,) = repository.fill(1, agent="claude")
    given = replace(
        outcome(verified=False, cls=TAMPER), checks=[Check("build", True), Check("tree", False, "conftest.py added")]
    )
    failed, *_ = repository.do(TakeOutcome(attempt_id=attempt.attempt_id, outcome=given))
    assert isinstance(failed, AttemptFailed)
    assert failed.outcome.message == "tree: failed as tamper"


def test_a_session_that_tampers_ends_its_pull_requests_generation_and_is_why_it_fails() -> None:
    repository = Repository(1, try_default=False, generate=True, max_attempts=3)
    (session,) = repository.fill(1, agent="claude")
    events = repository.end(session, verified=False, cls=TAMPER, context="made")
    assert revoked_by(events)[0].contexts == ["made"]
    assert not repository.fill(1, agent="claude")
    (failed,) = [one for one in repository.events if isinstance(one, PullRequestFailed)]
    assert failed.failure_class is TAMPER
    assert failed.reason == ("failed as tamper (1 context refuted, an agent tampered, which ended its generation)")


def test_after_a_session_tampered_existing_contexts_are_tried_still() -> None:
    repository = Repository(1, 2, 3, try_default=False, generate=True)
    (session,) = repository.fill(3, agent="claude")
    repository.end(session, verified=False, cls=TAMPER, context="made")
    (other,) = repository.fill(3, agent="claude")
    assert (other.stage, other.issue_number) == (Stage.LLM_GENERATE, 1)
    repository.end(other, context="honest")
    tried = {(one.issue_number, one.context) for one in repository.fill(3, agent="claude")}
    assert (session.issue_number, "honest") in tried


def test_the_pull_request_whose_session_made_a_context_that_tampers_elsewhere_gets_no_further_session() -> None:
    repository = generated(1, 2, 3)
    repository.join(4, try_default=False, generate=True)
    (attempt,) = repository.fill(1, agent="claude")
    repository.end(attempt, verified=False, cls=TAMPER)
    ended = {number for number, pr in repository.state.prs.items() if pr.generation_ended}
    assert ended == {2}, "the middle one's session made it"
    while attempts := repository.fill(4, agent="claude"):
        for one in attempts:
            assert (one.issue_number, one.stage) != (2, Stage.LLM_GENERATE)
            repository.end(one, verified=False, context=None)
    assert {repository.state.prs[number].failure_class for number in (1, 3, 4)} == {RECIPE}
    assert repository.state.prs[2].state is PrState.FAILED
    assert repository.state.prs[2].failure_class is TAMPER


def test_the_stock_template_is_refuted_where_it_tampers_and_stays_elsewhere() -> None:
    repository = Repository(1, 2)
    one, two = repository.fill(2)
    repository.end(one)
    events = repository.end(two, verified=False, cls=TAMPER)
    assert not revoked_by(events)
    assert (repository.state_of(1), repository.state_of(2)) == ("succeeded", "failed")
    assert repository.state.prs[2].failure_class is TAMPER


# ---------------------------------------------------------------- revocation


def test_revoking_reopens_what_was_verified_and_never_uses_the_context_again() -> None:
    repository = generated(1, 2, 3)
    before = repository.state.prs[1].tried.copy()
    (revoked,) = repository.do(Revoke(context="made", why="its wheel is poisoned"))
    assert isinstance(revoked, ContextRevoked)
    assert (revoked.contexts, revoked.issue_numbers, revoked.attempt_id) == (["made"], [1, 2, 3], None)
    assert repository.state.prs[1].reason == "its context was revoked: its wheel is poisoned"
    assert repository.state.prs[1].tried == before
    assert all(may_generate(repository.state, pr) for pr in repository.state.prs.values())
    assert repository.do(Revoke(context="made", why="again")) == []
    assert repository.do(Revoke(context="unknown", why="?")) == []
    (session,) = repository.fill(3, agent="claude")
    assert session.stage is Stage.LLM_GENERATE


def test_what_sessions_made_from_a_context_falls_with_it() -> None:
    repository = generated(1)
    made_from = {"child": "made", "grandchild": "child", "other": "elsewhere"}
    for number, (child, parent) in enumerate(made_from.items(), start=2):
        repository.join(number, try_default=False, generate=True)
        (similar,) = repository.fill(1, agent="claude")
        repository.end(similar, verified=False)
        slot = Slot(attempt_id=f"s{number}", lease="l", runner="r", agent="claude")
        while repository.state_of(number) != "llm_generate":
            (step,) = [one for one in repository.do(FillSlots(slots=[slot])) if isinstance(one, AttemptStarted)]
            if step.stage is not Stage.LLM_GENERATE:
                repository.end(step, verified=False)
                slot = replace(slot, attempt_id=f"{slot.attempt_id}+")
        repository.state.inflight[step.attempt_id].context = parent
        repository.end(step, context=child)
    (revoked,) = revoked_by(repository.do(Revoke(context="made", why="poisoned")))
    assert (revoked.contexts, revoked.issue_numbers) == (["made", "child", "grandchild"], [1, 2, 3])
    assert repository.state_of(4) == "succeeded"


def test_an_attempt_in_flight_with_a_context_that_is_revoked_ends_and_does_not_count() -> None:
    repository = generated(1, 2, 3)
    repository.join(4, try_default=False, generate=True)
    (attempt,) = repository.fill(1, agent="claude")
    repository.do(Revoke(context="made", why="poisoned"))
    assert attempt.attempt_id in repository.state.inflight
    (failed, *_) = repository.end(attempt)
    assert isinstance(failed, AttemptFailed)
    assert not failed.outcome.verified
    assert failed.outcome.message.endswith("its context was revoked meanwhile (poisoned)")
    assert (repository.state_of(4), spent(repository, 4)) == ("find_similar", (0, 0, 0, 0))


def test_what_a_session_makes_from_a_context_that_is_revoked_meanwhile_is_revoked_too_and_costs_nothing() -> None:
    repository = Repository(1, 2, try_default=False, generate=True, max_attempts=1)
    (first,) = repository.fill(1, agent="claude")
    repository.end(first, context="parent")
    (similar,) = repository.fill(1, agent="claude")
    repository.end(similar, verified=False)
    (session,) = repository.fill(1, agent="claude")
    repository.state.inflight[session.attempt_id].context = "parent"
    repository.do(Revoke(context="parent", why="poisoned"))
    events = repository.end(session, context="child")
    assert not any(isinstance(one, AttemptSucceeded) for one in events)
    assert revoked_by(events)[0].contexts == ["child"]
    assert repository.state.prs[session.issue_number].generations == 0


def test_a_revoked_stock_template_is_not_tried_any_more() -> None:
    repository = Repository(1, 2)
    (attempt,) = repository.fill(1)
    repository.end(attempt)
    repository.do(Revoke(context=STOCK, why="its base image is poisoned"))
    assert not repository.fill(4)
    assert [repository.state_of(number) for number in (1, 2)] == ["failed", "failed"]


def test_a_revoked_context_is_no_cache_hit_and_is_not_imported_again() -> None:
    repository = Repository(1)
    repository.do(ImportContexts(contexts=[known_context(1)]))
    repository.do(Revoke(context="c", why="poisoned"))
    assert repository.do(ImportContexts(contexts=[known_context(1)])) == []
    (attempt,) = repository.fill()
    assert attempt.context == STOCK
    assert not any(isinstance(one, CacheHit) for one in repository.events)


def test_the_cache_tells_of_what_was_revoked_and_of_what_descends_from_it() -> None:
    repository = Repository(1, 2)
    repository.do(ImportContexts(contexts=[known_context(1)]))
    repository.fill(1)
    assert repository.state_of(1) == "succeeded"
    news = [
        replace(known_context(9), revoked="poisoned"),
        replace(known_context(8, context="child"), parent="c"),
        replace(known_context(7, context="grandchild"), parent="child"),
    ]
    events = repository.do(ImportContexts(contexts=news))
    assert sorted(one for event in revoked_by(events) for one in event.contexts) == ["c", "child", "grandchild"]
    assert repository.state_of(1) == "queued"
    assert repository.state.imported == {}
    assert repository.do(ImportContexts(contexts=news)) == []


def test_a_later_sweep_of_the_repository_does_not_use_what_was_revoked_in_an_earlier_one() -> None:
    repository = generated(1)
    repository.do(Revoke(context="made", why="poisoned"))
    repository.do(Claim(incarnation="i2", sweep="t"))
    changes = policy(try_default=False, generate=True)
    repository.do(Admit(sweep="t", rules=RULES, policy=changes, pull_requests=[admission(2), admission(1)]))
    assert all(one.context != "made" for one in repository.fill(4, agent="claude"))


# ---------------------------------------------------------------- retry


def test_reopening_takes_the_failed_ones_of_the_sweep_once_and_gives_them_whole_budgets() -> None:
    repository = Repository(1, 2, 3, try_default=False, generate=True, max_attempts=1)
    (session,) = repository.fill(1, agent="claude")
    repository.end(session, verified=False, cls=TAMPER, context="bad")
    while attempts := repository.fill(3, agent="claude"):
        for one in attempts:
            repository.end(one, verified=False, context=None)
    wanted = Reopen(sweep="s", issue_numbers=[1, 2, 3, 2, 99], reason="tried again")
    events = repository.do(wanted)
    assert [type(one) for one in events] == [PullRequestReopened] * 3
    assert repository.do(wanted) == []
    assert repository.do(replace(wanted, sweep="other")) == []
    pr = repository.state.prs[session.issue_number]
    assert (pr.generation_ended, pr.generations, pr.failure_class, pr.tried) == (False, 0, None, set())
    assert set(repository.state.revoked) == {"bad"}, "what was revoked stays so"
    (again,) = repository.fill(1, agent="claude")
    assert again.stage is Stage.LLM_GENERATE
