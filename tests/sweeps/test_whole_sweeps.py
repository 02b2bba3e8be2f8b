"""Whole sweeps by the command line, on the real engine: killed, interrupted, side by side, failing honestly."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from actors.images import Engine
from events.types import AttemptFailed, AttemptInterrupted, AttemptStarted, AttemptSucceeded
from events.work import FailureClass
from tests.actors.harness import check_events, descendants, fold_repositories, wait_for
from tests.engine_fixtures import GitProject
from tests.sweeps.bench import BROKEN_C, SweepBench, little
from tests.sweeps.own_engine import OwnEngine

pytestmark = [pytest.mark.engine, pytest.mark.ray, pytest.mark.slow]


def kill_everything(bench: SweepBench) -> None:
    """SIGKILL to the command and to every process below it."""
    assert bench.process is not None
    pids = [bench.process.pid, *(pid for pid, _ in descendants(bench.process.pid))]
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    bench.process.communicate()


def final_states(bench: SweepBench) -> dict[int, str]:
    events = bench.events()
    check_events(events)
    (repository,) = fold_repositories(events)
    return {pr.issue_number: str(pr.state) for pr in repository.of_sweep(bench.name)}


def test_a_sweep_killed_twice_resumes_without_repeating_anything(
    tmp_path: Path, bench_cache: Path, engine: Engine
) -> None:
    bench = SweepBench(tmp_path, cache_dir=bench_cache)
    project = GitProject(tmp_path / "little")
    bench.write([bench.row(project, n, project.commit(little(n, test_s=4.0))) for n in range(1, 6)])
    bench.start()
    bench.wait_for_events(AttemptStarted, 2)
    kill_everything(bench)
    bench.start("resume")
    bench.wait_for_events(AttemptSucceeded, 2)
    wait_for("a test container runs", lambda: bool(bench.containers(engine, tests_only=True)))
    kill_everything(bench)
    succeeded_before = bench.count(AttemptSucceeded)
    bench.start("resume")
    code, output = bench.finish()
    assert code == 0, output
    assert set(final_states(bench).values()) == {"succeeded"}
    assert bench.containers(engine) == []
    events = [one for _, one in bench.events()]
    assert any(isinstance(one, AttemptInterrupted) for one in events)
    assert succeeded_before >= 2
    built = [one.outcome for one in events if isinstance(one, AttemptSucceeded)]
    assert len({one.image for one in built}) == 5
    started = sum(isinstance(one, AttemptStarted) for one in events)
    bench.start("sweep")
    code, output = bench.finish()
    assert code == 0, output
    assert bench.count(AttemptStarted) == started, "the finished sweep, started again, does nothing"


def test_ctrl_c_leaves_no_container_and_prints_how_to_resume(tmp_path: Path, bench_cache: Path, engine: Engine) -> None:
    bench = SweepBench(tmp_path, cache_dir=bench_cache)
    bench.environment["HEADRACE_SWEEP_DRAIN_S"] = "1"
    project = GitProject(tmp_path / "little")
    bench.write([bench.row(project, n, project.commit(little(n, test_s=120.0))) for n in (1, 2)])
    bench.start()
    bench.wait_for_events(AttemptStarted, 1)
    wait_for("a test container runs", lambda: bool(bench.containers(engine, tests_only=True)))
    assert bench.process is not None
    bench.process.send_signal(signal.SIGINT)
    code, output = bench.finish(timeout_s=15)
    assert code == 130, output
    assert f"headrace resume s --store {bench.store}" in output
    assert bench.containers(engine) == []
    check_events(bench.events())
    interrupted = [one for _, one in bench.events() if isinstance(one, AttemptInterrupted)]
    assert interrupted
    assert "build_log" in interrupted[0].blobs, "what it had logged is kept"


def test_a_build_error_is_told_in_the_compilers_words(tmp_path: Path, bench_cache: Path) -> None:
    bench = SweepBench(tmp_path, cache_dir=bench_cache)
    project = GitProject(tmp_path / "little")
    good = project.commit(little(1))
    broken = project.commit({"setup.py": BROKEN_C, "fast.c": "int main(void) { return undeclared_name; }\n"})
    wrong = project.commit({**little(3, answer=41), "setup.py": "from setuptools import setup\nsetup()\n"})
    bench.write([bench.row(project, n, one) for n, one in ((1, good), (2, broken), (3, wrong))])
    bench.start()
    code, output = bench.finish()
    assert code == 1, output
    assert final_states(bench) == {1: "succeeded", 2: "failed", 3: "failed"}
    assert "undeclared_name" in output
    _, status, _ = bench.run("status", "s", "--store", bench.store, "--json")
    failed = {one["pull_request"].rpartition("#")[2]: one for one in json.loads(status)["failed"]}
    assert "error: ‘undeclared_name’ undeclared" in failed["2"]["message"]
    assert "undeclared_name" in failed["2"]["log_tail"]
    assert "1 of 1 test" in failed["3"]["message"]
    _, listed, _ = bench.run("events", "--store", bench.store, "--type", "AttemptFailed")
    assert "undeclared_name" in listed
    assert "non-zero code" not in failed["2"]["message"]
    failures = [one for _, one in bench.events() if isinstance(one, AttemptFailed)]
    assert all(one.outcome.blobs.get("build_log") for one in failures)


def test_two_sweeps_at_once_share_tiers_and_leave_each_other_alone(
    tmp_path: Path, bench_cache: Path, engine: Engine
) -> None:
    project = GitProject(tmp_path / "little")
    commits = [project.commit(little(n, test_s=3.0)) for n in range(1, 4)]
    benches: list[SweepBench] = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        owner = benches[0].owner if benches else ""
        bench = SweepBench(folder, cache_dir=bench_cache, owner=owner)
        bench.write([bench.row(project, n, one) for n, one in enumerate(commits, 1)])
        benches.append(bench)
    benches[0].start()
    benches[0].wait_for_events(AttemptStarted, 1)
    benches[1].start()
    for bench in benches:
        code, output = bench.finish()
        assert code == 0, output
        assert set(final_states(bench).values()) == {"succeeded"}
        assert not bench.count(AttemptInterrupted)
        assert not bench.count(AttemptFailed)
        assert bench.containers(engine) == []
    label = {"headrace.repository": f"{benches[0].owner}/little", "headrace.tier": "repository"}
    images = engine.api.images(filters={"label": [f"{key}={value}" for key, value in label.items()]})
    assert len(images) == 1, "one repository image serves both"


def test_a_daemon_that_stops_in_mid_sweep_is_waited_for(tmp_path: Path, bench_cache: Path) -> None:
    bench = SweepBench(tmp_path, cache_dir=bench_cache)
    project = GitProject(tmp_path / "little")
    bench.write([bench.row(project, n, project.commit(little(n, test_s=3.0))) for n in range(1, 5)])
    with OwnEngine() as own:
        bench.environment |= {"DOCKER_HOST": own.host, "HEADRACE_BUILD_NETWORK": "host"}
        bench.start()
        bench.wait_for_events(AttemptSucceeded, 1)
        own.stop()
        bench.wait_for_events(AttemptFailed, 3)
        own.start()
        code, output = bench.finish()
        assert code == 0, output
    assert set(final_states(bench).values()) == {"succeeded"}
    failures = [one for _, one in bench.events() if isinstance(one, AttemptFailed)]
    assert {one.outcome.failure_class for one in failures} == {FailureClass.INFRA}
    assert "waits after infra failure" in output
    (repository,) = fold_repositories(bench.events())
    assert all(not pr.tried for pr in repository.prs.values()), "no context was refuted"


def test_without_an_engine_nothing_starts_and_doctor_says_what_to_do(tmp_path: Path, bench_cache: Path) -> None:
    bench = SweepBench(tmp_path, cache_dir=bench_cache)
    bench.environment["DOCKER_HOST"] = f"unix://{tmp_path}/nobody.sock"
    project = GitProject(tmp_path / "little")
    bench.write([bench.row(project, 1, project.commit(little(1)))])
    code, _, error = bench.run("sweep", str(bench.timeline), "--store", bench.store)
    assert code == 3
    assert len(error.strip().splitlines()) == 1
    assert "nobody.sock" in error
    assert "headrace doctor" in error
    assert not (tmp_path / "log.db").exists()
    code, shown, _ = bench.run("doctor", "--store", bench.store, "--json")
    assert code == 3
    assert any(one["status"] == "fail" and one["mend"] for one in json.loads(shown)["checks"])
