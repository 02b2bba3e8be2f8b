"""Sessions of agents in a repository's core: what they start from, what each kind of end costs, waiting, racing."""

from __future__ import annotations

import msgspec
import pytest

from events.commands import AwaitLease, FillSlots, Interrupt, Reopen, Revoke, Slot, TakeOutcome
from events.decide import LOST, is_drained
from events.errors import IllegalTransition
from events.pull_request import PrState
from events.repository import evolve
from events.types import (
    AttemptFailed,
    AttemptInterrupted,
    AttemptRateLimited,
    AttemptStarted,
    AttemptSucceeded,
    ContextRevoked,
    LeaseAwaited,
    PullRequestFailed,
    PullRequestHeld,
    RepositoryEvent,
)
from events.wanting import SessionWanted, wanted
from events.work import FailureClass, Outcome, SessionReport, Stage
from tests.events.worlds import STOCK, Repository, outcome


class Agents(Repository):
    """A repository whose sessions run on accounts."""

    def session(self, number: int, account: str = "claude", *, others: int = 0) -> list[AttemptStarted]:
        """Offers a session on ``account`` for one pull request, and ``others`` runners; what was started."""
        self._ids += 1
        name = f"a{self._ids}"
        slot = Slot(
            attempt_id=name,
            lease=f"l-{name}",
            runner="runner:0",
            agent=account.partition(":")[0],
            account=account,
            agent_lease=f"{account}-{name}",
            issue_number=number,
        )
        free = [Slot(attempt_id=f"{name}-{index}", lease=f"l{index}", runner="r") for index in range(others)]
        events = self.do(FillSlots(slots=[*free, slot], awaits=False))
        return [one for one in events if isinstance(one, AttemptStarted)]

    def came_to(
        self, attempt: AttemptStarted, given: Outcome, ended: str = "completed", **more: object
    ) -> list[RepositoryEvent]:
        """A session ends."""
        report = SessionReport(account=attempt.account or "", agent=attempt.agent or "", ended=ended, **more)  # type: ignore[arg-type]
        return self.do(TakeOutcome(attempt_id=attempt.attempt_id, outcome=_with(given, report)))

    def limited(self, attempt: AttemptStarted, *, context: str | None = None) -> list[RepositoryEvent]:
        given = outcome(verified=False, cls=FailureClass.AGENT, context=context)
        return self.came_to(attempt, given, "rate_limited", reset_at=self.now + 60, message="5-hour limit")

    def refused(self, attempt: AttemptStarted, context: str | None) -> list[RepositoryEvent]:
        return self.came_to(attempt, outcome(verified=False, context=context))


def _with(given: Outcome, report: SessionReport) -> Outcome:
    return msgspec.structs.replace(given, session=report, blobs={"transcript": "b" * 64})


def agents(*numbers: int, **changes: object) -> Agents:
    """Pull requests that have been through the cache; without ``try_default``, sessions are all that is left."""
    found = Agents(*numbers, **{"try_default": False, "generate": True, **changes})  # type: ignore[arg-type]
    found.do(FillSlots(slots=[Slot(attempt_id="none", lease="l", runner="r")], awaits=False))
    return found


def test_a_session_starts_from_the_template_and_what_it_makes_descends_from_that() -> None:
    repository = agents(1)
    (session,) = repository.session(1)
    assert (session.agent, session.account, session.agent_lease) == ("claude", "claude", "claude-a1")
    assert session.context == STOCK
    repository.came_to(session, outcome(context="made"))
    assert repository.state.parents == {"made": {STOCK}}


def test_a_session_starts_from_what_the_last_one_left_else_from_the_nearest_verified_context() -> None:
    repository = agents(1)
    (session,) = repository.session(1)
    repository.came_to(session, outcome(context="left"))
    repository.join(9, try_default=False, generate=True)
    (similar,) = repository.fill(1)
    repository.end(similar, verified=False)
    (first,) = repository.session(9)
    assert first.context == "left"
    repository.refused(first, "mended")
    (second,) = repository.session(9)
    assert second.context == "mended"
    repository.limited(second, context="half done")
    (third,) = repository.session(9, "codex")
    assert third.context == "half done"
    repository.came_to(third, outcome(context="good"))
    assert {child: parents for child, parents in repository.state.parents.items() if child != "left"} == {
        "mended": {"left"},
        "half done": {"mended"},
        "good": {"half done"},
    }
    (revoked,) = repository.do(Revoke(context="left", why="poisoned"))
    assert isinstance(revoked, ContextRevoked)
    assert set(revoked.contexts) == {"left", "mended", "half done", "good"}


def test_a_rate_limit_costs_no_attempt_and_keeps_what_was_used() -> None:
    repository = agents(1)
    (session,) = repository.session(1)
    (limited,) = repository.limited(session)
    assert isinstance(limited, AttemptRateLimited)
    assert (limited.account, limited.reset_at, limited.at) == ("claude", repository.now + 60, repository.now)
    assert limited.session is not None
    assert limited.blobs == {"transcript": "b" * 64}
    pr = repository.state.prs[1]
    assert (pr.generations, pr.aborted, pr.rate_limits, pr.failures) == (0, 0, 1, [])
    end = repository.state.sessions["a1"]
    assert (end.account, end.lease_id, end.limited, end.at) == ("claude", "claude-a1", True, repository.now)


def test_after_too_many_limits_a_pull_request_fails_as_the_agents_and_retry_opens_it_with_whole_budgets() -> None:
    repository = agents(1, rl_max_retries=3)
    for _ in range(3):
        (session,) = repository.session(1)
        assert len(repository.limited(session)) == 1
    (session,) = repository.session(1)
    _, failed = repository.limited(session)
    assert isinstance(failed, PullRequestFailed)
    assert failed.failure_class is FailureClass.AGENT
    assert failed.reason.endswith("(its sessions met a rate limit 4 times; `headrace retry` opens it again)")
    assert is_drained(repository.state)
    repository.do(Reopen(sweep="s", issue_numbers=[1], reason="again"))
    repository.do(FillSlots(slots=[Slot(attempt_id="none", lease="l", runner="r")], awaits=False))
    assert len(repository.session(1)) == 1


def test_aborted_sessions_have_a_budget_of_their_own() -> None:
    repository = agents(1, max_attempts=3, max_aborted=2)
    for _ in range(2):
        (session,) = repository.session(1)
        repository.came_to(session, outcome(verified=False, cls=FailureClass.AGENT), "stalled")
    pr = repository.state.prs[1]
    assert (pr.generations, pr.aborted, pr.tried) == (0, 2, set())
    assert wanted(repository.state, most=2, now=repository.now).sessions == ()
    repository.fill(1)
    (failed,) = [one for one in repository.events if isinstance(one, PullRequestFailed)]
    assert "2 sessions ended without a verdict" in failed.reason
    assert failed.failure_class is FailureClass.AGENT


def test_aborted_sessions_do_not_count_as_attempts() -> None:
    repository = agents(1, max_attempts=1, max_aborted=2)
    (session,) = repository.session(1)
    repository.came_to(session, outcome(verified=False, cls=FailureClass.AGENT), "no_final")
    (second,) = repository.session(1)
    repository.refused(second, "bad")
    pr = repository.state.prs[1]
    assert (pr.generations, pr.aborted, pr.failures) == (1, 1, ["a1", "a2"])


def test_what_a_session_made_is_tried_again_when_only_the_infrastructure_failed_and_nobody_is_paid_twice() -> None:
    repository = agents(1)
    (session,) = repository.session(1)
    (failed,) = repository.came_to(session, outcome(verified=False, cls=FailureClass.INFRA, context="made"))
    assert isinstance(failed, AttemptFailed)
    repository.now = failed.retry_at or 0.0
    assert wanted(repository.state, most=2, now=repository.now).sessions == ()
    (again,) = repository.fill(1)
    assert (again.stage, again.context) == (Stage.TRY_SIMILAR, "made")
    assert "no verdict yet" in again.reason
    repository.end(again, verified=False, cls=FailureClass.FLAKE)
    (twice,) = repository.fill(1)
    assert twice.context == "made", "its first verdict was a flake"
    repository.end(twice, verified=False)
    assert repository.state.prs[1].generations == 1


@pytest.mark.parametrize("cls", [FailureClass.RECIPE, FailureClass.TAMPER])
def test_tampering_counts_as_tampering_though_the_session_met_a_limit(cls: FailureClass) -> None:
    repository = agents(1)
    (session,) = repository.session(1)
    given = outcome(verified=False, cls=cls, context="made")
    events = repository.came_to(session, given, "rate_limited", reset_at=repository.now + 60)
    tampered = cls is FailureClass.TAMPER
    assert isinstance(events[0], AttemptFailed if tampered else AttemptRateLimited)
    assert repository.state.prs[1].generation_ended is tampered
    assert repository.state.sessions["a1"].limited


def test_an_interrupted_session_is_told_of_with_what_is_known() -> None:
    repository = agents(1)
    (session,) = repository.session(1)
    repository.do(Interrupt(attempt_id=session.attempt_id, reason="its runner died", runner_died=True))
    end = repository.state.sessions["a1"]
    assert (end.account, end.limited, end.usd, end.input_tokens) == ("claude", False, None, 0)


@pytest.mark.parametrize("ended", ["account", "server", "not_started"])
def test_what_is_the_accounts_fault_keeps_nothing_else_of_its_repository_waiting(ended: str) -> None:
    repository = agents(1, 9)
    (session,) = repository.session(9)
    (failed,) = repository.came_to(session, outcome(verified=False, cls=FailureClass.INFRA), ended)
    assert isinstance(failed, AttemptFailed)
    assert failed.retry_at == repository.now + 2.0
    assert (repository.state.infra_streak, repository.state.not_before) == (0, 0.0)
    assert wanted(repository.state, most=2, now=repository.now).sessions == (SessionWanted(1, 2),)


# ------------------------------------------------------------ what is wanted


def test_a_session_is_wanted_for_the_pivot_with_how_many_it_may_serve() -> None:
    repository = agents(1, 2, 3)
    want = wanted(repository.state, most=4, now=repository.now)
    assert want.sessions == (SessionWanted(2, 3),)
    assert want.runners == 0, "nothing else is due, and nobody asks again and again"
    assert want.next_at is None


def test_fresh_pull_requests_are_looked_up_in_the_cache_first() -> None:
    repository = Agents(1, 2, try_default=False, generate=True)
    want = wanted(repository.state, most=4, now=repository.now)
    assert (want.runners, want.sessions) == (2, ())


def test_what_needs_no_agent_is_wanted_beside_it_and_goes_on_without_one() -> None:
    repository = agents(1, 2, 3)
    (session,) = repository.session(2)
    repository.came_to(session, outcome(context="c"))
    repository.join(20, try_default=False, generate=True)
    repository.do(FillSlots(slots=[Slot(attempt_id="none", lease="l", runner="r")], awaits=False))
    want = wanted(repository.state, most=4, now=repository.now)
    assert want.runners >= 1


def test_whoever_is_not_due_is_held_once_a_session_is_under_way_and_then_nothing_is_wanted() -> None:
    repository = agents(1, 2, 3)
    repository.session(2)
    want = wanted(repository.state, most=4, now=repository.now)
    assert (want.runners, want.sessions) == (1, ())
    repository.fill(1)
    assert [one.behind for one in repository.events if isinstance(one, PullRequestHeld)] == ["a1"]
    want = wanted(repository.state, most=4, now=repository.now)
    assert (want.runners, want.sessions) == (0, ())


def test_whose_session_is_due_waits_for_a_lease_with_reason_and_time_once() -> None:
    repository = agents(1, 2, 3)
    command = AwaitLease(issue_numbers=[2, 3], reason="claude is paused", until=repository.now + 60)
    assert repository.do(command) == [
        LeaseAwaited(issue_number=2, reason="claude is paused", until=repository.now + 60)
    ], "only whose turn it is"
    assert repository.do(command) == []
    assert repository.state_of(2) == "awaiting_lease"
    assert wanted(repository.state, most=4, now=repository.now).sessions == (SessionWanted(2, 3),)
    (session,) = repository.session(2)
    assert session.issue_number == 2


def test_a_session_is_only_started_for_the_pull_request_that_its_lease_names() -> None:
    repository = agents(1, 2, 3)
    assert repository.session(3) == []
    assert repository.session(2, others=2)[0].issue_number == 2


def test_after_a_pause_for_infra_failures_nothing_is_wanted_before_its_end() -> None:
    repository = agents(1)
    (session,) = repository.session(1)
    (failed,) = repository.came_to(session, outcome(verified=False, cls=FailureClass.INFRA))
    assert isinstance(failed, AttemptFailed)
    want = wanted(repository.state, most=4, now=repository.now)
    assert (want.runners, want.sessions, want.next_at) == (0, (), failed.retry_at)


def test_without_agents_whoever_waited_for_one_is_wanted_for_giving_up() -> None:
    repository = agents(1)
    repository.do(AwaitLease(issue_numbers=[1], reason="none is free"))
    repository.join(generate=False, try_default=False)
    assert wanted(repository.state, most=4, now=repository.now).runners == 1
    repository.fill(1)
    assert repository.state_of(1) == "failed"


# ------------------------------------------------------------ racing


def racing(**changes: object) -> tuple[Agents, AttemptStarted, AttemptStarted]:
    """One session has failed on PR 1, and two race on it now."""
    repository = agents(1, race=2, max_attempts=5, **changes)
    (first,) = repository.session(1)
    assert repository.session(1, "codex") == [], "nobody races before one has failed"
    repository.refused(first, "bad")
    want = wanted(repository.state, most=4, now=repository.now)
    assert want.sessions == (SessionWanted(1, 1), SessionWanted(1, 0))
    (one,) = repository.session(1)
    assert wanted(repository.state, most=4, now=repository.now).sessions == (SessionWanted(1, 0),)
    assert repository.session(1, "claude") == [], "an account does not race with itself"
    (other,) = repository.session(1, "codex")
    assert wanted(repository.state, most=4, now=repository.now).sessions == ()
    assert repository.session(1, "gemini") == [], "two at once, and no more"
    return repository, one, other


def test_the_first_that_verifies_wins_and_the_other_is_interrupted_as_having_lost() -> None:
    repository, one, other = racing()
    (succeeded, *_) = repository.came_to(other, outcome(context="good"))
    assert isinstance(succeeded, AttemptSucceeded)
    assert repository.state_of(1) == "succeeded"
    assert repository.state.inflight[one.attempt_id].lost
    assert not is_drained(repository.state), "its end is waited for"
    (lost,) = repository.came_to(one, outcome(verified=True, context="late"), "cancelled", input_tokens=9)
    assert isinstance(lost, AttemptInterrupted)
    assert lost.reason == LOST
    assert lost.session is not None
    assert repository.state.prs[1].context == "good"
    assert repository.state.sessions[one.attempt_id].input_tokens == 9
    assert is_drained(repository.state)


def test_a_loser_whose_runner_dies_has_lost_all_the_same_and_costs_nobody_anything() -> None:
    repository, one, other = racing()
    repository.came_to(one, outcome(context="good"))
    (lost,) = repository.do(Interrupt(attempt_id=other.attempt_id, reason="its runner died", runner_died=True))
    assert isinstance(lost, AttemptInterrupted)
    assert lost.reason == f"{LOST}; its runner died"
    assert lost.retry_at is None


def test_while_one_still_races_the_failure_of_the_other_ends_nothing() -> None:
    repository, one, other = racing()
    repository.refused(one, "bad too")
    assert repository.state_of(1) == "llm_generate"
    assert 1 not in repository.state.ready
    repository.limited(other)
    assert repository.state_of(1) == "find_similar"
    pr = repository.state.prs[1]
    assert (pr.generations, pr.rate_limits) == (2, 1)


def test_a_race_keeps_to_the_budget_of_its_pull_request() -> None:
    repository = agents(1, race=3, max_attempts=2)
    (first,) = repository.session(1)
    repository.refused(first, "bad")
    assert wanted(repository.state, most=4, now=repository.now).sessions == (SessionWanted(1, 1),)
    repository.session(1)
    assert repository.session(1, "codex") == []


def test_who_has_lost_can_do_nothing_but_end() -> None:
    repository, one, other = racing()
    repository.came_to(other, outcome(context="good"))
    for event in (
        AttemptSucceeded(attempt_id=one.attempt_id, issue_number=1, context="c", outcome=outcome()),
        AttemptFailed(attempt_id=one.attempt_id, issue_number=1, outcome=outcome(verified=False)),
    ):
        with pytest.raises(IllegalTransition, match="lost"):
            evolve(repository.state, event)
    assert repository.state.prs[1].state is PrState.SUCCEEDED


def test_a_revocation_while_a_loser_is_still_at_work_opens_the_pull_request_and_the_loser_ends_alone() -> None:
    repository, one, other = racing()
    repository.came_to(other, outcome(context="good"))
    repository.do(Revoke(context="good", why="poisoned"))
    assert repository.state_of(1) == "queued"
    repository.came_to(one, outcome(verified=False), "cancelled")
    assert repository.state_of(1) == "queued"
    assert one.attempt_id in repository.state.sessions
