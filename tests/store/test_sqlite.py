"""The SQLite log: durability against SIGKILL, its lock, what the database itself refuses, and its errors."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from events import codec
from events.errors import (
    EnvironmentNotReady,
    InputError,
    LogCorrupt,
    LogError,
    LogLocked,
    LogTooNew,
    LogUnavailable,
    StoreUrlError,
)
from events.types import AttemptInterrupted, AttemptStarted
from events.work import Stage
from store.log import Append, EventLog, NewEvent
from store.opening import Store, absolute_url, open_store
from store.sqlite import SqliteLog
from store.sqlite_file import SqliteFile
from tests.store.test_log_contract import AT, LogContract, batch, new

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


def test_a_missing_folder_says_which_to_create(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable, match=r"its folder does not exist; create .*/nowhere"):
        opened(tmp_path / "nowhere" / "log.db")


def test_reading_a_log_that_does_not_exist_names_it_and_makes_nothing(path: Path) -> None:
    with pytest.raises(InputError, match=r"log\.db: there is no log to read"):
        opened(path, write=False)
    assert list(path.parent.iterdir()) == []


def test_an_empty_file_becomes_a_log_but_is_none_to_read(path: Path) -> None:
    path.touch()
    with pytest.raises(InputError, match="the file holds no log yet"):
        opened(path, write=False)
    opened(path).close()
    opened(path, write=False).close()


@pytest.mark.parametrize("write", [True, False])
def test_a_file_that_is_no_database_is_refused_unchanged(path: Path, *, write: bool) -> None:
    path.write_bytes(b"these are my notes\n" * 1000)
    with pytest.raises(LogCorrupt, match=r"log\.db is damaged: file is not a database"):
        opened(path, write=write)
    assert path.read_bytes() == b"these are my notes\n" * 1000


@pytest.mark.parametrize("write", [True, False])
def test_another_programs_database_is_refused_unchanged(path: Path, *, write: bool) -> None:
    raw = sqlite3.connect(path)
    raw.execute("CREATE TABLE bookmarks (url TEXT)")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="a database of another program"):
        opened(path, write=write)
    assert path.read_bytes() == before


@pytest.mark.parametrize("write", [True, False])
def test_a_log_of_a_newer_schema_is_refused_unchanged(path: Path, *, write: bool) -> None:
    opened(path).close()
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA user_version = 99")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(LogTooNew, match="has schema 99, this program knows up to 2"):
        opened(path, write=write)
    assert path.read_bytes() == before


def test_a_truncated_log_is_damaged(path: Path) -> None:
    with opened(path) as store:
        store.log.append(batch("s", 0, *(f"e{n}" for n in range(500))))
    path.write_bytes(path.read_bytes()[: 12 * 4096])
    with pytest.raises(LogCorrupt, match=r"log\.db"), opened(path, write=False) as store:
        store.log.verify()


def test_a_full_disk_refuses_and_what_was_acknowledged_stays(path: Path) -> None:
    opened(path).close()
    program = f"""
import resource, signal
from events.errors import LogUnavailable
from store.opening import absolute_url, open_store
from events.types import AttemptInterrupted, AttemptStarted
from events.work import Stage
from store.log import Append, NewEvent
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = open_store("sqlite:///{path}", write=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
version = 0
def append(size):
    global version
    event = NewEvent(f"e{{version}}", "Happened", 1, b'{{"pad":"' + b"x" * size + b'"}}')
    version = store.log.append(Append("s", version, [event], 1.5e9)).version
try:
    while True:
        append(20_000)
except LogUnavailable as exc:
    print(version, exc)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
append(20_000)
print(version)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    refused, last = done.stdout.splitlines()
    acknowledged = int(refused.split()[0])
    assert acknowledged > 5
    assert "log.db: its disk " in refused
    assert "free" in refused
    assert int(last) == acknowledged + 1
    with opened(path) as store:
        assert [event.event_id for event in store.log.read_stream("s")] == [f"e{n}" for n in range(acknowledged + 1)]
        store.log.verify()


def test_a_full_database_refuses_and_the_batch_can_be_repeated(path: Path) -> None:
    with opened(path) as store:
        assert isinstance(store.log, SqliteLog)
        pages = store.log._file.rows("PRAGMA page_count")[0][0]
        store.log._file.rows(f"PRAGMA max_page_count = {pages}")
        large = Append(
            "s", 0, [NewEvent(f"e{n}", "Happened", 1, b'{"pad":"' + b"x" * 9000 + b'"}') for n in range(9)], AT
        )
        with pytest.raises(LogUnavailable, match=r"log\.db: its disk is full; free some space"):
            store.log.append(large)
        assert store.log.head("s") == 0
        assert list(store.log.read_all()) == []
        store.log._file.rows(f"PRAGMA max_page_count = {pages + 1000}")
        assert store.log.append(large).version == 9
        store.log.verify()


def test_a_batch_that_was_rolled_back_leaves_nothing_to_the_read_models(path: Path) -> None:
    start = AttemptStarted(attempt_id="a", issue_number=1, stage=Stage.TRY_DEFAULT, sweep="x", lease="l", runner="r")
    with opened(path) as store:
        assert isinstance(store.log, SqliteLog)
        pages = store.log._file.rows("PRAGMA page_count")[0][0]
        store.log._file.rows(f"PRAGMA max_page_count = {pages}")
        small = Append("repository:o/r", 0, [NewEvent("a", "AttemptStarted", 1, codec.encode(start))], AT)
        large = Append("s", 0, [new("b", b'{"pad":"' + b"x" * 90_000 + b'"}')], AT)
        with pytest.raises(LogUnavailable, match="its disk is full"):
            store.log.append_many([small, large])
        store.log._file.rows(f"PRAGMA max_page_count = {pages + 1000}")
        interrupted = AttemptInterrupted(attempt_id="a", issue_number=1, reason="")
        end = NewEvent("c", "AttemptInterrupted", 1, codec.encode(interrupted))
        store.log.append(Append("repository:o/r", 0, [end], AT))
        assert store.models.attempts() == []


class _CommitWithoutAnswer(sqlite3.Connection):
    """Commits once and then fails, as a disk may that goes away after its last write."""

    answers = True

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        cursor = super().execute(sql, parameters)
        if sql == "COMMIT" and not self.answers:
            self.answers = True
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        return cursor


def test_an_append_that_happened_although_it_raised_can_be_repeated(path: Path) -> None:
    with opened(path) as store:
        assert isinstance(store.log, SqliteLog)
        store.log.append(batch("s", 0, "a"))
        failing = sqlite3.connect(path, isolation_level=None, factory=_CommitWithoutAnswer)
        store.log._file.connection.close()
        store.log._file._connection = failing
        failing.answers = False
        with pytest.raises(LogUnavailable, match="its disk failed"):
            store.log.append(batch("s", 1, "b"))
        assert store.log.append(batch("s", 2, "c")).seq == 3
        assert store.log.append(batch("s", 1, "b")).duplicate
        assert [event.event_id for event in store.log.read_stream("s")] == ["a", "b", "c"]
        store.log.verify()


def test_somebody_without_permission_is_told_so() -> None:
    program = """
import os, sys
from events.errors import LogUnavailable
from store.opening import absolute_url, open_store
if os.geteuid() == 0:
    os.setuid(65534)
for write in (True, False):
    try:
        open_store(f"sqlite:///{sys.argv[1]}", write=write)
    except LogUnavailable as exc:
        print(exc)
"""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.db"
        opened(path).close()
        path.parent.chmod(0o555)
        try:
            command = [sys.executable, "-c", program, str(path)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        finally:
            path.parent.chmod(0o755)
    writing, reading = done.stdout.splitlines()
    assert writing == (
        f"{path}: log.db.lock beside it cannot be written: Permission denied; make file and folder writable"
    )
    assert reading.startswith(f"{path}: it is read-only; make file and folder writable")


def test_a_log_open_for_reading_takes_no_append(path: Path) -> None:
    opened(path).close()
    with opened(path, write=False) as store, pytest.raises(LogUnavailable, match="open for reading only"):
        store.log.append(batch("s", 0, "a"))


def test_a_closed_log_says_so(path: Path) -> None:
    store = opened(path)
    store.close()
    store.close()
    for call in (lambda: store.log.append(batch("s", 0, "a")), lambda: store.log.head("s")):
        with pytest.raises(LogUnavailable, match="it is closed"):
            call()


def test_another_program_that_keeps_the_file_locked_is_named_as_the_cause(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.sqlite_file._BUSY_TIMEOUT_S", 0.05)
    with opened(path) as store:
        raw = sqlite3.connect(path, isolation_level=None)
        raw.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogUnavailable, match="another program keeps it locked"):
            store.log.append(batch("s", 0, "a"))
        raw.close()
        assert store.log.append(batch("s", 0, "a")).version == 1


@pytest.mark.parametrize(
    "url", ["", "postgres://x", "sqlite://x.db", "sqlite:///", "sqlite:///x.db?mode=ro", "headrace.db"]
)
def test_a_url_that_names_no_store_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreUrlError, match="use sqlite:///PATH"):
        open_store(url, write=True)
    assert list(tmp_path.iterdir()) == []


def test_supabase_is_not_there_yet_and_says_so() -> None:
    with pytest.raises(EnvironmentNotReady, match="no Supabase store yet"):
        open_store("supabase", write=True)


def test_relative_and_absolute_urls_name_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_store("sqlite:///a log #1.db", write=True) as store:
        store.log.append(batch("s", 0, "a"))
        digest = store.blobs.put(b"content")
    with open_store(f"sqlite:///{tmp_path}/a log #1.db", write=False) as store:
        assert store.log.head("s") == 1
        assert store.blobs.get(digest) == b"content"
    assert (tmp_path / "a log #1.db.blobs").is_dir()


def test_the_memory_store_has_all_parts() -> None:
    with open_store("memory:", write=True) as store:
        store.log.append(batch("s", 0, "a"))
        assert store.blobs.get(store.blobs.put(b"x")) == b"x"
        assert store.models.attempts() == []


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:///logs/x.db", f"sqlite:///{Path.cwd()}/logs/x.db"),
        ("sqlite:////logs/x.db", "sqlite:////logs/x.db"),
        ("memory:", "memory:"),
        ("sqlite:///", "sqlite:///"),
    ],
)
def test_a_url_can_be_made_independent_of_the_working_folder(url: str, expected: str) -> None:
    assert absolute_url(url) == expected
