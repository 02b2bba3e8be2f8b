"""The example programs run as their readers would run them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine_fixtures import GitProject
from tests.sweeps.bench import SweepBench, little

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "scripts" / "examples"


def run(name: str, *arguments: str, folder: Path, environment: dict[str, str] | None = None) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", f"scripts.examples.{name}", *arguments],
        cwd=folder,
        env={**(environment or os.environ), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_three_pull_requests_with_a_scripted_verifier(tmp_path: Path) -> None:
    assert run("three_scripted", folder=tmp_path) == [
        "o/r#1 verified check_cache find_similar try_default",
        "o/r#2 verified check_cache find_similar try_similar",
        "o/r#3 failed check_cache find_similar try_similar fail",
    ]


def test_the_scripted_example_is_as_short_as_it_says() -> None:
    lines = (EXAMPLES / "three_scripted.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 15


@pytest.mark.engine
@pytest.mark.slow
def test_three_pull_requests_on_the_engine(tmp_path: Path, bench_cache: Path) -> None:
    bench = SweepBench(tmp_path, cache_dir=bench_cache)
    project = GitProject(tmp_path / "little")
    commits = [project.commit(little(1)), project.commit(little(2)), project.commit(little(3, answer=41))]
    bench.write([bench.row(project, number, commit) for number, commit in enumerate(commits, 1)])
    shown = run("three_on_the_engine", str(bench.timeline), folder=tmp_path, environment=bench.environment)
    name = f"{bench.owner}/little"
    assert shown == [
        f"{name}#1 verified check_cache find_similar try_default",
        f"{name}#2 verified check_cache find_similar try_similar",
        f"{name}#3 failed check_cache find_similar try_similar fail",
    ]
    bench.store = f"sqlite:///{tmp_path}/headrace.db"
    assert [one for one in bench.events() if one[0].startswith("repository:")]
