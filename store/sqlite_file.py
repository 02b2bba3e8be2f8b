"""One SQLite file: how it is opened, locked, set to be durable, and what its errors mean.

- ``journal_mode=WAL`` and ``synchronous=FULL`` are set and read back; a file that does not keep them is refused.
- One process at a time writes: it holds a lock on ``PATH.lock``, which the kernel gives back when the process dies.
- Readers take no lock, open the file read-only and see whole transactions only, while a writer writes.
- Every ``sqlite3`` error leaves as one of ours, said in terms of the file and what to do about it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from events.errors import HeadraceError, InputError, LogCorrupt, LogLocked, LogTooNew, LogUnavailable
from store.sqlite_schema import APPLICATION_ID, SCHEMA, STEPS

__all__ = ["SqliteFile"]

_BUSY_TIMEOUT_S = 5.0
_CACHE_KIB = 65536
_FULL = 2

_AWAY = {
    sqlite3.SQLITE_FULL: "its disk is full; free some space",
    sqlite3.SQLITE_READONLY: "it is read-only; make file and folder writable",
    sqlite3.SQLITE_PERM: "permission is denied; correct the permissions of file and folder",
    sqlite3.SQLITE_AUTH: "permission is denied; correct the permissions of file and folder",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check that file and folder can be read and written",
    sqlite3.SQLITE_IOERR: "its disk failed to read or write; check free space, quota and the disk",
    sqlite3.SQLITE_BUSY: "another program keeps it locked; close that program",
    sqlite3.SQLITE_LOCKED: "another program keeps it locked; close that program",
    sqlite3.SQLITE_PROTOCOL: "another program keeps it locked; close that program",
    sqlite3.SQLITE_NOMEM: "memory is exhausted; free some",
    sqlite3.SQLITE_INTERRUPT: "the call was interrupted; repeat it",
    sqlite3.SQLITE_MISUSE: "it is closed; open it again",
}


class SqliteFile:
    """An open log file. Its methods may be called from several threads; they take turns.

    Raises (all methods): ``LogUnavailable``, ``LogCorrupt``. The constructor also: ``InputError`` (nothing to read, or
    another program's database), ``LogLocked``, ``LogTooNew``; then nothing stays open and nothing was changed.
    """

    def __init__(self, path: Path, *, write: bool, holder: str, new_id: Callable[[], str]) -> None:
        self.path = path
        self.write = write
        self.turn = threading.RLock()
        self._lock_file: int | None = None
        self._connection: sqlite3.Connection | None = None
        self._check_place()
        try:
            if write:
                self._lock_file = _lock(path.with_name(path.name + ".lock"), path=path, holder=holder)
            with self.translated():
                self._connection = self._connect()
                self._identify(new_id)
                self.log_id = str(self._connection.execute("SELECT value FROM meta WHERE key = 'log_id'").fetchone()[0])
        except BaseException:
            self.close()
            raise

    def _check_place(self) -> None:
        if not self.write and not self.path.is_file():
            raise InputError(f"{self.path}: there is no log to read; name an existing one with --store sqlite:///PATH")
        if not self.path.parent.is_dir():
            raise LogUnavailable(f"{self.path}: its folder does not exist; create {self.path.parent}")

    def _connect(self) -> sqlite3.Connection:
        mode = "rwc" if self.write else "ro"
        connection = sqlite3.connect(
            f"file:{quote(str(self.path))}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=_BUSY_TIMEOUT_S,
        )
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        return connection

    def _identify(self, new_id: Callable[[], str]) -> None:
        application, schema = self._pragma("application_id"), self._pragma("user_version")
        empty = not (application or schema or self.rows("SELECT 1 FROM sqlite_master LIMIT 1"))
        if empty and not self.write:
            raise InputError(
                f"{self.path}: the file holds no log yet; name an existing one with --store sqlite:///PATH"
            )
        if not empty and application != APPLICATION_ID:
            raise InputError(
                f"{self.path}: a database of another program; name another file with --store sqlite:///PATH"
            )
        if schema > SCHEMA:
            raise LogTooNew(where=str(self.path), found=schema, known=SCHEMA)
        self.schema = int(schema)
        if not self.write:
            return
        self._make_durable()
        if schema < SCHEMA:
            with self.transaction() as connection:
                for statement in chain.from_iterable(STEPS[schema:]):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {SCHEMA}")
                if empty:
                    connection.execute("INSERT INTO meta VALUES ('log_id', ?)", (new_id(),))
            self.schema = SCHEMA

    def _make_durable(self) -> None:
        self.rows("PRAGMA journal_mode = WAL")
        self.rows("PRAGMA synchronous = FULL")
        found = (self._pragma("journal_mode"), self._pragma("synchronous"))
        if found != ("wal", _FULL):
            raise LogUnavailable(
                f"{self.path}: journal mode {found[0]}, synchronous {found[1]}: this file system cannot keep a log "
                f"durable; put it on a local disk"
            )

    def _pragma(self, name: str) -> Any:
        return self.rows(f"PRAGMA {name}")[0][0]

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection; raises ``LogUnavailable`` after ``close``."""
        if self._connection is None:
            raise LogUnavailable(f"{self.path}: {_AWAY[sqlite3.SQLITE_MISUSE]}")
        return self._connection

    def rows(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> list[tuple[Any, ...]]:
        """All rows of one statement."""
        with self.turn, self.translated():
            return self.connection.execute(sql, parameters).fetchall()

    def lenient_rows(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """As ``rows``, but damaged text is read too, with U+FFFD for what is no UTF-8."""
        with self.turn, self.translated():
            self.connection.text_factory = lambda text: text.decode("utf-8", "replace")
            try:
                return self.connection.execute(sql, parameters).fetchall()
            finally:
                self.connection.text_factory = str

    def transaction(self) -> _Transaction:
        """A durable transaction: committed when its block ends, rolled back when the block raises.

        ``sqlite3.IntegrityError`` passes through as it is: what it means is the caller's to say.
        """
        if not self.write:
            raise LogUnavailable(f"{self.path}: the log is open for reading only; open it for writing")
        return _Transaction(self)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """The one place where ``sqlite3`` errors become ours."""
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as exc:
            raise self.meaning(exc) from exc
        except UnicodeDecodeError as exc:  # a damaged schema is quoted in the message of its error
            raise LogCorrupt(where=str(self.path), detail="its schema is not UTF-8") from exc

    def meaning(self, exc: sqlite3.Error) -> HeadraceError:
        """What an error of ``sqlite3`` says of this file."""
        code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if isinstance(exc, sqlite3.ProgrammingError):
            code = sqlite3.SQLITE_MISUSE
        if code in _AWAY:
            return LogUnavailable(f"{self.path}: {_AWAY[code]} ({exc}); what was acknowledged stays")
        return LogCorrupt(where=str(self.path), detail=str(exc))

    def close(self) -> None:
        """Closes the file and gives the lock back; closing twice is harmless."""
        with self.turn:
            connection, self._connection = self._connection, None
            if connection is not None:
                with suppress(sqlite3.Error):
                    connection.close()
            lock_file, self._lock_file = self._lock_file, None
            if lock_file is not None:
                os.close(lock_file)


class _Transaction:
    """See ``SqliteFile.transaction``. A class of its own, not a generator: it is entered for every append."""

    __slots__ = ("_connection", "_file")

    def __init__(self, file: SqliteFile) -> None:
        self._file = file

    def __enter__(self) -> sqlite3.Connection:
        file = self._file
        file.turn.acquire()
        try:
            self._connection = file.connection
            self._connection.execute("BEGIN IMMEDIATE")
        except BaseException as exc:
            file.turn.release()
            if isinstance(exc, sqlite3.Error):
                raise file.meaning(exc) from exc
            raise
        return self._connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._connection.execute("COMMIT")
        except sqlite3.Error as exc:
            error = exc
            raise self._file.meaning(exc) from exc
        finally:
            if error is not None and self._connection.in_transaction:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
            self._file.turn.release()
        if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
            raise self._file.meaning(error) from error


def _lock(lock_path: Path, *, path: Path, holder: str) -> int:
    try:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as exc:
        raise LogUnavailable(
            f"{path}: {lock_path.name} beside it cannot be written: {exc.strerror}; make file and folder writable"
        ) from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        me = f"process {os.getpid()} on {socket.gethostname()}" + (f" ({holder})" if holder else "")
        with suppress(OSError):  # on a full disk the lock holds without its text
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, me.encode(), 0)
    except BlockingIOError as exc:
        text = os.pread(descriptor, 4096, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise LogLocked(path=str(path), holder=text or "another process") from exc
    except OSError as exc:
        os.close(descriptor)
        raise LogUnavailable(f"{path}: its file system has no locks: {exc.strerror}; put it on a local disk") from exc
    return descriptor
