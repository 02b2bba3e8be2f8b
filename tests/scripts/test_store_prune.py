"""``headrace store prune``: what it says, what it removes, and how the other commands behave afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from scripts.cli import main
from scripts.reading import read_repository, read_sweep
from store.log import snapshot_digest
from store.opening import open_store
from store.replay import check
from tests.events.history import REPOSITORY, history, record
from tests.store.test_snapshots import take


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A log with every event type in it, and snapshots of two of its streams."""
    url = f"sqlite:///{tmp_path}/log.db"
    with open_store(url, write=True) as store:
        record(store.log)
        take(store.log, REPOSITORY, version=20)
        take(store.log, "governor", version=4)
    return url


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(arguments)
    said = capsys.readouterr()
    return code, said.out, said.err


def prune(capsys: pytest.CaptureFixture[str], url: str, *options: str) -> tuple[int, str, str]:
    return run(capsys, "store", "prune", "--store", url, "--behind-snapshots", *options)


def test_it_says_what_it_removed_and_what_it_kept(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with open_store(url, write=False) as store:
        head = store.log.head(REPOSITORY)
    code, out, err = prune(capsys, url)
    assert (code, err) == (0, "")
    assert f"{REPOSITORY}: removed versions 1 to 19, kept {head - 19} events\n" in out
    assert "governor: removed versions 1 to 3, kept " in out
    assert "nothing removed, it has no snapshot: attempt:a1, gather:o/r, sweep:demo\n" in out
    assert f"removed 22 events, kept {len(history()) - 22}; attempts, errors, contexts and blobs stay" in out
    with open_store(url, write=False) as store:
        assert len(list(store.log.read_all())) == len(history()) - 22
        check(store.log)
    code, out, _ = prune(capsys, url)
    assert code == 0
    assert f"nothing removed, its snapshot covers nothing that is left: governor, {REPOSITORY}" in out


def test_a_dry_run_beside_a_writer_removes_nothing_and_tells_the_same(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_store(url, write=True, holder="sweep demo"):
        code, out, _ = prune(capsys, url, "--dry-run", "--json")
        assert code == 0
        would = json.loads(out)
        assert (would["dry_run"], would["removed"]) == (True, 22)
        code, _, err = prune(capsys, url)
        assert code == 3
        assert "log.db is being written by process" in err
        assert "(sweep demo); wait for it" in err
    with open_store(url, write=False) as store:
        assert len(list(store.log.read_all())) == len(history())
    _, out, _ = prune(capsys, url, "--json")
    assert json.loads(out) == would | {"dry_run": False}


def test_only_the_named_streams_are_pruned(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = prune(capsys, url, "--stream", "governor", "--json")
    assert code == 0
    assert [(one["stream"], one["removed"]) for one in json.loads(out)["streams"]] == [("governor", 3)]
    code, _, err = prune(capsys, url, "--stream", "governorr")
    assert (code, err.count("\n")) == (2, 1)
    assert "--stream governorr: the log has no such stream" in err


def test_wrong_usage_and_a_log_that_is_not_there_are_refused(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "store", "prune", "--store", url)
    assert code == 2
    assert "--behind-snapshots" in err
    code, _, err = prune(capsys, f"sqlite:///{tmp_path}/none.db")
    assert code == 2
    assert "there is no log to read" in err
    assert not (tmp_path / "none.db").exists()


def test_when_one_stream_is_damaged_nothing_of_any_is_removed(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with open_store(url, write=True) as store:
        snapshot = store.log.snapshot(REPOSITORY)
        assert snapshot is not None
        lying = msgspec.structs.replace(snapshot, state=snapshot.state.replace(b"r1", b"r2"))
        store.log.put_snapshot(msgspec.structs.replace(lying, digest=snapshot_digest(lying)))
    code, _, err = prune(capsys, url)
    assert code == 1
    assert f"stream {REPOSITORY} version 20: incarnation" in err
    with open_store(url, write=False) as store:
        assert len(list(store.log.read_all())) == len(history())


def test_events_and_replay_name_what_is_gone_and_give_what_is_left(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, whole, _ = run(capsys, "replay", "--store", url, "--json")
    prune(capsys, url)
    code, out, err = run(capsys, "events", "--store", url, "--json", "--stream", REPOSITORY)
    assert (code, err) == (0, f"headrace: versions 1 to 19 of stream {REPOSITORY} were pruned\n")
    assert json.loads(out.splitlines()[0])["version"] == 20
    code, out, err = run(capsys, "events", "--store", url, "--stream", REPOSITORY, "--after", "5")
    assert (code, out) == (2, "")
    assert f"versions 1 to 19 of stream {REPOSITORY} were pruned; use --after 19 or later" in err
    code, _, err = run(capsys, "events", "--store", url, "--stream", REPOSITORY, "--after", "19")
    assert (code, err) == (0, "")
    code, out, err = run(capsys, "events", "--store", url)
    assert (code, len(out.splitlines()) >= len(history()) - 22, err.count("were pruned")) == (0, True, 2)
    code, _, _ = run(capsys, "replay", "--store", url, "--check")
    assert code == 0
    _, left, _ = run(capsys, "replay", "--store", url, "--json")
    assert {**json.loads(left), "events": 0} == {**json.loads(whole), "events": 0}
    code, _, err = run(capsys, "replay", "--store", url, "--at", "8", "--stream", REPOSITORY)
    assert code == 2
    assert f"stream {REPOSITORY} was pruned: versions 1 to 19 are gone" in err


def test_what_a_sweep_is_resumed_from_is_the_same(url: str) -> None:
    with open_store(url, write=False) as store:
        states = read_repository(store.log, "o/r"), read_sweep(store.log, "demo"), store.models.attempts()
    headrace = str(Path(sys.executable).with_name("headrace"))
    command = [headrace, "store", "prune", "--store", url, "--behind-snapshots"]
    subprocess.run(command, check=True, capture_output=True)
    with open_store(url, write=False) as store:
        assert (read_repository(store.log, "o/r"), read_sweep(store.log, "demo"), store.models.attempts()) == states
