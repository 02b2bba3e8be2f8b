"""Real Ray processes killed for real: nothing finished is repeated, nothing is lost, the sweep ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.settings import SweepSettings
from events.types import (
    AttemptFailed,
    AttemptInterrupted,
    GovernorClaimed,
    RepositoryClaimed,
    SweepRunEnded,
    SweepRunStarted,
)
from tests.actors.harness import ACTORS, Sweep, rows, wait_for
from tests.scripted import Script, scripted

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def sweep_of(folder: Path, repositories: int = 2, pull_requests: int = 6, **script: object) -> Sweep:
    given = Script(**{"seconds": 0.4, "refuse": ["o/r0#3"], **script})  # type: ignore[arg-type]
    return Sweep(folder, pull_requests=rows(repositories, pull_requests), script=given)


def assert_complete(sweep: Sweep, repositories: int = 2, pull_requests: int = 6) -> None:
    """Every pull request ended as the script says."""
    sweep.check()
    found = sweep.repositories()
    assert len(found) == repositories
    for one in found:
        failed = [pr.issue_number for pr in one.of_sweep("s") if str(pr.state) == "failed"]
        succeeded = [pr.issue_number for pr in one.of_sweep("s") if str(pr.state) == "succeeded"]
        assert failed == ([3] if one.repository == "o/r0" else [])
        assert len(failed) + len(succeeded) == pull_requests


def test_a_sweep_runs_to_its_end_and_again_does_nothing(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, seconds=0.05)
    sweep.start()
    assert sweep.finish() == 0
    assert_complete(sweep)
    began = sweep.began()
    sweep.start()
    assert sweep.finish() == 0
    assert sweep.began() == began, "a finished sweep costs nothing"


def test_the_death_of_every_kind_of_actor_in_one_sweep_is_survived(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, repositories=3, pull_requests=8)
    sweep.start()
    for number, title in enumerate(ACTORS):
        wait_for("work goes on", lambda least=2 + 3 * number: sweep.ended() >= least)  # type: ignore[misc]
        sweep.kill(f"ray::{title}")
    assert sweep.finish() == 0
    assert_complete(sweep, repositories=3, pull_requests=8)
    events = [one for _, one in sweep.events()]
    assert sum(isinstance(one, RepositoryClaimed) for one in events) > 3, "a killed actor's successor claims its stream"
    assert sum(isinstance(one, GovernorClaimed) for one in events) == 2
    assert sum(isinstance(one, SweepRunStarted) for one in events) == 2


def test_everything_killed_twice_resumes_and_repeats_nothing_that_was_finished(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    for enough in (3, 7):
        sweep.start()
        wait_for("work is under way", lambda least=enough: sweep.began() >= least)  # type: ignore[misc]
        sweep.kill_everything()
    sweep.start()
    assert sweep.finish() == 0
    assert_complete(sweep)
    interrupted = [one for _, one in sweep.events() if isinstance(one, AttemptInterrupted)]
    assert interrupted, "what was under way is marked"
    assert {one.reason for one in interrupted} == {"its processes ended with an earlier run"}


def test_ctrl_c_cancels_what_does_not_end_in_time_and_the_sweep_resumes(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, repositories=1, seconds=60.0)
    sweep.start()
    wait_for("work has begun", lambda: sweep.began() >= 1)
    sweep.interrupt()
    wait_for(
        "the driver has ended", lambda: sweep.process is not None and sweep.process.poll() is not None, deadline_s=15
    )
    assert sweep.finish() == 130
    sweep.check()
    events = [one for _, one in sweep.events()]
    assert any(isinstance(one, AttemptInterrupted) for one in events)
    assert [one.how for one in events if isinstance(one, SweepRunEnded)] == ["interrupted"]
    again = sweep_of(tmp_path, repositories=1, seconds=0.05)
    again.start()
    assert again.finish() == 0
    assert_complete(again, repositories=1)


def test_a_second_ctrl_c_stops_at_once_and_the_sweep_resumes(tmp_path: Path) -> None:
    settings = SweepSettings(workers=2, drain_s=60.0)
    sweep = Sweep(tmp_path, pull_requests=rows(1, 3), script=Script(seconds=60.0), sweep=settings)
    sweep.start()
    wait_for("work has begun", lambda: sweep.began() >= 1)
    sweep.interrupt()
    wait_for("the driver drains", lambda: (tmp_path / "phase").read_text() == "stopping")
    sweep.interrupt()
    assert sweep.finish() == 130
    again = Sweep(tmp_path, pull_requests=rows(1, 3), script=Script(seconds=0.05), sweep=settings)
    again.start()
    assert again.finish() == 0
    again.check()


def test_infra_failures_are_waited_out_and_count_against_nobody(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, repositories=1, seconds=0.05, infra_until=2e10)
    sweep.start()
    wait_for("the scripted engine was missed", lambda: sweep.ended() >= 2)
    scripted(tmp_path, Script(seconds=0.05, refuse=["o/r0#3"]))
    assert sweep.finish() == 0
    assert_complete(sweep, repositories=1)
    failures = [one for _, one in sweep.events() if isinstance(one, AttemptFailed)]
    assert any(one.retry_at is not None for one in failures), "the scripted engine was away for a while"


def test_an_engine_that_stays_away_ends_the_run_resumable(tmp_path: Path) -> None:
    settings = SweepSettings(workers=2, infra_patience_s=3.0)
    sweep = Sweep(tmp_path, pull_requests=rows(1, 2), script=Script(seconds=0.01, infra_until=2e10), sweep=settings)
    sweep.start()
    assert sweep.finish() == 3
    ends = [one for _, one in sweep.events() if isinstance(one, SweepRunEnded)]
    assert [(one.how, "the scripted engine is away" in one.reason) for one in ends] == [("environment", True)]
