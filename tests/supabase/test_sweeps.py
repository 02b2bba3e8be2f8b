"""Whole sweeps on real Ray with the store in a project: killed, cut off, and with PostgreSQL dying under them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from events.types import AttemptInterrupted, GovernorClaimed, RepositoryClaimed
from store.opening import open_store
from store.proving import folded_rows, stored_rows
from store.replay import check
from tests.actors.harness import ACTORS, Sweep, rows, wait_for
from tests.scripted import Script
from tests.supabase.project import Project

pytestmark = [pytest.mark.ray, pytest.mark.slow]

REPOSITORIES = 3
PULL_REQUESTS = 6


@pytest.fixture
def named(project: Project) -> Iterator[Project]:
    """The project, which this process and those below it find in their environment."""
    with project.in_environment():
        yield project


def sweep_of(folder: Path, **script: object) -> Sweep:
    given = Script(**{"seconds": 0.4, "refuse": ["o/r0#3"], **script})  # type: ignore[arg-type]
    sweep = Sweep(folder, pull_requests=rows(REPOSITORIES, PULL_REQUESTS), script=given)
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
