"""The governor's core: which account a session is granted on, pauses and their probes, usage, budgets, outlooks."""

from __future__ import annotations

import pytest

from events.capacity import next_opening, outlook
from events.errors import IllegalTransition
from events.governor import (
    KIND_AGENTS,
    RUNNERS,
    GovernorState,
    Pauses,
    Request,
    configure,
    end_session,
    evolve,
    expire,
    forgive,
    grant,
    release,
)
from events.sessions import EndedSession, ended_session
from events.types import (
    Account,
    AccountPaused,
    AccountProbed,
    AccountReopened,
    Budget,
    BudgetReached,
    GovernorEvent,
    Lease,
    LeasesGranted,
    LeasesReleased,
    UsageCounted,
)
from events.work import SessionReport

PAUSES = Pauses(default_s=3600.0, jitter_s=20.0)
HOUR = 3600.0


class Governor:
    """A governor's state driven by plain calls."""

    def __init__(self, *accounts: Account, runners: int = 9, budget: Budget | None = None) -> None:
        self.state, self.now, self._ids = GovernorState(), 1_000_000.0, 0
        given = [Account(name=RUNNERS, slots=runners), *accounts]
        self.do(configure(self.state, given, sweep="s", budget=budget))

    def do(self, events: list[GovernorEvent]) -> list[GovernorEvent]:
        for event in events:
            evolve(self.state, event)
        return events

    def sessions(self, *numbers: int, holder: str = "h") -> list[Lease]:
        """Asks for a session for each of these pull requests; the accounts' leases that were granted."""
        requests = []
        for number in numbers:
            self._ids += 1
            requests.append(
                Request(
                    lease_id=f"l{self._ids}",
                    account=KIND_AGENTS,
                    holder=holder,
                    issue_number=number,
                    attempt_id=f"a{self._ids}",
                    beside=f"r{self._ids}",
                )
            )
        events = self.do(grant(self.state, requests, now=self.now, ttl_s=30.0))
        leases = [lease for one in events if isinstance(one, LeasesGranted) for lease in one.leases]
        return [one for one in leases if one.account != RUNNERS]

    def end(self, lease: Lease, ended: str = "completed", **report: object) -> list[GovernorEvent]:
        """Tells the end of a session."""
        given = SessionReport(account=lease.account, agent="claude", ended=ended, **report)  # type: ignore[arg-type]
        return self.tell(
            ended_session(given, attempt_id=lease.attempt_id, account=lease.account, lease_id=lease.lease_id, sweep="s")
        )

    def tell(self, end: EndedSession) -> list[GovernorEvent]:
        return self.do(end_session(self.state, end, now=self.now, pauses=PAUSES))


def claude(slots: int = 2, **more: object) -> Account:
    return Account(name="claude", slots=slots, agent="claude", **more)  # type: ignore[arg-type]


def codex(slots: int = 2, **more: object) -> Account:
    return Account(name="codex", slots=slots, agent="codex", **more)  # type: ignore[arg-type]


def test_a_session_gets_the_account_with_most_free_slots_and_a_runner_with_it() -> None:
    governor = Governor(claude(1), codex(3))
    leases = governor.sessions(1, 2, 3, 4, 5)
    assert [one.account for one in leases] == ["codex", "codex", "claude", "codex"]
    assert [(one.issue_number, one.attempt_id, one.granted_at) for one in leases[:2]] == [
        (1, "a1", governor.now),
        (2, "a2", governor.now),
    ]
    beside = [one for one in governor.state.leases.values() if one.account == RUNNERS]
    assert (beside[0].lease_id, beside[0].issue_number, beside[0].attempt_id) == ("r1", 1, "a1")
    assert len(beside) == 4


def test_without_a_runner_no_session_and_without_an_account_no_runner() -> None:
    governor = Governor(claude(3), runners=1)
    assert len(governor.sessions(1, 2)) == 1
    governor = Governor(claude(1), runners=5)
    governor.sessions(1, 2, 3)
    assert governor.state.in_use(RUNNERS) == 1


def test_two_sessions_for_one_pull_request_are_on_two_accounts() -> None:
    governor = Governor(claude(3), codex(1))
    assert [one.account for one in governor.sessions(7, 7, 7)] == ["claude", "codex"]
    assert governor.sessions(7) == []
    assert [one.account for one in governor.sessions(7, holder="another repository")] == ["claude"]


def test_a_limit_pauses_its_account_only_until_its_reset_and_the_jitter() -> None:
    governor = Governor(claude(), codex())
    one, other = governor.sessions(1, 2)
    assert (one.account, other.account) == ("claude", "codex")
    reset_at = governor.now + HOUR
    events = governor.end(one, "rate_limited", reset_at=reset_at, message="5-hour limit")
    assert [type(event) for event in events] == [UsageCounted, AccountPaused, LeasesReleased]
    paused = events[1]
    assert isinstance(paused, AccountPaused)
    assert (paused.account, paused.until, paused.reset_at, paused.reason) == (
        "claude",
        reset_at + 20.0,
        reset_at,
        "5-hour limit",
    )
    assert [one.account for one in governor.sessions(3, 4, 5)] == ["codex"]
    found = outlook(governor.state, governor.now)
    assert found is not None
    assert (found.until, found.never) == (reset_at + 20.0, False)
    assert "claude is paused until 1970-01-12 14:47:00 UTC (5-hour limit)" in found.reason
    assert "all 2 slots of codex are taken" in found.reason


def test_a_limit_without_a_known_reset_pauses_for_the_default() -> None:
    governor = Governor(claude())
    (one,) = governor.sessions(1)
    governor.end(one, "rate_limited")
    assert governor.state.pauses["claude"].until == governor.now + PAUSES.default_s


def limited(*, slots: int = 3) -> Governor:
    """Claude has met its limit, and its hour has passed."""
    governor = Governor(claude(slots))
    (one,) = governor.sessions(1)
    governor.end(one, "rate_limited", reset_at=governor.now + HOUR)
    governor.now += HOUR + 19.0
    assert governor.sessions(1, 2) == [], "a second before its end it is still paused"
    assert next_opening(governor.state, governor.now) == governor.now + 1.0
    governor.now += 1.0
    return governor


def test_after_its_pause_an_account_grants_one_lease_and_all_its_slots_once_that_went_well() -> None:
    governor = limited()
    (probe,) = governor.sessions(1, 2, 3)
    assert governor.state.pauses["claude"].probe == probe.lease_id
    assert governor.sessions(2) == [], "one probe at a time"
    events = governor.end(probe)
    assert [type(one) for one in events] == [UsageCounted, AccountReopened, LeasesReleased]
    assert len(governor.sessions(2, 3, 4, 5)) == 3


def test_a_probe_that_meets_the_limit_pauses_again() -> None:
    governor = limited()
    (probe,) = governor.sessions(1)
    governor.end(probe, "rate_limited", reset_at=governor.now + HOUR)
    assert governor.sessions(1) == []
    governor.now += HOUR + 20.0
    assert len(governor.sessions(1, 2)) == 1


@pytest.mark.parametrize("how", ["released", "expired", "cancelled", "server"])
def test_a_probe_that_shows_nothing_is_followed_by_another(how: str) -> None:
    governor = limited()
    (probe,) = governor.sessions(1)
    if how == "released":
        governor.do(release(governor.state, [probe.lease_id]))
    elif how == "expired":
        governor.do(expire(governor.state, [probe.lease_id], reason="silent"))
    else:
        governor.end(probe, how)
    assert "claude" in governor.state.pauses
    assert len(governor.sessions(1, 2)) == 1


def test_sessions_under_way_when_the_limit_came_do_not_open_it_again_but_may_tell_more() -> None:
    governor = Governor(claude(4))
    one, two, three, four = governor.sessions(1, 2, 3, 4)
    governor.end(one, "rate_limited")
    governor.end(two)
    assert governor.state.pauses["claude"].until == governor.now + PAUSES.default_s
    reset_at = governor.now + 5 * HOUR
    assert AccountPaused in [type(event) for event in governor.end(three, "rate_limited", reset_at=reset_at)]
    assert governor.state.pauses["claude"].until == reset_at + 20.0
    assert AccountPaused not in [type(event) for event in governor.end(four, "rate_limited", reset_at=reset_at)]


def test_a_session_that_did_its_work_and_met_the_limit_at_its_end_pauses_too() -> None:
    governor = Governor(claude())
    (one,) = governor.sessions(1)
    governor.end(one, "completed", reset_at=governor.now + HOUR)
    assert governor.sessions(2) == []


def test_a_limit_of_which_is_told_after_it_is_over_pauses_nobody() -> None:
    governor = Governor(claude())
    (one,) = governor.sessions(1)
    end = EndedSession(
        attempt_id=one.attempt_id, account="claude", lease_id=one.lease_id, sweep="s", at=governor.now, limited=True
    )
    governor.now += PAUSES.default_s + 1
    assert [type(event) for event in governor.tell(end)] == [UsageCounted, LeasesReleased]


def test_an_account_that_its_provider_refuses_is_paused_and_a_new_run_asks_it_again() -> None:
    governor = Governor(claude(), codex(1))
    (one,) = governor.sessions(1)
    governor.end(one, "account", message="invalid x-api-key")
    assert governor.state.pauses["claude"].refused
    found = outlook(governor.state, governor.now)
    assert found is None, "codex can be used"
    assert [one.account for one in governor.sessions(1, 2)] == ["codex"]
    assert [type(event) for event in governor.do(forgive(governor.state))] == [AccountReopened]
    assert [one.account for one in governor.sessions(2)] == ["claude"]


@pytest.mark.parametrize(("ended", "sessions"), [("account", 1), ("not_started", 0)])
def test_where_no_account_can_be_used_at_all_nothing_is_waited_for(ended: str, sessions: int) -> None:
    governor = Governor(claude())
    (one,) = governor.sessions(1)
    governor.end(one, ended, message="claude is not installed")
    found = outlook(governor.state, governor.now)
    assert found is not None
    assert found.never
    assert "claude cannot be used (claude is not installed)" in found.reason
    assert governor.state.spent_of("claude").sessions == sessions


def test_a_session_is_counted_once_however_often_it_is_told() -> None:
    governor = Governor(claude())
    (one,) = governor.sessions(1)
    governor.end(one, input_tokens=100, output_tokens=20, cost_usd=0.5)
    assert governor.end(one, input_tokens=100, output_tokens=20, cost_usd=0.5) == []
    spent = governor.state.spent_of("claude")
    assert (spent.sessions, spent.tokens, spent.usd, spent.unpriced) == (1, 120, 0.5, 0)


def test_a_session_of_which_nothing_is_known_counts_and_has_no_price() -> None:
    governor = Governor(claude())
    (one,) = governor.sessions(1)
    end = ended_session(None, attempt_id=one.attempt_id, account="claude", lease_id=one.lease_id, sweep="s")
    governor.tell(end)
    spent = governor.state.spent_of("claude")
    assert (spent.sessions, spent.tokens, spent.unpriced) == (1, 0, 1)


def test_a_late_end_after_the_lease_is_gone_is_counted_and_frees_nothing_else() -> None:
    governor = Governor(claude(1))
    (one,) = governor.sessions(1)
    governor.do(expire(governor.state, [one.lease_id], reason="silent"))
    (other,) = governor.sessions(2)
    assert [type(event) for event in governor.end(one)] == [UsageCounted]
    assert other.lease_id in governor.state.leases


def test_sessions_under_way_count_against_a_budget_of_sessions() -> None:
    governor = Governor(claude(5, budget=Budget(sessions=3)))
    one, two, three = governor.sessions(1, 2, 3, 4, 5)
    found = outlook(governor.state, governor.now)
    assert found is not None
    assert (found.never, "in use" in found.reason) == (False, True), "one may still be given back unused"
    governor.end(one)
    governor.end(two)
    assert governor.sessions(6) == []
    events = governor.end(three)
    (reached,) = [event for event in events if isinstance(event, BudgetReached)]
    assert (reached.account, reached.what, reached.spent, reached.limit) == ("claude", "sessions", 3.0, 3.0)
    found = outlook(governor.state, governor.now)
    assert found is not None
    assert (found.never, "claude has reached its budget: 3 of 3 sessions" in found.reason) == (True, True)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(tokens=150), "240 of 150 tokens"),
        (Budget(usd=0.9), "1.00 of 0.90 USD"),
        (Budget(sessions=2), "2 of 2 ses"),
    ],
)
def test_a_sweep_at_its_budget_grants_nothing_more_whatever_its_accounts_have_left(budget: Budget, words: str) -> None:
    governor = Governor(claude(1), codex(1), budget=budget)
    for lease in governor.sessions(1, 2):
        governor.end(lease, input_tokens=100, output_tokens=20, cost_usd=0.5)
    assert governor.sessions(3) == []
    found = outlook(governor.state, governor.now)
    assert found is not None
    assert found.never
    assert f"the sweep's budget is reached: {words}" in found.reason


def test_a_window_counts_starts_and_opens_again_when_it_has_moved_on() -> None:
    governor = Governor(claude(2, budget=Budget(sessions=2), window_s=HOUR))
    (one,) = governor.sessions(1)
    governor.now += 100.0
    governor.end(one)
    (two,) = governor.sessions(2)
    assert governor.sessions(3) == []
    assert next_opening(governor.state, governor.now) == governor.now - 100.0 + HOUR
    governor.end(two)
    found = outlook(governor.state, governor.now)
    assert found is not None
    assert (found.until, found.never) == (governor.now - 100.0 + HOUR, False)
    governor.now += HOUR - 100.0
    assert len(governor.sessions(3, 4)) == 1


def test_another_sweep_in_the_same_log_has_a_budget_of_its_own_and_the_pauses_that_there_are() -> None:
    governor = Governor(claude(), codex(), budget=Budget(sessions=1))
    (one,) = governor.sessions(1)
    governor.end(one, "rate_limited", reset_at=governor.now + HOUR)
    assert governor.sessions(2) == []
    accounts = list(governor.state.accounts.values())
    governor.do(configure(governor.state, accounts, sweep="t", budget=Budget(sessions=1)))
    assert configure(governor.state, accounts, sweep="t", budget=Budget(sessions=1)) == []
    assert [lease.account for lease in governor.sessions(3, 4)] == ["codex"]


def test_what_would_break_a_rule_is_refused_and_changes_nothing() -> None:
    governor = limited(slots=2)
    lease = Lease(lease_id="x", account="claude", slot=0, holder="h", expires_at=0.0)
    counted = UsageCounted(account="claude", attempt_id="a1", at=0.0, sweep="s")
    for event in (
        LeasesGranted(leases=[lease]),
        counted,
        AccountReopened(account=RUNNERS),
        AccountProbed(account=RUNNERS, lease_id="x"),
        AccountPaused(account="unknown", until=1.0, reason="", attempt_id="a"),
    ):
        version = governor.state.version
        with pytest.raises(IllegalTransition):
            evolve(governor.state, event)
        assert governor.state.version == version
    (probe,) = governor.sessions(1)
    with pytest.raises(IllegalTransition, match="probing"):
        evolve(governor.state, AccountProbed(account="claude", lease_id="y"))
    assert governor.state.pauses["claude"].probe == probe.lease_id
