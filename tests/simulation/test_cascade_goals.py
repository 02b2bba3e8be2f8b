"""The cascade's goals on a reduced grid: sessions, verifications and makespan against theory and the plain pool."""

from __future__ import annotations

import pytest

from actors.simulation.engine import Simulation
from actors.simulation.measure import KNOBS, Measured, mean, measure
from actors.simulation.worlds import make_world
from store.memory import MemoryLog


def measured(
    *, repositories: int, workers: int, success: float, policy: str = "cascade", alone: float = 0.0, also: float = 0.0
) -> Measured:
    """The mean over enough seeded worlds that luck does not decide."""
    seeds = range(1, 2 + 24 // repositories)
    return mean(
        measure(
            make_world(repositories=repositories, workers=workers, success=success, alone=alone, also=also, seed=seed),
            policy=policy,
        )
        for seed in seeds
    )


@pytest.mark.parametrize("workers", [8, 32])
def test_many_repositories_cost_hardly_more_than_the_bound_and_end_before_the_plain_pool(workers: int) -> None:
    ours = measured(repositories=20, workers=workers, success=0.8)
    plain = measured(repositories=20, workers=workers, success=0.8, policy="windowed")
    assert ours.sessions <= 1.05
    assert ours.verifications <= 1.15
    assert ours.makespan_min <= plain.makespan_min
    assert ours.of_ideal <= 1.25
    assert ours.unfinished == 0


@pytest.mark.parametrize("success", [0.6, 0.8])
def test_with_more_workers_than_work_the_plain_pool_is_still_not_faster(success: float) -> None:
    ours = measured(repositories=20, workers=128, success=success)
    plain = measured(repositories=20, workers=128, success=success, policy="windowed")
    assert ours.sessions <= 1.05
    assert plain.sessions >= 1.5
    assert ours.makespan_min <= plain.makespan_min


@pytest.mark.parametrize(("workers", "success"), [(1, 0.6), (8, 0.8), (32, 1.0), (128, 0.8)])
def test_one_repository_stays_at_the_bound_however_many_workers_there_are(workers: int, success: float) -> None:
    ours = measured(repositories=1, workers=workers, success=success)
    assert ours.sessions <= 1.05
    assert ours.verifications <= 1.30
    assert ours.unfinished == 0


@pytest.mark.parametrize("workers", [1, 8])
def test_one_repository_ends_before_the_plain_pool_while_its_work_fills_the_workers(workers: int) -> None:
    ours = measured(repositories=1, workers=workers, success=0.8)
    assert ours.makespan_min <= measured(repositories=1, workers=workers, success=0.8, policy="windowed").makespan_min


@pytest.mark.parametrize("success", [0.3, 1.0])
def test_worlds_that_are_not_monotone_lose_no_pull_request_and_stay_near_the_bound(success: float) -> None:
    ours = measured(repositories=4, workers=8, success=success, alone=0.05, also=0.05)
    assert ours.sessions <= 1.5
    assert ours.unfinished == 0


def test_what_no_seed_can_reach_stays_unreached_and_all_else_is_reached() -> None:
    world = make_world(repositories=6, prs=100, epochs=(2, 4), workers=8, success=1.0, seeds=1)
    summary = Simulation(world, MemoryLog(log_id="seeds"), knobs=KNOBS).run()
    assert (summary.succeeded, summary.failed, summary.unreached) == (600, 0, 0)
    sparse = make_world(repositories=2, prs=10, epochs=(1, 1), workers=2, success=1.0, days=10_000.0, seeds=1)
    summary = Simulation(sparse, MemoryLog(log_id="sparse"), knobs=KNOBS).run()
    assert summary.unreached > 0
    assert summary.succeeded + summary.unreached == 20
