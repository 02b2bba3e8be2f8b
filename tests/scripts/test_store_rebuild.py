"""``headrace store rebuild``: proves rows equal to the log, mends those that are not, and says which it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from scripts.cli import main
from scripts.store_rebuild import RebuildView
from store.opening import open_store
from tests.events.history import record
from tests.store.test_read_models import admitted, append, started
from tests.supabase.project import Project


@pytest.fixture(params=["sqlite", "supabase"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "supabase":
            project: Project = request.getfixturevalue("project")
            stack.enter_context(project.in_environment())
        yield "supabase" if request.param == "supabase" else f"sqlite:///{tmp_path}/log.db"


def fill(url: str, monkeypatch: pytest.MonkeyPatch, *, lose_rows: bool) -> None:
    with open_store(url, write=True) as store:
        record(store.log)
        if lose_rows:
            for module in ("store.supabase.log", "store.sqlite"):
                monkeypatch.setattr(f"{module}.project", lambda **_: None)
        append(store, admitted(1), started("a", 1), stream="repository:x/y")
        monkeypatch.undo()


def run(url: str, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, RebuildView]:
    code = main(["store", "rebuild", "--store", url, "--json", *options])
    return code, msgspec.json.decode(capsys.readouterr().out, type=RebuildView)


def test_rows_that_are_equal_are_said_to_be(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(url, monkeypatch, lose_rows=False)
    code, checked = run(url, capsys, "--check")
    assert (code, checked.were_equal, checked.rebuilt) == (0, True, False)
    assert checked.attempts > 1
    code, rebuilt = run(url, capsys)
    assert (code, rebuilt) == (0, msgspec.structs.replace(checked, rebuilt=True))


def test_rows_that_are_not_are_found_and_mended(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        fill(url, patched, lose_rows=True)
    assert [run(url, capsys, "--check")[1].were_equal for _ in range(2)] == [False, False]
    assert run(url, capsys, "--check")[0] == 1
    code, rebuilt = run(url, capsys)
    assert (code, rebuilt.were_equal, rebuilt.rebuilt) == (0, False, True)
    assert run(url, capsys, "--check")[1].were_equal


def test_it_says_so_in_words(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fill(url, monkeypatch, lose_rows=False)
    assert main(["store", "rebuild", "--store", url]) == 0
    said = capsys.readouterr().out
    assert "they were equal to the log's" in said
    assert "rebuilt, they are equal to the log's" in said


def test_a_log_that_is_not_there_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "rebuild", "--store", f"sqlite:///{tmp_path}/none.db"]) == 2
    assert not (tmp_path / "none.db").exists()
