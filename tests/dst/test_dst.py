"""Simulated sweeps with faults; a seed that fails is replayed with ``python -m tests.dst --seed N``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dst.world import run_seed

ROOT = Path(__file__).resolve().parents[2]
BUDGET = 2_000
"""Seeds of the slow tier, about 0.2 s each on an idle core."""


@pytest.mark.parametrize("seed", range(20))
def test_a_sweep_with_faults_ends_as_one_without(seed: int) -> None:
    run_seed(seed)


@pytest.mark.parametrize("seed", [2, 3, 10])
def test_a_seed_replays_exactly_event_by_event(seed: int) -> None:
    first: list[str] = []
    assert run_seed(seed, show=first.append) == run_seed(seed)
    assert len(first) > 100


def test_a_seed_replays_exactly_in_another_process() -> None:
    code = "from tests.dst.world import run_seed; print(*(run_seed(seed).digest for seed in (2, 3)))"
    given = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "12345"}
    found = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True).stdout
    assert found.split() == [run_seed(seed).digest for seed in (2, 3)]


def test_different_seeds_are_different_runs_and_do_kill_actors() -> None:
    runs = [run_seed(seed) for seed in range(8)]
    assert len({one.digest for one in runs}) == len(runs)
    assert sum(one.deaths for one in runs) > 5
    assert any(one.restarts for one in runs)


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_a_budget_of_seeds_holds_every_invariant() -> None:
    seeds, jobs = f"1000:{1_000 + BUDGET}", str(os.cpu_count() or 1)
    command = [sys.executable, "-m", "tests.dst", "--seeds", seeds, "--jobs", jobs]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    summary = re.search(r"(\d+) seeds, (\d+) deaths", found.stdout)
    assert summary is not None
    seeds_run, deaths = map(int, summary.groups())
    assert seeds_run == BUDGET
    assert deaths > BUDGET, "the seeds do what they are for"
