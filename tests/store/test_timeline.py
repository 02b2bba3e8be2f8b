"""Timelines read and written: what is accepted, and the one line that every wrong file is answered with."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pyarrow
import pyarrow.parquet
import pytest
from loguru import logger

from events.errors import ResolutionRequired, TimelineError
from events.work import PullRequest
from store.timeline import parse_env_payload, read_timeline, require_resolved, write_timeline

ROW: dict[str, object] = {
    "owner": "pandas-dev",
    "repo": "pandas",
    "issue_number": 16222,
    "sha": "abc123def456",
    "created_at": "2021-06-01T12:00:00Z",
}


def written(tmp_path: Path, *rows: object) -> Path:
    path = tmp_path / "prs.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def refused(path: Path) -> TimelineError:
    with pytest.raises(TimelineError) as caught:
        read_timeline(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert caught.value.exit_code == 2
    return caught.value


def full_row() -> PullRequest:
    return PullRequest(
        owner="o",
        repo="r.py",
        issue_number=7,
        sha="a" * 40,
        created_at="2021-06-01T12:00:00.250000Z",
        base_sha="b" * 40,
        title="Füge ein — 修正",
        body="line\nline",
        patch="diff --git a/x b/x\n",
        test_patch="diff --git a/t b/t\n",
        fail_to_pass=["t::a"],
        pass_to_pass=[],
        env_payload='{"dependencies":["numpy==1.26.0"]}',
        python_version="3.11",
        primary_root="packages/core",
        clone_url="/somewhere/r.git",
        seed=False,
    )


@pytest.mark.parametrize("name", ["prs.jsonl", "prs.parquet"])
def test_what_is_written_reads_back_equal(tmp_path: Path, name: str) -> None:
    rows = [
        full_row(),
        PullRequest(owner="o", repo="r.py", issue_number=8, sha="c" * 7, created_at="2021-01-01T00:00:00Z"),
    ]
    write_timeline(tmp_path / name, rows)
    assert read_timeline(tmp_path / name) == rows
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_row_that_cannot_be_encoded_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "prs.jsonl"
    write_timeline(path, [full_row()])
    before = path.read_bytes()
    bad = PullRequest(owner="o", repo="r", issue_number=1, sha="a" * 40, created_at="2021", title="\ud800")
    with pytest.raises(UnicodeEncodeError):
        write_timeline(path, [bad])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(TimelineError, match=r"missing/prs\.jsonl: cannot be written"):
        write_timeline(tmp_path / "missing" / "prs.jsonl", [full_row()])


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2021-06-01T12:00:00+02:00", "2021-06-01T10:00:00Z"),
        ("2021-06-01T12:00:00", "2021-06-01T12:00:00Z"),
        ("2021-06-01", "2021-06-01T00:00:00Z"),
        ("2021-06-01 12:00:00.5Z", "2021-06-01T12:00:00.500000Z"),
    ],
)
def test_dates_become_utc_and_those_without_a_zone_are_utc_already(tmp_path: Path, text: str, utc: str) -> None:
    assert read_timeline(written(tmp_path, {**ROW, "created_at": text}))[0].created_at == utc


def test_commits_become_lower_case_and_nulls_count_as_absent(tmp_path: Path) -> None:
    row = read_timeline(written(tmp_path, {**ROW, "sha": "ABCDEF1", "seed": None, "title": None, "base_sha": None}))[0]
    assert (row.sha, row.seed, row.title) == ("abcdef1", True, None)


def test_an_env_payload_may_be_json_or_its_text(tmp_path: Path) -> None:
    payload = {"dependencies": ["numpy==1.26.0"]}
    rows = [{**ROW, "env_payload": payload}, {**ROW, "issue_number": 2, "env_payload": json.dumps(["numpy==1.26.0"])}]
    assert [parse_env_payload(row.env_payload or "") for row in read_timeline(written(tmp_path, *rows))] == [
        ["numpy==1.26.0"],
        ["numpy==1.26.0"],
    ]


def test_blank_lines_a_byte_order_mark_and_carriage_returns_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "prs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r\n\r\n")
    assert len(read_timeline(path)) == 1


def test_unknown_columns_are_ignored_with_one_warning_that_names_them(tmp_path: Path) -> None:
    warnings: list[str] = []
    sink = logger.add(lambda message: warnings.append(str(message)), level="WARNING")
    read_timeline(written(tmp_path, {**ROW, "stars": 1}, {**ROW, "issue_number": 2, "stars": 2, "langauge": "x"}))
    logger.remove(sink)
    assert len(warnings) == 1
    assert "langauge, stars" in warnings[0]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "cannot be read (No such file" in str(refused(tmp_path / "absent.jsonl"))
    assert "cannot be read" in str(refused(tmp_path / "absent.parquet"))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    assert "holds no pull request" in str(refused(written(tmp_path)))


@pytest.mark.parametrize("text", ['{"owner": "o"', "\udcff", '["a"]', "7", "[" * 100_000])
def test_what_is_no_json_object_names_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prs.jsonl"
    path.write_bytes(f"{json.dumps(ROW)}\n{text}\n".encode(errors="surrogateescape"))
    error = refused(path)
    assert error.line == 2
    assert "one JSON object a line" in error.remedy


@pytest.mark.parametrize("field", ["owner", "repo", "issue_number", "sha", "created_at"])
@pytest.mark.parametrize("null", [False, True])
def test_a_missing_field_is_named(tmp_path: Path, field: str, null: bool) -> None:
    row = {name: value for name, value in ROW.items() if name != field} | ({field: None} if null else {})
    error = refused(written(tmp_path, ROW, row))
    assert (error.line, error.field, error.problem) == (2, field, "is missing")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("issue_number", "16222"),
        ("issue_number", True),
        ("issue_number", 1.5),
        ("sha", 7),
        ("fail_to_pass", "t::a"),
        ("fail_to_pass", [1]),
        ("env_payload", 7),
        ("seed", "no"),
        ("owner", "a/b"),
        ("owner", ""),
        ("owner", ".."),
        ("repo", "x y"),
        ("repo", "-x"),
        ("repo", "a" * 101),
        ("issue_number", 0),
        ("sha", "xyz1234"),
        ("sha", "abc12"),
        ("base_sha", "HEAD~1"),
        ("created_at", "yesterday"),
        ("created_at", "2021-13-01"),
        ("created_at", "0001-01-01T00:00:00+14:00"),
        ("primary_root", "/etc"),
        ("primary_root", "a/../../b"),
        ("clone_url", "--upload-pack=x"),
        ("clone_url", " "),
    ],
)
def test_a_wrong_value_names_line_field_and_remedy(tmp_path: Path, field: str, value: object) -> None:
    error = refused(written(tmp_path, ROW, {**ROW, "issue_number": 3, field: value}))
    assert (error.line, error.field) == (2, field)
    assert error.remedy


def test_a_duplicate_names_both_lines(tmp_path: Path) -> None:
    error = refused(written(tmp_path, ROW, {**ROW, "issue_number": 2}, {**ROW, "sha": "f" * 40}))
    assert error.line == 3
    assert "already on line 1" in error.problem
    assert "1 and 3" in error.remedy


def test_parquet_rows_may_hold_timestamps_and_whole_floats(tmp_path: Path) -> None:
    path = tmp_path / "prs.parquet"
    row = {**ROW, "created_at": datetime(2021, 6, 1, 12, tzinfo=UTC), "issue_number": 5.0}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    read = read_timeline(path)[0]
    assert (read.created_at, read.issue_number) == ("2021-06-01T12:00:00Z", 5)


def test_a_wrong_parquet_row_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "prs.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW, {**ROW, "issue_number": 2, "sha": None}]), path)
    error = refused(path)
    assert (error.line, error.field) == (2, "sha")


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prs.parquet"
    path.write_bytes(b"PAR1 nothing PAR1")
    assert "Parquet" in str(refused(path))


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        (None, "missing"),
        ("{", "not JSON"),
        ('{"deps": []}', "no 'dependencies'"),
        ('{"dependencies": "numpy"}', "must be"),
        ("7", "must be"),
        ('["numpy", 7]', "no string"),
        ('["numpy=1.26"]', "no PEP 508 requirement"),
    ],
)
def test_an_unresolved_pull_request_is_named_with_the_command_to_run(payload: str | None, problem: str) -> None:
    row = PullRequest(
        owner="o", repo="r", issue_number=4, sha="a" * 40, created_at="2021", env_payload=payload, python_version="3.11"
    )
    with pytest.raises(ResolutionRequired) as caught:
        require_resolved([row], "prs.jsonl")
    for part in ("prs.jsonl", "o/r#4", "env_payload", problem, "headrace resolve"):
        assert part in str(caught.value)


@pytest.mark.parametrize("version", [None, "3", "3.11.2", "py311", "2.7", "3.x"])
def test_a_malformed_python_version_is_named(version: str | None) -> None:
    row = PullRequest(
        owner="o", repo="r", issue_number=4, sha="a" * 40, created_at="2021", env_payload="[]", python_version=version
    )
    with pytest.raises(ResolutionRequired, match="python_version"):
        require_resolved([row], "prs.jsonl")


@pytest.mark.parametrize("name", ["prs.jsonl", "prs.parquet"])
def test_an_unresolved_pull_request_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    ready = full_row()
    write_timeline(tmp_path / name, [ready, msgspec.structs.replace(ready, issue_number=9, env_payload=None)])
    if name == "prs.jsonl":
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes().replace(b"\n", b"\n\n"))
    with pytest.raises(ResolutionRequired) as caught:
        require_resolved(read_timeline(tmp_path / name), tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}:{3 if name == 'prs.jsonl' else 2}: o/r.py#9")


def test_both_forms_of_a_payload_with_markers_and_extras_are_resolved() -> None:
    for payload in ("[\"uvloop[x]==0.1 ; sys_platform == 'linux'\"]", '{"dependencies": [], "notes": ["kept"]}'):
        row = PullRequest(
            owner="o",
            repo="r",
            issue_number=4,
            sha="a" * 40,
            created_at="2021",
            env_payload=payload,
            python_version="3.9",
        )
        require_resolved([row], "prs.jsonl")


def test_a_hundred_thousand_rows_are_read_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "prs.jsonl"
    write_timeline(
        path,
        (
            PullRequest(owner="o", repo="r", issue_number=number, sha="a" * 40, created_at="2021-06-01T12:00:00Z")
            for number in range(1, 100_001)
        ),
    )
    started_s = time.monotonic()
    assert len(read_timeline(path)) == 100_000
    assert time.monotonic() - started_s < 15
