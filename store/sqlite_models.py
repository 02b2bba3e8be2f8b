"""The read models of a SQLite log: rows buffered within a transaction, written at its end, read back as structs."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec
from msgspec.structs import astuple

from store.log import EventLog
from store.memory import MemoryTables
from store.read_models import (
    AdmissionRow,
    AttemptRow,
    AttemptState,
    CachedContext,
    ErrorRow,
    ReadModels,
    Row,
    fold,
    refuse_pruned,
)
from store.sqlite_file import SqliteFile
from store.sqlite_schema import SESSIONS_SINCE, TRUST_SINCE

__all__ = ["TABLES", "SqliteModels", "SqliteTables"]

_REBUILD_PAGE = 2000

R = TypeVar("R", bound=msgspec.Struct)


class _Table(Generic[R]):
    """How a struct is a row of a table: one column a field, the fields in ``json`` as JSON text.

    ``added``: how many of the last columns came with which schema, the latest last; a reader may meet an older log.
    """

    def __init__(
        self, name: str, row: type[R], *, json: Sequence[str] = (), added: Mapping[int, int] | None = None
    ) -> None:
        self.name, self.row, self.json = name, row, frozenset(json)
        self.columns = row.__struct_fields__
        self._added = dict(added or {})
        columns = ", ".join(f'"{column}"' for column in self.columns)
        self._json_at = [position for position, column in enumerate(self.columns) if column in self.json]
        marks = ", ".join("?" * len(self.columns))
        self.insert = f"INSERT OR REPLACE INTO {name} ({columns}) VALUES ({marks})"  # noqa: S608

    def write(self, connection: sqlite3.Connection, rows: Sequence[R]) -> None:
        if rows:
            connection.executemany(self.insert, map(self._parameters, rows))

    def _parameters(self, row: R) -> Sequence[object]:
        values = list(astuple(row))
        for position in self._json_at:
            values[position] = msgspec.json.encode(values[position]).decode()
        return values

    def read(self, file: SqliteFile, order: str = "", /, **filters: object) -> list[R]:
        given = {column: value for column, value in filters.items() if value is not None}
        where = " AND ".join(f'"{column}" = ?' for column in given)
        known = len(self.columns) - sum(number for since, number in self._added.items() if since > file.schema)
        columns = ", ".join(f'"{column}"' for column in self.columns[:known])
        sql = f"SELECT {columns} FROM {self.name}"  # noqa: S608
        sql += (f" WHERE {where}" if where else "") + (f" ORDER BY {order}" if order else "")
        return [self._row(values) for values in file.rows(sql, tuple(given.values()))]

    def _row(self, values: Sequence[object]) -> R:
        fields: dict[str, Any] = dict(zip(self.columns, values, strict=False))
        for column in self.json:
            fields[column] = msgspec.json.decode(fields[column])
        return msgspec.convert(fields, self.row, strict=False)


_ADMISSIONS = _Table("admissions", AdmissionRow, json=["rules"])
_ATTEMPTS = _Table("build_attempts", AttemptRow, json=["blobs"], added={TRUST_SINCE: 2, SESSIONS_SINCE: 13})
_ERRORS = _Table("error_logs", ErrorRow, json=["blobs"], added={SESSIONS_SINCE: 11})
_CONTEXTS = _Table("build_contexts", CachedContext, json=["rules"], added={TRUST_SINCE: 4})

TABLES: Sequence[_Table[Any]] = (_ADMISSIONS, _ATTEMPTS, _ERRORS, _CONTEXTS)
"""The tables that are read models, and the structs of their rows."""


class SqliteTables(MemoryTables):
    """The rows that one transaction touches; ``flush`` writes them, all at once, before it commits."""

    def __init__(self, file: SqliteFile) -> None:
        super().__init__()
        self._file = file
        self._touched = False

    def put(self, row: Row) -> None:
        super().put(row)
        self._touched = True

    def admission(self, owner: str, repo: str, issue_number: int) -> AdmissionRow | None:
        buffered = super().admission(owner, repo, issue_number)
        if buffered is not None:
            return buffered
        found = _ADMISSIONS.read(self._file, owner=owner, repo=repo, issue_number=issue_number)
        return found[0] if found else None

    def attempt(self, attempt_id: str) -> AttemptRow | None:
        buffered = super().attempt(attempt_id)
        if buffered is not None:
            return buffered
        found = _ATTEMPTS.read(self._file, attempt_id=attempt_id)
        return found[0] if found else None

    def contexts(self, owner: str, repo: str, context: str) -> list[CachedContext]:
        stored = _CONTEXTS.read(self._file, owner=owner, repo=repo, context=context)
        found = {row.issue_number: row for row in (*stored, *super().contexts(owner, repo, context))}
        return [found[number] for number in sorted(found)]

    def flush(self) -> None:
        """Writes what was put since the last time."""
        if not self._touched:
            return
        connection = self._file.connection
        _ADMISSIONS.write(connection, list(self.admissions.values()))
        _ATTEMPTS.write(connection, list(self.attempts.values()))
        _ERRORS.write(connection, list(self.errors.values()))
        _CONTEXTS.write(connection, list(self.cached.values()))
        self.forget()

    def forget(self) -> None:
        """Drops what was put since the last time: its transaction was rolled back."""
        if not self._touched:
            return
        for buffer in (self.admissions, self.attempts, self.errors, self.cached):
            buffer.clear()
        self._touched = False


class SqliteModels(ReadModels):
    """The read models of a ``SqliteLog``; usable by its readers and its writer."""

    def __init__(self, file: SqliteFile, *, log: EventLog) -> None:
        self._file, self._log = file, log

    def contexts_of(self, owner: str, repo: str) -> list[CachedContext]:
        return _CONTEXTS.read(self._file, "verified_at, issue_number, context", owner=owner, repo=repo)

    def attempts(
        self,
        *,
        owner: str | None = None,
        repo: str | None = None,
        issue_number: int | None = None,
        sweep: str | None = None,
        state: AttemptState | None = None,
    ) -> list[AttemptRow]:
        return _ATTEMPTS.read(
            self._file,
            "started_at, attempt_id",
            owner=owner,
            repo=repo,
            issue_number=issue_number,
            sweep=sweep,
            state=state,
        )

    def errors(
        self, *, owner: str | None = None, repo: str | None = None, issue_number: int | None = None
    ) -> list[ErrorRow]:
        return _ERRORS.read(self._file, "at, attempt_id", owner=owner, repo=repo, issue_number=issue_number)

    def rebuild(self) -> None:
        refuse_pruned(self._log)
        with self._file.transaction() as connection:
            for table in TABLES:
                connection.execute(f"DELETE FROM {table.name}")  # noqa: S608
            tables = SqliteTables(self._file)
            events = self._log.read_all()
            while page := list(islice(events, _REBUILD_PAGE)):
                fold(page, tables)
                tables.flush()
