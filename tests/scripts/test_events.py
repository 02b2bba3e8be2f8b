"""``headrace events``: its lines, its JSON, and a reader that has seen enough."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from actors.log_client import new_event
from events.types import RepositoryClaimed
from store.log import Append
from store.opening import open_store

HEADRACE = str(Path(sys.executable).with_name("headrace"))


@pytest.fixture
def store(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/log.db"
    with open_store(url, write=True) as opened:
        for number in range(2_000):
            event = RepositoryClaimed(incarnation=f"i{number}", sweep="s")
            stream = f"repository:o/r{number % 2}"
            opened.log.append(Append(stream, number // 2, [new_event(event, f"e{number}")], 1_700_000_000.0 + number))
    return url


def test_json_lines_have_the_fields_of_the_contract(store: str) -> None:
    done = subprocess.run(
        [HEADRACE, "events", "--store", store, "--json", "--stream", "repository:o/r1"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 1_000
    assert set(rows[0]) == {"seq", "stream", "version", "type", "recorded_at", "data", "hash"}
    assert rows[0]["recorded_at"] == "2023-11-14T22:13:21.000000Z"
    assert rows[0]["data"] == {"incarnation": "i1", "sweep": "s"}
    assert [row["version"] for row in rows] == list(range(1, 1_001))


def test_a_reader_that_stops_early_is_no_error(store: str) -> None:
    text = f"{HEADRACE} events --store {store} | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (0, 1, "")


@pytest.mark.parametrize("command", [["events"], ["replay", "--check"], ["store", "prune", "--behind-snapshots"]])
def test_a_damaged_file_is_one_line_that_names_it_and_a_remedy(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 64)
    done = subprocess.run(
        [HEADRACE, *command, "--store", f"sqlite:///{path}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert f"{path} is damaged" in done.stderr
    assert "restore it from a copy" in done.stderr
