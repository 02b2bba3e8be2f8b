"""The command ``headrace`` on the real engine with its store in a project: killed, resumed, PostgreSQL restarted."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from events.types import AttemptStarted, AttemptSucceeded
from tests.actors.harness import check_events, descendants, fold_repositories
from tests.engine_fixtures import GitProject
from tests.supabase.project import Project
from tests.sweeps.bench import SweepBench, little

pytestmark = [pytest.mark.engine, pytest.mark.ray, pytest.mark.slow]


def test_a_sweep_by_the_command_is_killed_resumed_and_outlives_a_restart_of_its_database(
    tmp_path: Path, bench_cache: Path, project: Project
) -> None:
    with project.in_environment():
        bench = SweepBench(tmp_path, cache_dir=bench_cache)
        bench.store = "supabase"
        repository = GitProject(tmp_path / "little")
        bench.write([bench.row(repository, n, repository.commit(little(n, test_s=3.0))) for n in range(1, 5)])
        bench.start()
        bench.wait_for_events(AttemptStarted, 1)
        kill(bench)
        bench.start("resume")
        bench.wait_for_events(AttemptSucceeded, 1)
        project.postgres.stop(how="immediate")
        project.postgres.start()
        code, output = bench.finish()
        assert code == 0, output
        assert project.key not in output
        events = bench.events()
        check_events(events)
        (state,) = fold_repositories(events)
        assert {str(pr.state) for pr in state.of_sweep(bench.name)} == {"succeeded"}
        for command in (
            ["replay", "--check", "--store", "supabase"],
            ["store", "rebuild", "--check", "--store", "supabase"],
            ["events", "--store", "supabase", "--json"],
            ["store", "copy", "supabase", f"sqlite:///{tmp_path}/copy.db"],
            ["status", bench.name, "--store", f"sqlite:///{tmp_path}/copy.db", "--json"],
        ):
            code, output, errors = bench.run(*command)
            assert (code, project.key in output + errors) == (0, False), output + errors
        _, status, _ = bench.run("status", bench.name, "--store", "supabase", "--json")
        assert json.loads(status) == {**json.loads(output), "store": "supabase"}


def kill(bench: SweepBench) -> None:
    """SIGKILL to the command and to every process below it."""
    assert bench.process is not None
    for pid in (bench.process.pid, *(pid for pid, _ in descendants(bench.process.pid))):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    bench.process.communicate()
