"""A SQLite log that is missing, foreign, newer, damaged, full, locked or forbidden: a clear error, nothing changed."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from events import codec
from events.errors import (
    InputError,
    LogCorrupt,
    LogTooNew,
    LogUnavailable,
    StoreUrlError,
)
from events.types import AttemptInterrupted, AttemptStarted
from events.work import Stage
from store.log import Append, NewEvent
from store.opening import absolute_url, open_store
from store.sqlite import SqliteLog
from tests.store.test_log_contract import AT, batch, new
from tests.store.test_sqlite import ROOT, opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


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
    with pytest.raises(LogTooNew, match="has schema 99, this program knows up to 4"):
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
        committed = sql == "COMMIT" or (sql.startswith("INSERT") and not self.in_transaction)
        if committed and not self.answers:
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
