"""Sweeps with agents' accounts on real Ray processes: killed in mid-session, at a limit, at a budget."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from actors.agent_settings import AgentAccount, AgentSettings
from actors.settings import SweepSettings
from events.governor import GovernorState, evolve
from events.types import (
    AccountPaused,
    AttemptInterrupted,
    AttemptRateLimited,
    AttemptStarted,
    AttemptSucceeded,
    SweepRunEnded,
    UsageCounted,
)
from events.work import Stage
from tests.actors.harness import Sweep, rows, wait_for
from tests.scripted import Script, journal

pytestmark = [pytest.mark.ray, pytest.mark.slow]

CLAUDE = AgentAccount(name="claude", agent="claude", slots=2)
CODEX = AgentAccount(name="codex", agent="codex", slots=1)


def script_of(repositories: int, **changes: object) -> Script:
    """The template builds none of them."""
    hard = [f"o/r{repository}#{number}" for repository in range(repositories) for number in (1, 2, 3)]
    return Script(**{"seconds": 0.4, "hard": hard, **changes})  # type: ignore[arg-type]


def sweep_of(folder: Path, repositories: int, agents: AgentSettings, **script: object) -> Sweep:
    settings = SweepSettings(workers=3, drain_s=0.5)
    given = script_of(repositories, **script)
    return Sweep(folder, pull_requests=rows(repositories, 3), script=given, sweep=settings, agents=agents)


def governor_of(sweep: Sweep) -> GovernorState:
    """The governor's stream, folded: no event in it gives an account more leases than slots, or a paused one any."""
    state = GovernorState()
    for stream, event in sweep.events():
        if stream == "governor":
            evolve(state, event)  # type: ignore[arg-type]
    return state


def assert_settled(sweep: Sweep, repositories: int) -> None:
    """All is verified, every session is counted once, no lease is out, and nothing that ended was done again."""
    sweep.check()
    found = sweep.repositories()
    assert [one.counts("s") for one in found] == [{"succeeded": 3}] * repositories
    governor = governor_of(sweep)
    assert governor.counted == {one for state in found for one in state.sessions}
    assert not [one for one in governor.leases.values() if one.account != "docker"], "no lease of an account is left"
    events = [one for _, one in sweep.events()]
    verified = {one.attempt_id for one in events if isinstance(one, AttemptSucceeded)}
    sessions = [one for one in events if isinstance(one, AttemptStarted) and one.stage is Stage.LLM_GENERATE]
    made = [one for one in sessions if one.attempt_id in verified]
    assert len(made) == repositories, "one session serves its repository; none is paid for a second time"


@pytest.mark.parametrize("victim", ["AgentRunner", "RateLimitGovernor", "RepositoryHost", "everything"])
def test_whoever_is_killed_in_mid_session_no_lease_is_left_and_no_finished_session_is_repeated(
    victim: str, tmp_path: Path
) -> None:
    sweep = sweep_of(tmp_path, 3, AgentSettings(account=[CLAUDE, CODEX]), seconds=1.5)
    sweep.start()
    wait_for("a session is under way", lambda: any(one.account for one in journal(tmp_path)))
    if victim == "everything":
        sweep.kill_everything()
        sweep.start()
    else:
        sweep.kill(f"ray::{victim}")
    assert sweep.finish() == 0
    assert_settled(sweep, 3)
    if victim == "everything":
        reasons = {one.reason for _, one in sweep.events() if isinstance(one, AttemptInterrupted)}
        assert "its processes ended with an earlier run" in reasons


def test_a_limit_outlives_its_run_and_the_other_account_goes_on(tmp_path: Path) -> None:
    reset_at = time.time() + 3600.0
    agents = AgentSettings(account=[CLAUDE, CODEX])
    sweep = sweep_of(tmp_path, 4, agents, seconds=0.8, limits={"claude": reset_at})
    sweep.start()
    wait_for("claude has met its limit", lambda: (tmp_path / "log.db").exists() and paused(sweep))
    sweep.kill_everything()
    spent = len([one for one in journal(tmp_path) if one.account == "claude" and one.what == "began"])
    sweep.start()
    assert sweep.finish() == 0
    assert_settled(sweep, 4)
    after = len([one for one in journal(tmp_path) if one.account == "claude" and one.what == "began"])
    assert after == spent <= CLAUDE.slots, "the next run knows of the pause and spends nothing on it"
    assert governor_of(sweep).pauses["claude"].until == pytest.approx(reset_at)


def paused(sweep: Sweep) -> bool:
    return any(isinstance(one, AccountPaused) for _, one in sweep.events())


def test_a_sweep_at_its_budget_ends_saying_so_and_goes_on_with_a_larger_one(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, 3, AgentSettings(account=[CLAUDE], max_sessions=2), seconds=0.1)
    sweep.start()
    assert sweep.finish() == 3
    events = [one for _, one in sweep.events()]
    assert len([one for one in events if isinstance(one, UsageCounted)]) == 2
    (end,) = [one for one in events if isinstance(one, SweepRunEnded)]
    assert (end.how, end.reason) == ("budget", "the sweep's budget is reached: 2 of 2 sessions")
    states = [one.counts("s") for one in sweep.repositories()]
    assert sum(one.get("succeeded", 0) for one in states) == 6, "what the two sessions made serves its repositories"
    again = sweep_of(tmp_path, 3, AgentSettings(account=[CLAUDE], max_sessions=5), seconds=0.1)
    again.start()
    assert again.finish() == 0
    assert_settled(again, 3)


def test_when_all_accounts_are_paused_the_sweep_waits_and_comes_back_by_itself(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, 2, AgentSettings(account=[CLAUDE]), seconds=0.1, limit_s={"claude": 8.0})
    sweep.start()
    assert sweep.finish() == 0
    assert_settled(sweep, 2)
    limited = [one for _, one in sweep.events() if isinstance(one, AttemptRateLimited)]
    assert 1 <= len(limited) <= CLAUDE.slots
