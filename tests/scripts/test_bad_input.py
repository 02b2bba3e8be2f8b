"""Bad input to ``headrace sweep``: one line that names file, line, field and remedy; exit code 2; nothing started."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine_fixtures import GitProject

HEADRACE = str(Path(sys.executable).with_name("headrace"))


def good_row(project: GitProject, number: int = 1, **changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "owner": "o",
        "repo": "r",
        "issue_number": number,
        "sha": project.git("rev-parse", "HEAD"),
        "created_at": "2024-01-01T00:00:00Z",
        "clone_url": project.clone_url,
        "env_payload": '{"dependencies": ["pytest==8.3.5"]}',
        "python_version": "3.11",
    }
    row.update(changes)
    return {key: value for key, value in row.items() if value is not None}


@pytest.fixture
def project(tmp_path: Path) -> GitProject:
    made = GitProject(tmp_path / "project")
    made.commit({"README": "a project\n"})
    return made


def sweep(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> tuple[int, list[str]]:
    """Runs ``headrace sweep`` on ``prs.jsonl``; its exit code and its lines on standard error."""
    done = subprocess.run(
        [HEADRACE, "sweep", "prs.jsonl", *arguments],
        cwd=folder,
        env={**os.environ, "HEADRACE_SWEEP_CACHE_DIR": str(folder / "cache"), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr.strip().splitlines()


def write(folder: Path, *rows: dict[str, object] | str) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "prs.jsonl").write_text("\n".join(lines) + "\n")


def refused(
    folder: Path, *fragments: str, arguments: tuple[str, ...] = (), environment: dict[str, str] | None = None
) -> None:
    """Asserts one line that holds every fragment, exit code 2, and that no log was made."""
    code, lines = sweep(folder, *arguments, environment=environment)
    assert (code, len(lines)) == (2, 1), lines
    assert lines[0].startswith("headrace: error: ")
    for fragment in fragments:
        assert fragment in lines[0]
    assert not (folder / "headrace.db").exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    refused(tmp_path, "prs.jsonl", "cannot be read")


def test_wrong_json_on_a_line(tmp_path: Path, project: GitProject) -> None:
    write(tmp_path, good_row(project), '{"owner": ')
    refused(tmp_path, "prs.jsonl:2", "JSON")


@pytest.mark.parametrize("field", ["owner", "repo", "issue_number", "sha", "created_at"])
def test_a_missing_field(tmp_path: Path, project: GitProject, field: str) -> None:
    row = good_row(project)
    del row[field]
    write(tmp_path, row)
    refused(tmp_path, "prs.jsonl:1", f"'{field}'")


def test_a_duplicate_pull_request(tmp_path: Path, project: GitProject) -> None:
    write(tmp_path, good_row(project), good_row(project, 2), good_row(project))
    refused(tmp_path, "prs.jsonl:3", "line 1", "o/r#1")


def test_a_bad_date(tmp_path: Path, project: GitProject) -> None:
    write(tmp_path, good_row(project, created_at="yesterday"))
    refused(tmp_path, "prs.jsonl:1", "'created_at'", "yesterday", "ISO 8601")


@pytest.mark.parametrize(
    ("payload", "fragment"),
    [
        (None, "missing"),
        ('{"dependencies": ["numpy=>1"]}', "numpy=>1"),
        ("no json", "JSON"),
        ('{"deps": []}', "dependencies"),
    ],
)
def test_a_missing_or_malformed_env_payload(
    tmp_path: Path, project: GitProject, payload: str | None, fragment: str
) -> None:
    write(tmp_path, good_row(project), good_row(project, 2, env_payload=payload))
    refused(tmp_path, "prs.jsonl:2", "o/r#2", "'env_payload'", fragment, "headrace resolve")


def test_rows_without_requirements_can_be_left_out_by_name(tmp_path: Path, project: GitProject) -> None:
    write(tmp_path, good_row(project, env_payload=None))
    code, lines = sweep(tmp_path, "--skip-unresolved")
    assert code == 2
    assert "left out" in lines[0]
    assert "o/r#1" in lines[0]
    assert "no row is resolved" in lines[1]


def test_an_unknown_commit(tmp_path: Path, project: GitProject) -> None:
    write(tmp_path, good_row(project), good_row(project, 2, sha="f" * 40))
    refused(tmp_path, "prs.jsonl:2", "o/r#2", "'sha'", "f" * 40, project.clone_url)


@pytest.mark.parametrize("url", ["postgres://x", "sqlite:///", "headrace.db"])
def test_an_unknown_store_url(tmp_path: Path, project: GitProject, url: str) -> None:
    write(tmp_path, good_row(project))
    refused(tmp_path, url, "sqlite:///PATH", arguments=("--store", url))


def test_a_log_of_a_newer_schema(tmp_path: Path, project: GitProject) -> None:
    write(tmp_path, good_row(project))
    from store.opening import open_store

    with open_store(f"sqlite:///{tmp_path}/new.db", write=True):
        pass
    with sqlite3.connect(tmp_path / "new.db") as database:
        database.execute("PRAGMA user_version = 99")
    refused(tmp_path, "new.db", "schema 99", "upgrade", arguments=("--store", "sqlite:///new.db"))


@pytest.mark.parametrize(
    ("name", "value", "fragment"),
    [
        ("DATASMITH_NEIGHBOR_WINDOW_DAYS", "-1", "from 0 to"),
        ("DATASMITH_NEIGHBOR_CAP", "many", "an integer"),
        ("DATASMITH_RL_MAX_RETRIES", "1e9", "from 0 to 1000"),
        ("DATASMITH_RL_DEFAULT_PAUSE_S", "0", "above 0"),
        ("DATASMITH_RL_PAUSE_JITTER_S", "-5", "from 0"),
        ("HEADRACE_VERIFY_MIN_PASS_RATIO", "1.5", "up to 1"),
    ],
)
def test_a_knob_out_of_range(tmp_path: Path, project: GitProject, name: str, value: str, fragment: str) -> None:
    write(tmp_path, good_row(project))
    refused(tmp_path, name, repr(value), fragment, environment={name: value})


def test_a_setting_that_nobody_knows(tmp_path: Path, project: GitProject) -> None:
    write(tmp_path, good_row(project))
    (tmp_path / "headrace.toml").write_text("[verify]\nmin_pas_ratio = 0.5\n")
    refused(tmp_path, "headrace.toml", "verify.min_pas_ratio", "min_pass_ratio")


def test_a_sweep_name_that_is_no_name(tmp_path: Path, project: GitProject) -> None:
    write(tmp_path, good_row(project))
    refused(tmp_path, "--name", "a/b", arguments=("--name", "a/b"))


def test_resuming_what_is_not_there_names_what_is(tmp_path: Path) -> None:
    from store.opening import open_store

    with open_store(f"sqlite:///{tmp_path}/log.db", write=True):
        pass
    for command in ("resume", "status"):
        done = subprocess.run(
            [HEADRACE, command, "nope", "--store", "sqlite:///log.db"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert "no sweep 'nope'" in done.stderr
