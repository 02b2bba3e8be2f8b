"""``headrace store import``: rows of an earlier pipeline, checked whole, written at once, never taken for verified."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from actors import SynthesisState, Synthesizer
from actors.settings import Settings
from actors.templates import stock_context
from events.errors import InputError, TimelineError
from events.pull_request import PrState
from events.work import FailureClass
from scripts.cli import cli
from scripts.import_files import read_attempts, read_contexts
from scripts.reading import read_repository
from store.opening import open_store
from store.read_models import AttemptState
from store.replay import check
from tests.api.items import Refusing, item

SCRIPT = 'pip install .\nmake, it "work"\n'


def row(number: int, **changes: object) -> dict[str, object]:
    return {key: value for key, value in {**item(number), **changes}.items() if value is not None}


def attempt(number: int, **changes: object) -> dict[str, object]:
    return row(number, **{"state": "failed", "agent": "codex", "message": "no compiler", "log": "a\nb\n", **changes})


def context(number: int, **changes: object) -> dict[str, object]:
    return row(number, **{"build_pkg_sh": SCRIPT, **changes})


def write(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            names = dict.fromkeys(name for one in rows for name in one)
            writer = csv.DictWriter(file, list(names))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def run_import(folder: Path, *arguments: str) -> str:
    done = CliRunner().invoke(
        cli, ["store", "import", "--store", f"sqlite:///{folder}/log.db", *arguments], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.output


def head(folder: Path) -> int:
    with open_store(f"sqlite:///{folder}/log.db", write=False) as store:
        return store.log.last_seq()


@pytest.fixture(params=["jsonl", "csv"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Two attempts on PR 1, one of them successful; one on PR 2; a context of PR 1."""
    attempts = write(
        tmp_path / f"attempts.{request.param}",
        [attempt(1), attempt(1, state="succeeded", agent="claude", message=""), attempt(2, failure_class="timeout")],
    )
    contexts = write(tmp_path / f"contexts.{request.param}", [context(1)])
    return ["--build-attempts", str(attempts), "--contexts", str(contexts)]


def test_attempts_become_history_and_nothing_counts_as_verified(tmp_path: Path, files: list[str]) -> None:
    assert "imported 1 contexts and 3 attempts" in run_import(tmp_path, *files)
    with open_store(f"sqlite:///{tmp_path}/log.db", write=False) as store:
        rows = store.models.attempts()
        assert [(one.issue_number, one.state, one.agent, one.stage.value) for one in rows] == [
            (1, AttemptState.FAILED, "codex", "llm_generate"),
            (1, AttemptState.INTERRUPTED, "claude", "llm_generate"),
            (2, AttemptState.FAILED, "codex", "llm_generate"),
        ]
        errors = store.models.errors()
        claimed = "imported: it is said to have succeeded, which was not verified here"
        assert [(one.issue_number, one.state, one.message, one.failure_class) for one in errors] == [
            (1, AttemptState.FAILED, "no compiler", FailureClass.RECIPE),
            (1, AttemptState.INTERRUPTED, claimed, None),
            (2, AttemptState.FAILED, "no compiler", FailureClass.TIMEOUT),
        ]
        assert store.blobs.get(errors[0].blobs["build_log"]) == b"a\nb\n"
        assert store.models.contexts_of("o", "r") == []
        repository = read_repository(store.log, "o/r")
        assert {pr.state for pr in repository.prs.values()} == {PrState.FAILED}
        assert repository.verified == []
        check(store.log)


def test_the_same_rows_again_change_nothing(tmp_path: Path, files: list[str]) -> None:
    run_import(tmp_path, *files)
    before = head(tmp_path)
    told = run_import(tmp_path, *files)
    assert "imported 0 contexts and 0 attempts; 1 contexts were there already, 3 attempts" in told
    assert head(tmp_path) == before


def test_a_context_is_tried_first_and_verified_like_any_other(tmp_path: Path, files: list[str]) -> None:
    run_import(tmp_path, *files)
    wanted = msgspec.structs.replace(stock_context(), build_pkg_sh=SCRIPT)
    verifier = Refusing(3)
    synth = Synthesizer(store=f"sqlite:///{tmp_path}/log.db", verifier=verifier, settings=Settings(), agent="none")
    assert synth.run(**item(1)) == wanted  # type: ignore[arg-type]
    assert synth.trace == [SynthesisState.CHECK_CACHE, SynthesisState.FIND_SIMILAR, SynthesisState.TRY_SIMILAR]
    assert verifier.asked == [1]
    assert synth.run(**item(3)) is None  # type: ignore[arg-type]
    assert [one.state.value for one in synth.attempts(issue_number=3)] == ["failed", "failed"]


def test_several_contexts_of_one_pull_request_are_all_claims(tmp_path: Path) -> None:
    path = write(tmp_path / "c.jsonl", [context(1), context(1, build_pkg_sh="# another\n"), context(1)])
    assert "imported 2 contexts" in run_import(tmp_path, "--contexts", str(path))
    with open_store(f"sqlite:///{tmp_path}/log.db", write=False) as store:
        assert len(read_repository(store.log, "o/r").imported) == 2


def test_what_a_sweep_has_worked_on_is_left_as_it_is(tmp_path: Path, files: list[str]) -> None:
    synth = Synthesizer(store=f"sqlite:///{tmp_path}/log.db", verifier=Refusing(), settings=Settings(), agent="none")
    synth.run(**item(1))  # type: ignore[arg-type]
    told = run_import(tmp_path, *files)
    assert "1 attempts; 0 contexts were there already, 2 attempts are of pull requests that the log knows" in told
    with open_store(f"sqlite:///{tmp_path}/log.db", write=False) as store:
        repository = read_repository(store.log, "o/r")
        assert repository.prs[1].state is PrState.SUCCEEDED
        assert repository.sweep == "run-1"
        check(store.log)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("kind", "changes", "field"),
    [
        ("attempt", {"state": "odd"}, "state"),
        ("attempt", {"state": None}, "state"),
        ("attempt", {"stage": "check_cache"}, "stage"),
        ("attempt", {"failure_class": "bad luck"}, "failure_class"),
        ("attempt", {"sha": "main"}, "sha"),
        ("attempt", {"issue_number": "x"}, "issue_number"),
        ("attempt", {"created_at": None}, "created_at"),
        ("context", {"build_pkg_sh": None}, "build_pkg_sh"),
        ("context", {"owner": None}, "owner"),
    ],
)
def test_a_row_that_is_wrong_is_named_with_file_line_and_field_and_nothing_is_written(
    tmp_path: Path, suffix: str, kind: str, changes: dict[str, object], field: str
) -> None:
    make = attempt if kind == "attempt" else context
    good, bad = make(1), dict.fromkeys(make(2), "") | make(2, **changes) if suffix == "csv" else make(2, **changes)
    path = write(tmp_path / f"rows.{suffix}", [good, bad])
    before = write(tmp_path / f"before.{suffix}", [good])  # cells have line breaks
    line = before.read_text().count("\n") + 1
    with pytest.raises(TimelineError) as found:
        (read_attempts if kind == "attempt" else read_contexts)(path)
    assert (found.value.path, found.value.line, found.value.field) == (str(path), line, field)
    option = "--build-attempts" if kind == "attempt" else "--contexts"
    with pytest.raises(TimelineError):
        run_import(tmp_path, option, str(path))
    assert not (tmp_path / "log.db").exists()


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.jsonl", "{\n", "is no JSON object"),
        ("a.jsonl", "[]\n", "is no JSON object"),
        ("a.csv", "owner,repo\no\n", "2 cells of the head line"),
        ("a.csv", "owner,repo\no,r,3\n", "2 cells of the head line"),
        ("a.csv", 'owner,repo\n"o"x,r\n', "is no CSV"),
        ("none.jsonl", None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, name: str, text: str | None, problem: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(TimelineError, match=problem):
        read_attempts(path)


def test_bytes_that_are_no_utf8_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(TimelineError, match="is not UTF-8"):
        read_attempts(tmp_path / "a.jsonl")


def test_without_a_file_there_is_nothing_to_import(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name a file"):
        run_import(tmp_path)


def test_two_repositories_are_imported_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", [attempt(1), attempt(1, repo="other")])

    class Full(Exception):
        pass

    def full(*_: object) -> None:
        raise Full

    with monkeypatch.context() as patched:
        patched.setattr("store.sqlite.SqliteLog.append_many", full)
        with pytest.raises(Full):
            run_import(tmp_path, "--build-attempts", str(path))
    assert head(tmp_path) == 0
    run_import(tmp_path, "--build-attempts", str(path))
    with open_store(f"sqlite:///{tmp_path}/log.db", write=False) as store:
        assert {one.repo for one in store.models.attempts()} == {"r", "other"}
