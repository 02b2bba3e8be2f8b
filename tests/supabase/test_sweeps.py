"""Whole sweeps on real Ray with the store in a project: killed, cut off, and with PostgreSQL dying under them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.settings import SweepSettings
from events.types import AttemptInterrupted, GovernorClaimed, RepositoryClaimed
from events.work import Stage
from store.opening import open_store
from store.proving import folded_rows, stored_rows
from store.replay import check
from tests.actors.harness import ACTORS, Sweep, rows, wait_for
from tests.scripted import Script, journal
from tests.supabase.project import Project
from tests.supabase.two_nodes import LOOPBACK, two_nodes

pytestmark = [pytest.mark.ray, pytest.mark.slow]

REPOSITORIES = 3
PULL_REQUESTS = 6


@pytest.fixture
def named(project: Project) -> Iterator[Project]:
    """The project, which this process and those below it find in their environment."""
    with project.in_environment():
        yield project


def sweep_of(folder: Path, *, workers: int = 2, **script: object) -> Sweep:
    given = Script(**{"seconds": 0.4, "refuse": ["o/r0#3"], **script})  # type: ignore[arg-type]
    settings = SweepSettings(workers=workers, drain_s=0.5)
    sweep = Sweep(folder, pull_requests=rows(REPOSITORIES, PULL_REQUESTS), script=given, sweep=settings)
    sweep.store = "supabase"
    return sweep


def assert_complete(sweep: Sweep) -> None:
    """Every pull request ended as the script says, nothing was done twice, and the store is whole."""
    sweep.check()
    found = sweep.repositories()
    assert len(found) == REPOSITORIES
    for one in found:
        states = {pr.issue_number: str(pr.state) for pr in one.of_sweep("s")}
        failed = [3] if one.repository == "o/r0" else []
        assert states == {n: "failed" if n in failed else "succeeded" for n in range(1, PULL_REQUESTS + 1)}
    with open_store("supabase", write=False) as store:
        check(store.log)
        assert stored_rows(store) == folded_rows(store)
        assert len(store.models.contexts_of("o", "r1")) == PULL_REQUESTS


def test_a_sweep_killed_twice_resumes_and_repeats_nothing_that_was_finished(tmp_path: Path, named: Project) -> None:
    sweep = sweep_of(tmp_path)
    for enough in (3, 9):
        sweep.start()
        wait_for("work is under way", lambda least=enough: sweep.began() >= least)  # type: ignore[misc]
        sweep.kill_everything()
    sweep.start()
    assert sweep.finish() == 0
    assert_complete(sweep)
    interrupted = [one for _, one in sweep.events() if isinstance(one, AttemptInterrupted)]
    assert {one.reason for one in interrupted} == {"its processes ended with an earlier run"}
    began = sweep.began()
    sweep.start()
    assert sweep.finish() == 0
    assert sweep.began() == began, "a finished sweep costs nothing"


def test_a_sweep_outlives_postgresql_that_dies_again_and_again_and_answers_that_are_lost(
    tmp_path: Path, named: Project
) -> None:
    sweep = sweep_of(tmp_path, seconds=0.6)
    named.faults(cut_every=7, row_cap=100, statement_timeout_ms=2000)
    sweep.start()
    for least in (2, 6, 10):
        wait_for("work goes on", lambda least=least: sweep.ended() >= least)  # type: ignore[misc]
        named.postgres.stop(how="immediate")
        named.postgres.start()
        named.faults(cut_every=7, row_cap=100, statement_timeout_ms=2000, unavailable=5)
    assert sweep.finish() == 0
    named.faults()
    assert_complete(sweep)
    events = [one for _, one in sweep.events()]
    assert not any(isinstance(one, AttemptInterrupted) for one in events), "a store that is away only pauses a sweep"


def test_a_later_sweep_finds_what_an_earlier_one_verified(tmp_path: Path, named: Project) -> None:
    """Another sweep, from another folder: same jobs are had from the cache, new ones from contexts nearby."""
    (tmp_path / "first").mkdir()
    first = sweep_of(tmp_path / "first", seconds=0.05, refuse=[])
    first.start()
    assert first.finish() == 0
    (tmp_path / "second").mkdir()
    second = Sweep(tmp_path / "second", pull_requests=rows(1, PULL_REQUESTS + 2), script=Script(seconds=0.05))
    second.store = "supabase"
    second.start(environment={"HEADRACE_TEST_SWEEP": "t"})
    assert second.finish() == 0
    second.check()
    (repository,) = [one for one in second.repositories() if one.repository == "o/r0"]
    assert {str(pr.state) for pr in repository.of_sweep("t")} == {"succeeded"}
    with open_store("supabase", write=False) as store:
        later = store.models.attempts(sweep="t")
        assert {row.stage for row in later} <= {Stage.CHECK_CACHE, Stage.TRY_SIMILAR}
        assert {row.source for row in later if row.stage is Stage.TRY_SIMILAR}
        check(store.log)


def test_a_store_that_is_far_away_slows_a_sweep_and_no_more(tmp_path: Path, named: Project) -> None:
    named.faults(delay_ms=120)
    sweep = sweep_of(tmp_path, seconds=0.05)
    sweep.start()
    assert sweep.finish() == 0
    named.faults()
    assert_complete(sweep)


def test_runners_of_two_nodes_work_on_one_sweep_that_is_killed_and_resumed(tmp_path: Path, named: Project) -> None:
    sweep = sweep_of(tmp_path, workers=4, seconds=1.5)
    with two_nodes() as address:
        sweep.start(address=address, environment=LOOPBACK)
        wait_for("both nodes work", lambda: len(nodes_at_work(tmp_path)) == 2, deadline_s=90)
        sweep.kill_everything()
        sweep.start(address=address, environment=LOOPBACK)
        assert sweep.finish() == 0
    assert_complete(sweep)


def nodes_at_work(folder: Path) -> set[int]:
    """The raylets whose workers have begun an order and live."""
    found = set()
    for one in journal(folder):
        try:
            found.add(int(Path(f"/proc/{one.pid}/stat").read_text().rpartition(")")[2].split()[1]))
        except OSError:
            continue
    return found


def test_the_death_of_every_kind_of_actor_is_survived(tmp_path: Path, named: Project) -> None:
    sweep = sweep_of(tmp_path)
    sweep.start()
    for number, title in enumerate(ACTORS):
        wait_for("work goes on", lambda least=2 + 2 * number: sweep.ended() >= least)  # type: ignore[misc]
        sweep.kill(f"ray::{title}")
    assert sweep.finish() == 0
    assert_complete(sweep)
    events = [one for _, one in sweep.events()]
    assert sum(isinstance(one, RepositoryClaimed) for one in events) > REPOSITORIES
    assert sum(isinstance(one, GovernorClaimed) for one in events) == 2
