"""Fault points: each is at one place, does nothing by itself, and ends one process when asked to."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from actors import faults
from events.errors import SettingError

ROOT = Path(__file__).resolve().parents[2]


def names() -> list[str]:
    return [name for name, value in vars(faults).items() if isinstance(value, str) and value in faults.POINTS]


@pytest.mark.parametrize("name", names())
def test_every_point_is_hit_at_exactly_one_place(name: str) -> None:
    sources = [path.read_text() for path in (ROOT / "actors").rglob("*.py")]
    assert sum(text.count(f"faults.hit(faults.{name})") for text in sources) == 1


def test_a_point_does_nothing_without_a_plan_and_reports_to_an_installed_one() -> None:
    seen: list[str] = []
    faults.hit(faults.GOVERNOR_CLAIMED)
    with faults.installed(seen.append):
        faults.hit(faults.GOVERNOR_CLAIMED)
    faults.hit(faults.GOVERNOR_CLAIMED)
    assert seen == [faults.GOVERNOR_CLAIMED]


@pytest.mark.parametrize("text", ["nowhere:1", "governor.claimed", "governor.claimed:0", "governor.claimed:x"])
def test_a_plan_that_names_no_point_or_occurrence_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="HEADRACE_FAULT"):
        faults.plan_of({"HEADRACE_FAULT": text, "HEADRACE_FAULT_FIRED": str(tmp_path)})
    with pytest.raises(SettingError, match="HEADRACE_FAULT_FIRED"):
        faults.plan_of({"HEADRACE_FAULT": "governor.claimed:1"})


def test_the_process_is_killed_at_the_wanted_occurrence_and_only_once(tmp_path: Path) -> None:
    code = (
        "from actors import faults\n"
        "for number in range(1, 4):\n"
        "    print(number, flush=True)\n"
        "    faults.hit(faults.RUNNER_BEFORE_WORK)\n"
    )
    environ = {"HEADRACE_FAULT": "runner.before_work:2", "HEADRACE_FAULT_FIRED": str(tmp_path), "PYTHONPATH": str(ROOT)}
    ended = [
        subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
        for _ in range(2)
    ]
    assert [(one.returncode, one.stdout.split()) for one in ended] == [
        (-signal.SIGKILL, ["1", "2"]),
        (0, ["1", "2", "3"]),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["runner.before_work"]
