"""Progress in plain lines: what a line says, and that nothing stays silent for long."""

from __future__ import annotations

import time
from io import StringIO

import pytest
from rich.console import Console

from actors.gateway import ClusterInfo
from actors.repository import RepositorySnapshot, RunningAttempt
from actors.supervisor import SweepProgress
from scripts import display
from scripts.display import ProgressDisplay, state_table

CLUSTER = ClusterInfo(node_id="n", runner_slots=2, dashboard_url="", started_here=True)


def progress(*, phase: str = "running", infra_until: float = 0.0) -> SweepProgress:
    snapshot = RepositorySnapshot(
        repository="o/r",
        counts={"succeeded": 2, "try_similar": 1, "queued": 3},
        running=[RunningAttempt(issue_number=7, stage="try_similar", runner="runner:x:0", since=time.time() - 90)],
        drained=False,
        attempts_ended=2,
        infra_streak=1 if infra_until else 0,
        infra_until=infra_until,
        infra_message="the engine is away",
    )
    return SweepProgress(phase=phase, repositories={"o/r": snapshot.counts}, pending=0, active=[snapshot])


def test_a_line_tells_states_running_attempts_and_for_how_long(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressDisplay("s").show(progress(), CLUSTER)
    assert capsys.readouterr().err == (
        "sweep s: running: 3 queued, 1 try similar, 2 succeeded; running o/r#7 try_similar (90 s)\n"
    )


def test_the_same_line_is_not_repeated_at_once_but_the_end_always_is(capsys: pytest.CaptureFixture[str]) -> None:
    shown = ProgressDisplay("s")
    for phase in ("running", "running", "finished"):
        shown.show(progress(phase=phase), CLUSTER)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["running", "finished"]


def test_waiting_after_an_infra_failure_is_told_while_it_lasts(capsys: pytest.CaptureFixture[str]) -> None:
    ProgressDisplay("s").show(progress(infra_until=time.time() + 60), CLUSTER)
    assert "o/r: waits after infra failure 1 (the engine is away)" in capsys.readouterr().err
    ProgressDisplay("s").show(progress(infra_until=time.time() - 60), CLUSTER)
    assert "infra" not in capsys.readouterr().err


def test_the_table_has_a_column_a_state_in_use_and_a_row_of_totals() -> None:
    table = state_table({"o/a": {"succeeded": 1}, "o/b": {"failed": 2, "succeeded": 3}}, title="t")
    console = Console(width=80, record=True, file=StringIO())
    console.print(table)
    text = console.export_text()
    assert "queued" not in text
    (totals,) = [line for line in text.splitlines() if " all " in line]
    assert [word for word in totals.split() if word.isdigit()] == ["4", "2"]


def test_many_repositories_are_cut_with_their_number() -> None:
    repositories = {f"o/r{number:03d}": {"queued": 1} for number in range(display.SHOWN_REPOSITORIES + 5)}
    console = Console(width=80, record=True, file=StringIO())
    console.print(state_table(repositories, title="t"))
    assert "5 more" in console.export_text()
