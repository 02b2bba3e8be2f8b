"""``headrace simulate``: the summary, the log it leaves, its determinism, and how it refuses bad worlds."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from actors.simulation.engine import Simulation, Summary
from actors.simulation.world import Agent, Limit, World
from actors.simulation.worlds import make_world
from events import governor
from events.codec import decode
from events.types import AttemptStarted
from events.work import Stage
from scripts.cli import main
from scripts.reading import read_repository, read_sweep
from scripts.simulate import knobs_from
from store.memory import MemoryLog
from store.opening import open_store


def simulated(world: World, *, policy: str = "cascade") -> tuple[Summary, MemoryLog]:
    log = MemoryLog(log_id="simulation")
    knobs = knobs_from(None, generate=bool(world.agents))
    return Simulation(world, log, policy=policy, knobs=knobs).run(), log


@pytest.fixture
def world_file(tmp_path: Path) -> Path:
    path = tmp_path / "world.json"
    path.write_bytes(msgspec.json.encode(make_world(repositories=2, prs=20, epochs=(2, 4), workers=4)))
    return path


@pytest.mark.parametrize("policy", ["cascade", "windowed"])
def test_the_command_prints_a_summary_and_leaves_an_ordinary_log(
    world_file: Path, tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/out.db"
    code = main(["simulate", str(world_file), "--store", url, "--policy", policy])
    summary = json.loads(capsys.readouterr().out)
    assert code == (1 if summary["failed"] else 0)
    assert (summary["prs"], summary["succeeded"] + summary["failed"]) == (40, 40)
    with open_store(url, write=False) as store:
        assert sum(1 for _ in store.log.read_all()) == summary["events"]
        store.log.verify()
        sweep = read_sweep(store.log, "world")
        assert sweep.last_end is not None
        assert sweep.last_end.how == "finished"
        counts = [read_repository(store.log, f"simulated/r{n}").counts("world") for n in range(2)]
        assert sum(one.get("succeeded", 0) for one in counts) == summary["succeeded"]
        started = [
            decode(one.type, one.schema, one.data) for one in store.log.read_all() if one.type == "AttemptStarted"
        ]
        sessions = [one for one in started if isinstance(one, AttemptStarted) and one.stage is Stage.LLM_GENERATE]
        assert len(sessions) == summary["agent_sessions"]
        assert len(started) - len(sessions) == summary["verifications"]


def test_the_same_world_gives_the_same_log_event_for_event() -> None:
    world = make_world(repositories=3, prs=30, epochs=(2, 5), workers=5)
    logs = [[one.hash for one in simulated(world)[1].read_all()] for _ in range(2)]
    assert logs[0] == logs[1]


def test_recorded_times_are_virtual_and_never_go_back() -> None:
    summary, log = simulated(make_world(repositories=2, prs=20, epochs=(2, 3), workers=2))
    for stream in log.streams():
        times = [one.recorded_at for one in log.read_stream(stream.stream)]
        assert times == sorted(times)
    every = [one.recorded_at for one in log.read_all()]
    assert max(every) - min(every) == summary.makespan_s


@pytest.mark.parametrize("policy", ["cascade", "windowed"])
def test_leases_never_exceed_workers_or_agents_slots_and_all_come_back(policy: str) -> None:
    world = make_world(repositories=3, prs=30, epochs=(2, 5), workers=8, agents=2)
    _, log = simulated(world, policy=policy)
    events = [decode(one.type, one.schema, one.data) for one in log.read_stream("governor")]
    state = governor.fold(events)  # type: ignore[arg-type]
    assert state.leases == {}
    assert {one.slots for one in state.accounts.values()} == {8, 2}


def test_an_accounts_limit_delays_sessions_and_loses_nothing() -> None:
    world = make_world(repositories=1, prs=30, epochs=(4, 4), workers=4, success=1.0)
    limited = Agent(name="claude", slots=4, success=1.0, limit=Limit(sessions=1, per_seconds=36_000))
    free, _ = simulated(world)
    summary, _ = simulated(msgspec.structs.replace(world, agents=[limited]))
    assert (free.succeeded, summary.succeeded) == (30, 30)
    assert summary.makespan_s >= (summary.agent_sessions - 1) * 36_000 > free.makespan_s


def test_without_agents_nothing_is_generated_and_every_pull_request_ends() -> None:
    world = msgspec.structs.replace(make_world(repositories=1, prs=5, epochs=(1, 1)), agents=[])
    summary, _ = simulated(world)
    assert (summary.agent_sessions, summary.failed) == (0, 5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda w: w.pop("workers"), "workers"),
        (lambda w: w.update(workers=0), "$.workers"),
        (lambda w: w.update(color="red"), "color"),
        (lambda w: w["agents"][0].update(success=1.5), "$.agents[0].success"),
        (lambda w: w["repositories"][0]["prs"][3].update(created_at="yesterday"), "repositories[0].prs[3].created_at"),
        (lambda w: w["repositories"][0]["prs"][3].update(created_at="2020-01-01"), "no time zone"),
        (lambda w: w["repositories"][1]["prs"][2].update(issue_number=1), "repositories[1].prs[2].issue_number"),
        (lambda w: w["repositories"][1].update(repo="r0"), "repositories[1]"),
    ],
)
def test_a_bad_world_is_refused_naming_file_and_field(
    world_file: Path, change: object, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world = json.loads(world_file.read_text())
    change(world)  # type: ignore[operator]
    world_file.write_text(json.dumps(world))
    assert main(["simulate", str(world_file), "--store", "memory:"]) == 2
    error = capsys.readouterr().err
    assert str(world_file) in error
    assert named in error


def test_a_file_that_is_missing_or_no_json_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(tmp_path / "none.json")]) == 2
    assert "none.json" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text("{")
    assert main(["simulate", str(tmp_path / "bad.json")]) == 2
    assert "bad.json" in capsys.readouterr().err


def test_a_log_that_holds_events_is_left_alone(
    world_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/out.db"
    main(["simulate", str(world_file), "--store", url])
    assert main(["simulate", str(world_file), "--store", url]) == 2
    assert "name a new file" in capsys.readouterr().err
