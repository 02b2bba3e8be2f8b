"""Transition tables: every (state, trigger) pair is in the table, or is refused and changes nothing."""

from __future__ import annotations

import copy

import msgspec
import pytest

from events import governor, sweep
from events.errors import IllegalTransition
from events.pull_request import TRANSITIONS, PrState, next_state
from events.records import InFlight
from events.repository import evolve
from events.repository_state import RepositoryState
from events.types import (
    Account,
    AccountsConfigured,
    AttemptFailed,
    AttemptInterrupted,
    AttemptRateLimited,
    AttemptStarted,
    AttemptSucceeded,
    CacheHit,
    ContextRevoked,
    Lease,
    LeaseAwaited,
    LeasesGranted,
    LeasesReleased,
    NeighboursQueued,
    PullRequestFailed,
    PullRequestHeld,
    PullRequestReopened,
    RepositoriesAdmitted,
    RepositoryActivated,
    RepositoryEvent,
    RepositoryRetired,
    RepositoryRows,
    StageEntered,
    SweepRunStarted,
)
from events.work import Stage
from tests.events.worlds import Repository, outcome

TRIGGERS = sorted({trigger for row in TRANSITIONS.values() for trigger in row})


def event_of(trigger: str) -> RepositoryEvent | None:
    """An event with this trigger for PR 1 (attempt ``a``); ``None`` for admission, which carries many."""
    name, _, stage = trigger.removesuffix(":racing").partition(":")
    bad, good = outcome(verified=False), outcome()
    started_in = Stage(stage or "try_default")
    events: dict[str, RepositoryEvent] = {
        "StageEntered": StageEntered(issue_number=1, stage=Stage(stage or "check_cache")),
        "CacheHit": CacheHit(issue_number=1, context="c", attempt_id="old", reason=""),
        "PullRequestHeld": PullRequestHeld(issue_number=1, behind="b", reason=""),
        "LeaseAwaited": LeaseAwaited(issue_number=1, reason=""),
        "AttemptStarted": AttemptStarted(
            attempt_id="new", issue_number=1, stage=started_in, sweep="s", lease="l", runner="r"
        ),
        "AttemptSucceeded": AttemptSucceeded(attempt_id="a", issue_number=1, context="c", outcome=good),
        "AttemptFailed": AttemptFailed(attempt_id="a", issue_number=1, outcome=bad),
        "AttemptRateLimited": AttemptRateLimited(attempt_id="a", issue_number=1, account="claude", message=""),
        "AttemptInterrupted": AttemptInterrupted(attempt_id="a", issue_number=1, reason=""),
        "PullRequestFailed": PullRequestFailed(issue_number=1, reason="", stage="tests"),
        "PullRequestReopened": PullRequestReopened(issue_number=1, sweep="s", reason=""),
        "ContextRevoked": ContextRevoked(context="c", why="", contexts=["c"], issue_numbers=[1]),
    }
    return events.get(name)


def repository_in(state: PrState) -> RepositoryState:
    """A repository whose PR 1 is in ``state``; in an attempt's stage, attempt ``a`` is in flight."""
    found = Repository(1).state
    pr = found.prs[1]
    pr.state = state
    if state is PrState.SUCCEEDED:
        pr.context = "c"
        found.verified.append((pr.at, 1))
    stages = {str(one) for one in Stage}
    if str(state) in stages and str(state).startswith(("try", "llm")):
        found.inflight["a"] = InFlight(
            attempt_id="a", issue_number=1, stage=Stage(str(state)), context=None, agent=None, lease="l", runner="r"
        )
    return found


@pytest.mark.parametrize("state", [one for one in PrState if one is not PrState.AWAITING_SLOT])
@pytest.mark.parametrize("trigger", TRIGGERS)
def test_a_pair_in_the_table_leads_where_it_says_and_any_other_is_refused_unchanged(
    state: PrState, trigger: str
) -> None:
    event = event_of(trigger)
    if event is None:
        return
    repository = repository_in(state)
    if trigger.endswith(":racing"):
        if state is not PrState.LLM_GENERATE:
            return  # only sessions race
        repository.inflight["rival"] = msgspec.structs.replace(repository.inflight["a"], attempt_id="rival")
    before = copy.deepcopy(repository)
    if trigger in TRANSITIONS[state]:
        evolve(repository, event)
        assert repository.prs[1].state is TRANSITIONS[state][trigger]
        assert repository.version == before.version + 1
    else:
        with pytest.raises(IllegalTransition):
            evolve(repository, event)
        assert repository == before


def test_no_event_leads_to_awaiting_slot_which_is_only_shown() -> None:
    assert all(PrState.AWAITING_SLOT not in row.values() for row in TRANSITIONS.values())


def test_an_illegal_transition_names_machine_state_event_and_subject() -> None:
    with pytest.raises(IllegalTransition, match="pull request o/r#1: CacheHit is not allowed in state 'queued'"):
        next_state(PrState.QUEUED, "CacheHit", subject="o/r#1")


@pytest.mark.parametrize(
    "event",
    [
        StageEntered(issue_number=99, stage=Stage.CHECK_CACHE),
        AttemptFailed(attempt_id="unknown", issue_number=1, outcome=outcome(verified=False)),
        NeighboursQueued(source=1, issue_numbers=[1, 99], reason=""),
        RepositoryActivated(repository="o/r"),
    ],
)
def test_events_about_what_a_repository_does_not_know_are_refused_unchanged(event: object) -> None:
    repository = Repository(1).state
    before = copy.deepcopy(repository)
    with pytest.raises(IllegalTransition):
        evolve(repository, event)  # type: ignore[arg-type]
    assert repository == before


def test_an_attempt_cannot_start_twice() -> None:
    repository = Repository(1, 2)
    (attempt,) = repository.fill(1)
    (other,) = [number for number in (1, 2) if number != attempt.issue_number]
    before = copy.deepcopy(repository.state)
    with pytest.raises(IllegalTransition):
        evolve(repository.state, msgspec.structs.replace(attempt, issue_number=other))
    assert repository.state == before


def lease(name: str, slot: int, account: str = "docker") -> Lease:
    return Lease(lease_id=name, account=account, slot=slot, holder="h", expires_at=1.0)


@pytest.mark.parametrize(
    "leases",
    [
        [lease("x", 0)],
        [lease("y", 2)],
        [lease("y", -1)],
        [lease("y", 1, "claude")],
        [lease("y", 1), lease("z", 1)],
        [lease("a", 1)],
    ],
    ids=["taken", "beyond", "negative", "unknown account", "one slot twice", "one id twice"],
)
def test_the_governor_never_holds_more_leases_than_slots(leases: list[Lease]) -> None:
    state = governor.fold(
        [AccountsConfigured(accounts=[Account(name="docker", slots=2)]), LeasesGranted(leases=[lease("a", 0)])]
    )
    before = copy.deepcopy(state)
    with pytest.raises(IllegalTransition):
        governor.evolve(state, LeasesGranted(leases=leases))
    assert state == before


def test_grants_go_in_order_to_free_slots_and_late_releases_yield_nothing() -> None:
    state = governor.fold([AccountsConfigured(accounts=[Account(name="docker", slots=2)])])
    requests = [governor.Request(lease_id=name, account="docker", holder=name) for name in "abc"]
    (granted,) = governor.grant(state, requests, now=10.0, ttl_s=5.0)
    assert isinstance(granted, LeasesGranted)
    assert [(one.lease_id, one.slot, one.expires_at) for one in granted.leases] == [("a", 0, 15.0), ("b", 1, 15.0)]
    governor.evolve(state, granted)
    assert governor.grant(state, requests[2:], now=11.0, ttl_s=5.0) == []
    (released,) = governor.release(state, ["a", "a", "unknown"])
    assert released == LeasesReleased(lease_ids=["a"])
    governor.evolve(state, released)
    assert governor.release(state, ["a"]) == []
    assert state.free_slots("docker") == [0]
    with pytest.raises(IllegalTransition):
        governor.evolve(state, released)


def test_the_sweep_machine_takes_a_repository_from_pending_to_retired_and_back() -> None:
    rows = RepositoryRows(repository="o/r", rows="0" * 64, pull_requests=3)
    state = sweep.SweepState(sweep="s")
    with pytest.raises(IllegalTransition):
        sweep.evolve(state, RepositoryActivated(repository="o/r"))
    sweep.evolve(state, RepositoriesAdmitted(repositories=[rows]))
    retired = RepositoryRetired(repository="o/r", succeeded=2, failed=1, unreached=0)
    with pytest.raises(IllegalTransition):
        sweep.evolve(state, retired)
    for event in (
        SweepRunStarted(run="1", host="h", pid=1, workers=2),
        RepositoryActivated(repository="o/r"),
        RepositoryActivated(repository="o/r"),
        retired,
    ):
        sweep.evolve(state, event)
    assert state.in_phase(sweep.RepositoryPhase.RETIRED) == ["o/r"]
    sweep.evolve(state, RepositoriesAdmitted(repositories=[rows]))
    assert state.in_phase(sweep.RepositoryPhase.PENDING) == ["o/r"]
