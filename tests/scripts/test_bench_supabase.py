"""The benchmark of the Supabase store runs, and says so where there is no project to measure."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.bench import shared_store
from scripts.bench.options import Options
from tests.supabase.project import Project


def test_without_a_project_it_is_left_out_aloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in shared_store.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (figure,) = shared_store.measure(Options(folder=tmp_path, quick=True))
    assert figure.name == "left out"
    assert "SUPABASE_URL" in figure.note
    assert figure.goal is None


def test_it_is_measured_beside_a_bare_insert_and_by_many_writers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, project: Project
) -> None:
    monkeypatch.setattr(shared_store, "START_S", 4.0)
    with project.in_environment(SUPABASE_DB_URL=project.database_url):
        found = {one.name: one for one in shared_store.measure(Options(folder=tmp_path, quick=True))}
    assert all(one.value > 0 for one in found.values())
    assert found["append over bare insert plus round trip, p50"].goal == 2.0
    assert [one.goal for name, one in found.items() if name.startswith("16 writers")] == [1500.0, 1500.0]
