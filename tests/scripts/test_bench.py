"""The benchmarks run and name their figures; how fast anything is, is not asked here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from scripts.bench import __main__ as bench
from scripts.bench import append, foreign, gather, machine, opening, replay
from scripts.bench.figures import Figure
from scripts.bench.options import Options
from scripts.bench.sampling import median, paired, percentiles, rounds


def _names(figures: list[Figure]) -> set[str]:
    return {one.name for one in figures}


def test_appends_are_measured_beside_bare_sqlite_one_by_one_and_in_batches(tmp_path: Path) -> None:
    found = append.measure(Options(folder=tmp_path, quick=True))
    goals = {one.name: one.goal for one in found}
    assert goals["one event: the log over bare SQLite, same table"] == 0.9
    assert goals["batches of 100: the log over bare SQLite, same table"] == 0.7
    assert all(one.value > 0 for one in found if one.unit)


def test_replay_is_measured_in_events_a_second(tmp_path: Path) -> None:
    found = replay.measure(Options(folder=tmp_path, quick=True))
    assert {"simulated, 50 PRs: the log", "detailed, 50 PRs: the log"} <= _names(found)
    assert {one.goal for one in found if one.name.endswith(": the log")} == {400_000.0}


def test_opening_is_measured_in_fresh_processes_with_and_without_snapshots(tmp_path: Path) -> None:
    found = {one.name: one for one in opening.measure(Options(folder=tmp_path, quick=True))}
    for log in ("many repositories", "one repository"):
        for how, goal in (("with", 3.0), ("without", 10.0)):
            assert found[f"{log}: {how} snapshots: time"].goal == goal
            assert 10 < found[f"{log}: {how} snapshots: peak memory"].value < 1024


def test_gathering_is_measured_for_each_strategy_against_its_goal(tmp_path: Path) -> None:
    found = gather.measure(Options(folder=tmp_path, quick=True))
    assert [(one.goal, one.at_least) for one in found] == [(5.0, False)] * 3
    assert {one.name.rpartition(", ")[2] for one in found} == {"merge", "summarize", "pass_through"}


@pytest.mark.parametrize("module", [append, replay])
def test_without_the_extra_the_comparison_is_missed_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object
) -> None:
    monkeypatch.setattr(foreign, "installed", lambda _: None)
    found: list[Figure] = module.measure(Options(folder=tmp_path, quick=True))  # type: ignore[attr-defined]
    (note,) = [one.note for one in found if one.name == "compared with eventsourcing"]
    assert "pip install -e '.[bench]'" in note
    assert not any("over eventsourcing" in one.name for one in found)


def test_the_command_prints_a_table_and_writes_what_it_measured_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = Figure(group="append", name="a figure", value=2.0, unit="x", goal=1.0)
    monkeypatch.setattr(bench, "MODULES", {"append": lambda _: [figure]})
    out = tmp_path / "figures.json"
    done = CliRunner().invoke(bench.main, ["--only", "append", "--json", str(out), "--folder", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "a figure" in done.output
    assert "synchronous=FULL" in done.output
    found = json.loads(out.read_bytes())
    assert found["figures"][0]["met"] is True
    assert {"cpu", "cores", "memory", "kernel", "python", "sqlite", "file system"} <= found["machine"].keys()


def test_a_missed_goal_is_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = Figure(group="append", name="a figure", value=0.5, unit="x", goal=1.0)
    monkeypatch.setattr(bench, "MODULES", {"append": lambda _: [figure]})
    assert CliRunner().invoke(bench.main, ["--folder", str(tmp_path)]).exit_code == 1


def test_a_group_that_fails_says_why_and_loses_no_other_groups_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Options) -> list[Figure]:
        raise RuntimeError("the cluster does not start")

    figure = Figure(group="append", name="a figure", value=2.0, unit="x")
    monkeypatch.setattr(bench, "MODULES", {"writer": fails, "append": lambda _: [figure]})
    out = tmp_path / "figures.json"
    done = CliRunner().invoke(bench.main, ["--json", str(out), "--folder", str(tmp_path)])
    assert done.exit_code == 1
    found = json.loads(out.read_bytes())["figures"]
    assert [(one["group"], one["name"]) for one in found] == [("writer", "not measured"), ("append", "a figure")]
    assert found[0]["note"] == "RuntimeError: the cluster does not start"


def test_an_unknown_group_is_refused_with_the_known_ones() -> None:
    done = CliRunner().invoke(bench.main, ["--only", "apend"])
    assert done.exit_code == 2
    assert "append, writer, supabase, replay, opening" in done.output


def test_every_round_measures_every_subject_and_the_first_warms_up() -> None:
    calls: list[str] = []

    def subject(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    found = rounds({"a": lambda: subject("a"), "b": lambda: subject("b")}, count=3, seed=1)
    assert [sorted(calls[start : start + 2]) for start in range(0, 8, 2)] == [["a", "b"]] * 4
    assert [len(values) for values in found.values()] == [3, 3]
    assert min(found["a"] + found["b"]) > 2


def test_ratios_are_of_one_round_and_percentiles_of_the_values() -> None:
    assert paired([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert percentiles([float(value) for value in range(101)], 10, 99) == {"p10": 10.0, "p99": 99.0}


def test_the_machine_is_described_and_a_missing_package_has_no_version(tmp_path: Path) -> None:
    assert machine.installed("no-such-package") is None
    assert machine.describe(tmp_path)["memory"].endswith("GiB")
