"""Real processes killed at every named fault point: the log satisfies what every log does, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors import faults
from actors.agent_settings import AgentAccount, AgentSettings
from tests.actors.harness import Sweep, rows
from tests.scripted import Script

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SWEEPS: tuple[dict[str, int], ...] = (
    {"stream.before_append": 3, "stream.after_append": 5, "writer.before_commit": 6, "writer.after_commit": 9},
    {
        "runner.before_work": 1,
        "runner.before_report": 2,
        "runner.after_report": 2,
        "repository.claimed": 1,
        "repository.before_interrupt": 1,
    },
    {
        "repository.leased": 1,
        "repository.before_acting": 2,
        "repository.before_release": 1,
        "repository.after_release": 2,
        "governor.claimed": 1,
        "governor.before_turn": 4,
        "governor.granted": 2,
    },
    {"supervisor.run_started": 1, "supervisor.activated": 2, "gather.prepared": 1, "supervisor.retired": 1},
    {
        "repository.leased_agent": 1,
        "repository.before_telling": 1,
        "governor.before_counting": 1,
        "governor.counted": 1,
    },
)
"""The points that are reached together in one sweep, and the occurrence, in one process, at which it dies."""


def test_every_fault_point_has_its_sweep() -> None:
    assert sorted(point for one in SWEEPS for point in one) == sorted(faults.POINTS)


@pytest.mark.parametrize("points", SWEEPS, ids="+".join)
def test_a_sweep_whose_processes_die_at_fault_points_ends_as_one_without(
    points: dict[str, int], tmp_path: Path
) -> None:
    script = Script(seconds=0.2, refuse=["o/r0#3"])
    agents = AgentSettings()
    if "governor.counted" in points:
        script.hard = [f"o/r{repository}#{number}" for repository in range(2) for number in range(1, 7)]
        agents = AgentSettings(account=[AgentAccount(name="claude", agent="claude", slots=2)])
    sweep = Sweep(tmp_path, pull_requests=rows(2, 6), script=script, agents=agents)
    sweep.start(die_at=",".join(f"{point}:{occurrence}" for point, occurrence in points.items()))
    assert sweep.finish() == 0
    assert sorted(path.name for path in sweep.fired.iterdir()) == sorted(points), "every process died where it should"
    sweep.check()
    assert {one.repository: one.counts("s") for one in sweep.repositories()} == {
        "o/r0": {"succeeded": 5, "failed": 1},
        "o/r1": {"succeeded": 6},
    }
