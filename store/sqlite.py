"""The event log in one SQLite file.

An ``append`` that returned is on the disk (WAL, ``synchronous=FULL``, both read back): it survives SIGKILL and a power
cut. One that raised ``LogUnavailable`` may have happened: repeat it with the same event ids. The one writing process
holds ``PATH.lock``, which dies with it; readers need no lock. Read models change in the transaction that records the
events. Triggers refuse UPDATE and DELETE on events, whoever tries.

A writer is meant for one thread (the log writer actor); calls from several take turns.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count, starmap
from pathlib import Path

from msgspec.structs import astuple

from events.codec import decode
from events.errors import EventIdReused, LogCorrupt, UnknownEventType, VersionConflict
from events.replay import Stored
from store.log import (
    GENESIS,
    Append,
    Appended,
    EventLog,
    NewEvent,
    RecordedEvent,
    Refused,
    Snapshot,
    StreamInfo,
    chain_hashes,
    check_batch,
    microseconds,
    resolve_repeat,
)
from store.read_models import PROJECTED, project
from store.sqlite_file import SqliteFile
from store.sqlite_models import SqliteModels, SqliteTables
from store.sqlite_schema import SNAPSHOTS_SINCE

__all__ = ["SqliteLog"]

_PAGE = 1000
_IDS_PER_QUERY = 500
_MAX_CACHED_HEADS = 50_000

_ROW = "(?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT = f"INSERT INTO events VALUES {_ROW}"  # noqa: S608
_INSERTS = [(rows, f"{_INSERT}{f', {_ROW}' * (rows - 1)}") for rows in (64, 16)]
"""Statements for many rows, the largest first: a row of theirs costs two thirds of one inserted alone."""
_SELECT = (
    "SELECT seq, stream, version, event_id, type, schema, recorded_us / 1000000.0, CAST(data AS BLOB), hash FROM events"
)
_PAYLOADS = (
    f"SELECT version, type, schema, data FROM events WHERE stream = ? AND version > ? ORDER BY version LIMIT {_PAGE}"  # noqa: S608
)
_STREAMS = """
    WITH RECURSIVE names (stream) AS (
        SELECT min(stream) FROM events WHERE stream >= :prefix
        UNION ALL
        SELECT (SELECT min(stream) FROM events WHERE stream > names.stream) FROM names
        WHERE substr(names.stream, 1, length(:prefix)) = :prefix
    )
    SELECT stream, version, hash FROM events
    JOIN names USING (stream)
    WHERE substr(stream, 1, length(:prefix)) = :prefix
      AND version = (SELECT max(version) FROM events AS last WHERE last.stream = names.stream)
    ORDER BY stream
"""

_Head = tuple[int, str]


class SqliteLog(EventLog):
    """An event log at ``path`` (see the module for its guarantees and ``store.opening`` for what opening raises)."""

    def __init__(self, path: Path, *, write: bool, holder: str, new_id: Callable[[], str]) -> None:
        self._file = SqliteFile(path, write=write, holder=holder, new_id=new_id)
        self.log_id = self._file.log_id
        self.models = SqliteModels(self._file, log=self)
        self._tables = SqliteTables(self._file)
        self._heads: dict[str, _Head] = {}
        self._seq: int | None = None

    def append(self, batch: Append) -> Appended:
        if len(batch.events) == 1 and batch.events[0].type not in PROJECTED:
            with self._file.turn:
                appended = self._append_one(batch, batch.events[0])
            if appended is not None:
                return appended
        return super().append(batch)

    def _append_one(self, batch: Append, event: NewEvent) -> Appended | None:
        """Records one event behind a head that is known, by a statement that is a transaction of its own.

        ``None``: that is not enough for this batch, and nothing was recorded.
        """
        stream, head, seq = batch.stream, self._heads.get(batch.stream), self._seq
        if head is None or seq is None or head[0] != batch.expected_version:
            return None
        version, seq, recorded_us = head[0] + 1, seq + 1, microseconds(batch.at)
        (hash_,) = chain_hashes(stream, batch.events, version=head[0], previous=head[1], recorded_us=recorded_us)
        data = event.data.decode()
        row = (seq, stream, version, event.event_id, event.type, event.schema, recorded_us, data, hash_)
        del self._heads[stream]  # until it is committed
        self._seq = None
        try:
            self._file.connection.execute(_INSERT, row)
        except sqlite3.IntegrityError:
            return None
        except sqlite3.Error as exc:
            raise self._file.meaning(exc) from exc
        self._heads[stream], self._seq = (version, hash_), seq
        return Appended(stream, version, seq)

    def append_many(self, batches: Sequence[Append]) -> list[Appended | Refused]:
        for batch in batches:
            check_batch(batch)
        if not batches:
            return []
        try:
            return self._commit(batches, look_ids_up=False)
        except sqlite3.IntegrityError:  # an event id is known: find out which, and what for
            return self._commit(batches, look_ids_up=True)

    def _commit(self, batches: Sequence[Append], *, look_ids_up: bool) -> list[Appended | Refused]:
        with self._file.turn:
            heads, seq = self._heads, self._seq
            # what is known of the log is forgotten until the transaction is committed
            self._heads, self._seq = {}, None
            try:
                with self._file.transaction() as connection:
                    group = _Group(connection, self._tables, known_heads=heads, seq=seq)
                    results = [group.append(batch, look_ids_up=look_ids_up) for batch in batches]
                    self._tables.flush()
            finally:
                self._tables.forget()
            if len(heads) < _MAX_CACHED_HEADS:
                heads.update(group.heads)
                self._heads = heads
            self._seq = group.seq
        return results

    def read_stream(self, stream: str, *, after: int = 0, limit: int | None = None) -> Iterator[RecordedEvent]:
        sql = f"{_SELECT} WHERE stream = ? AND version > ? ORDER BY version LIMIT ?"
        left = limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            page = self._page(sql, (stream, after, size))
            yield from page
            if len(page) < size:
                return
            after = page[-1].version
            left = None if left is None else left - size

    def read_all(self, *, after: int = 0, limit: int | None = None) -> Iterator[RecordedEvent]:
        end, left = self.last_seq(), limit
        while after < end and (left is None or left > 0):
            size = _PAGE if left is None else min(_PAGE, left)
            page = self._page(f"{_SELECT} WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?", (after, end, size))
            if not page:
                return
            yield from page
            after = page[-1].seq
            left = None if left is None else left - size

    def _page(self, sql: str, parameters: Sequence[object]) -> list[RecordedEvent]:
        try:
            return list(starmap(RecordedEvent, self._file.rows(sql, parameters)))
        except LogCorrupt:
            for event in starmap(RecordedEvent, self._file.lenient_rows(sql, parameters)):
                if "\ufffd" in f"{event.stream}{event.event_id}{event.type}{event.hash}":
                    where = f"stream {event.stream} version {event.version}"
                    raise LogCorrupt(where=where, detail="it is not UTF-8") from None
            raise

    def payloads(self, stream: str, *, after: int = 0) -> Iterator[Stored]:
        while page := self._payload_page(stream, after):
            yield from page
            after = page[-1][0]

    def _payload_page(self, stream: str, after: int) -> list[Stored]:
        try:
            return self._file.rows(_PAYLOADS, (stream, after))
        except LogCorrupt:
            list(self.read_stream(stream, after=after, limit=_PAGE))  # names the event that cannot be read
            raise

    def hash_at(self, stream: str, version: int) -> str | None:
        found = self._file.rows("SELECT hash FROM events WHERE stream = ? AND version = ?", (stream, version))
        return str(found[0][0]) if found else None

    def snapshot(self, stream: str) -> Snapshot | None:
        if self._file.schema < SNAPSHOTS_SINCE:
            return None
        found = self._file.rows("SELECT * FROM snapshots WHERE stream = ?", (stream,))
        return Snapshot(*found[0]) if found else None

    def put_snapshot(self, snapshot: Snapshot) -> None:
        try:
            with self._file.transaction() as connection:
                connection.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?)", astuple(snapshot))
        except sqlite3.IntegrityError as exc:
            raise ValueError(f"stream {snapshot.stream} is pruned beyond version {snapshot.version}") from exc

    def head(self, stream: str) -> int:
        return int(self._file.rows("SELECT coalesce(max(version), 0) FROM events WHERE stream = ?", (stream,))[0][0])

    def pruned(self) -> dict[str, StreamInfo]:
        if self._file.schema < SNAPSHOTS_SINCE:
            return {}
        rows = self._file.rows("SELECT stream, version, hash FROM pruned ORDER BY stream")
        return {row[0]: StreamInfo(*row) for row in rows}

    def remove_below(self, stream: str, version: int) -> int:
        last = self.hash_at(stream, version - 1)
        if last is None:
            return 0
        try:
            with self._file.transaction() as connection:
                connection.execute("INSERT OR REPLACE INTO pruned VALUES (?, ?, ?)", (stream, version - 1, last))
                return connection.execute(
                    "DELETE FROM events WHERE stream = ? AND version < ?", (stream, version)
                ).rowcount
        except sqlite3.IntegrityError as exc:
            raise ValueError(f"stream {stream}: no snapshot covers what is below version {version}") from exc

    def streams(self, prefix: str = "") -> list[StreamInfo]:
        return list(starmap(StreamInfo, self._file.rows(_STREAMS, {"prefix": prefix})))

    def verify(self) -> list[StreamInfo]:
        problems = self._file.rows("PRAGMA integrity_check(1)")
        infos = super().verify()
        if problems != [("ok",)]:
            raise LogCorrupt(where=str(self._file.path), detail=str(problems[0][0]))
        return infos

    def last_seq(self) -> int:
        return int(self._file.rows("SELECT coalesce(max(seq), 0) FROM events")[0][0])

    def close(self) -> None:
        self._file.close()


class _Group:
    """The batches of one transaction: what they see of each other, and what they leave to the read models."""

    def __init__(
        self, connection: sqlite3.Connection, tables: SqliteTables, *, known_heads: dict[str, _Head], seq: int | None
    ) -> None:
        self.heads: dict[str, _Head] = {}
        self._connection = connection
        self._tables = tables
        self._known_heads = known_heads
        if seq is None:
            seq = connection.execute("SELECT coalesce(max(seq), 0) FROM events").fetchone()[0]
        self.seq: int = seq

    def append(self, batch: Append, *, look_ids_up: bool) -> Appended | Refused:
        head = self._head(batch.stream)
        expected = batch.expected_version == head[0]
        if look_ids_up or not expected:
            repeat = self._repeat(batch)
            if repeat is not None:
                return repeat
        if not expected:
            return VersionConflict(stream=batch.stream, expected=batch.expected_version, actual=head[0])
        recorded = self._record(batch, head)
        if isinstance(recorded, UnknownEventType) and not look_ids_up:
            return self._repeat(batch) or recorded
        return recorded

    def _repeat(self, batch: Append) -> Appended | EventIdReused | None:
        """What a batch is of whose event ids some are known; none if all are new."""
        known = self._known(batch)
        if any(known) or len({event.event_id for event in batch.events}) < len(known):
            return resolve_repeat(batch, known)
        return None

    def _record(self, batch: Append, head: _Head) -> Appended | UnknownEventType:
        stream, recorded_us, (version, previous) = batch.stream, microseconds(batch.at), head
        try:
            projected = [
                decode(event.type, event.schema, event.data) for event in batch.events if event.type in PROJECTED
            ]
        except UnknownEventType as refusal:
            return refusal
        hashes = chain_hashes(stream, batch.events, version=version, previous=previous, recorded_us=recorded_us)
        rows = [
            (seq, stream, version, event.event_id, event.type, event.schema, recorded_us, event.data.decode(), hash_)
            for seq, version, event, hash_ in zip(
                count(self.seq + 1), count(version + 1), batch.events, hashes, strict=False
            )
        ]
        self._insert(rows)
        for event in projected:
            project(stream=stream, at=recorded_us / 1_000_000, event=event, tables=self._tables)
        self.seq += len(hashes)
        self.heads[stream] = (version + len(hashes), hashes[-1])
        return Appended(stream=stream, version=version + len(hashes), seq=self.seq)

    def _insert(self, rows: Sequence[tuple[object, ...]]) -> None:
        start = 0
        for size, statement in _INSERTS:
            while len(rows) - start >= size:
                self._connection.execute(statement, tuple(chain.from_iterable(rows[start : start + size])))
                start += size
        if start < len(rows):
            self._connection.executemany(_INSERT, rows[start:])

    def _head(self, stream: str) -> _Head:
        head = self.heads.get(stream) or self._known_heads.get(stream)
        if head is None:
            sql = "SELECT version, hash FROM events WHERE stream = ? ORDER BY version DESC LIMIT 1"
            head = self._connection.execute(sql, (stream,)).fetchone() or (0, GENESIS)
            self.heads[stream] = head
        return head

    def _known(self, batch: Append) -> list[RecordedEvent | None]:
        ids = [event.event_id for event in batch.events]
        found: dict[str, RecordedEvent] = {}
        for start in range(0, len(ids), _IDS_PER_QUERY):
            some = ids[start : start + _IDS_PER_QUERY]
            sql = f"{_SELECT} WHERE event_id IN ({', '.join('?' * len(some))})"
            found |= {event.event_id: event for event in starmap(RecordedEvent, self._connection.execute(sql, some))}
        return [found.get(event_id) for event_id in ids]
