"""The SQLite log: durability against SIGKILL, its lock, what the database itself refuses, and its errors."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from events.errors import (
    InputError,
    LogCorrupt,
    LogError,
    LogLocked,
    LogUnavailable,
)
from store.log import Append, EventLog, NewEvent
from store.opening import Store, open_store
from store.sqlite_file import SqliteFile
from tests.store.test_log_contract import AT, LogContract, batch

ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import sys
from events.types import AttemptInterrupted, AttemptStarted
from events.work import Stage
from store.log import Append, NewEvent
from store.opening import absolute_url, open_store

path, size = sys.argv[1], int(sys.argv[2])
with open_store(f"sqlite:///{path}", write=True, holder="sweep test") as store:
    version = store.log.head("s")
    print("open", flush=True)
    if size == 0:
        sys.stdin.read()
    while size:
        ids = [f"e{version + n}" for n in range(1, size + 1)]
        data = b'{"pad":"' + b"x" * 700 + b'"}'
        version = store.log.append(Append("s", version, [NewEvent(i, "Happened", 1, data) for i in ids], 1.5e9)).version
        print(version, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def opened(path: Path, *, write: bool = True) -> Store:
    return open_store(f"sqlite:///{path}", write=write)


def start_writer(path: Path, *, size: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(size)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class TestSqliteLog(LogContract):
    @pytest.fixture
    def log(self, path: Path) -> Iterator[EventLog]:
        with opened(path) as store:
            yield store.log

    def test_a_reader_of_its_own_follows_the_writer(self, log: EventLog, path: Path) -> None:
        with opened(path, write=False) as reader:
            self.check_tail(log, reader.log)


def test_what_was_appended_is_there_after_reopening_and_goes_on(path: Path) -> None:
    with opened(path) as store:
        store.log.append(batch("s", 0, "a"))
        log_id = store.log.log_id
    with opened(path) as store:
        assert store.log.log_id == log_id
        store.log.append(batch("s", 1, "b"))
        assert [(event.seq, event.version) for event in store.log.read_all()] == [(1, 1), (2, 2)]
        store.log.verify()


def test_two_new_logs_have_two_ids(tmp_path: Path) -> None:
    with opened(tmp_path / "a.db") as one, opened(tmp_path / "b.db") as other:
        assert one.log.log_id != other.log.log_id


@pytest.mark.parametrize("size", [1, 7, 60])
def test_sigkill_leaves_whole_batches_and_everything_acknowledged(path: Path, size: int) -> None:
    moments = random.Random(size)  # noqa: S311 - moments, not secrets
    for _ in range(6):
        with start_writer(path, size=size) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "open\n"
            time.sleep(moments.uniform(0.0, 0.12))
            writer.send_signal(signal.SIGKILL)
            acknowledged = [int(line) for line in writer.stdout.read().split("\n")[:-1]]
        with opened(path) as store:
            head = store.log.head("s")
            assert head % size == 0
            assert head >= max(acknowledged, default=0)
            assert [event.event_id for event in store.log.read_stream("s")] == [f"e{n + 1}" for n in range(head)]
            store.log.verify()
    assert head > 0


def test_durability_is_set_and_asserted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(path).close()
    ordinary = SqliteFile._pragma
    monkeypatch.setattr(SqliteFile, "_pragma", lambda self, name: 1 if name == "synchronous" else ordinary(self, name))
    with pytest.raises(LogUnavailable, match="synchronous 1: this file system cannot keep a log durable"):
        opened(path)


def test_a_second_writer_is_told_who_holds_the_log_and_a_dead_one_holds_nothing(path: Path) -> None:
    with start_writer(path, size=0) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        with pytest.raises(LogLocked) as locked:
            opened(path)
        assert locked.value.path == str(path)
        assert locked.value.holder.startswith(f"process {writer.pid} on ")
        assert locked.value.holder.endswith("(sweep test)")
        with opened(path, write=False) as reader:
            assert reader.log.head("s") == 0
        writer.send_signal(signal.SIGKILL)
    opened(path).close()


def test_one_process_does_not_open_a_log_twice_for_writing(path: Path) -> None:
    with opened(path), pytest.raises(LogLocked, match=f"process {os.getpid()} on "):
        opened(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET data = '{}'",
        "UPDATE events SET seq = seq + 1 WHERE version = 1",
        "DELETE FROM events",
        "DELETE FROM events WHERE version = 2",
    ],
)
def test_the_database_itself_refuses_to_change_events(path: Path, statement: str) -> None:
    with opened(path) as store:
        store.log.append(batch("s", 0, "a", "b"))
    raw = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="events are immutable"):
        raw.execute(statement)
    raw.close()
    with opened(path, write=False) as store:
        assert len(store.log.verify()) == 1
        assert store.log.head("s") == 2


def test_an_event_that_was_replaced_behind_our_back_is_named(path: Path) -> None:
    with opened(path) as store:
        store.log.append(batch("s", 0, "a", "b", "c"))
    raw = sqlite3.connect(path)
    raw.execute(
        "INSERT OR REPLACE INTO events SELECT seq, stream, version, event_id, type, schema, recorded_us, "
        '\'{"id":"z"}\', hash FROM events WHERE version = 2'
    )
    raw.commit()
    raw.close()
    with opened(path, write=False) as store, pytest.raises(LogCorrupt, match="stream s version 2 "):
        store.log.verify()


def test_any_flipped_byte_is_found_or_changed_nothing(path: Path, tmp_path: Path) -> None:
    with opened(path) as store:
        for n in range(40):
            store.log.append(batch("s", n * 3, *(f"{n}-{part}" for part in range(3))))
        written = list(store.log.read_all())
    content = path.read_bytes()
    copy = tmp_path / "copy.db"
    found = 0
    for position in random.Random(1).sample(range(len(content)), 400):  # noqa: S311 - positions, not secrets
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        copy.write_bytes(damaged)
        try:
            with opened(copy, write=False) as store:
                store.log.verify()
                assert list(store.log.read_all()) == written
        except (LogError, InputError):
            found += 1
        for leftover in tmp_path.glob("copy.db-*"):
            leftover.unlink()
    assert found > 50, found


@pytest.mark.parametrize("part", [b'"id":"b"', b"Happened"])
def test_a_flipped_byte_of_an_event_is_found_by_stream_and_version(path: Path, part: bytes) -> None:
    with opened(path) as store:
        store.log.append(batch("s", 0, "a", "b", "c"))
        (second,) = store.log.read_stream("s", after=1, limit=1)
    content = path.read_bytes()
    record = content.index(second.hash.encode()) - 120
    position = content.index(part, record) + 1
    for flip in (0x01, 0x80):
        damaged = bytearray(content)
        damaged[position] ^= flip
        path.write_bytes(damaged)
        with opened(path, write=False) as store, pytest.raises(LogCorrupt, match="stream s version 2 "):
            store.log.verify()


def damage(path: Path, *, version: int) -> None:
    """Changes the data of one event of stream ``s`` behind everybody's back."""
    raw = sqlite3.connect(path)
    raw.execute("DROP TRIGGER events_are_not_updated")
    raw.execute("UPDATE events SET data = '{}' WHERE stream = 's' AND version = ?", (version,))
    raw.commit()
    raw.close()


def test_a_writer_finds_recent_damage_when_it_opens_the_log_and_gives_the_lock_back(path: Path) -> None:
    with opened(path) as store:
        store.log.append(batch("t", 0, "x"))
        store.log.append(batch("s", 0, *(f"e{n}" for n in range(300))))
        store.log.append(batch("t", 1, "y"))
    opened(path).close()
    damage(path, version=250)
    for _ in range(2):
        with pytest.raises(LogCorrupt, match="stream s version 250 is damaged"):
            opened(path)
    with opened(path, write=False) as store:
        assert store.log.head("s") == 300


def test_old_damage_is_left_to_the_full_check(path: Path) -> None:
    with opened(path) as store:
        store.log.append(batch("s", 0, *(f"e{n}" for n in range(300))))
    damage(path, version=50)
    with opened(path) as store, pytest.raises(LogCorrupt, match="stream s version 50 is damaged"):
        store.log.verify()


def test_people_read_the_log_with_the_sqlite_shell(path: Path) -> None:
    with opened(path) as store:
        store.log.append(Append("s", 0, [NewEvent("a", "Happened", 1, b'{"reason":"nearest"}')], AT))
    raw = sqlite3.connect(path)
    row = raw.execute("SELECT recorded_at, json_extract(data, '$.reason'), typeof(data) FROM event_view").fetchone()
    raw.close()
    assert row == ("2023-11-14T22:13:20.123456Z", "nearest", "text")
