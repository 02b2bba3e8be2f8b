"""The event log and its read models in memory: for tests, the simulator and dry runs. Gone with the process."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import attrgetter

from events.errors import UnknownEventType, VersionConflict
from events.types import Event
from store.log import (
    GENESIS,
    Append,
    Appended,
    EventLog,
    RecordedEvent,
    Refused,
    Snapshot,
    StreamInfo,
    chain_hashes,
    check_batch,
    microseconds,
    resolve_repeat,
)
from store.read_models import (
    AdmissionRow,
    AttemptRow,
    AttemptState,
    CachedContext,
    ErrorRow,
    ReadModels,
    Row,
    Tables,
    decode_projected,
    fold,
    project,
    refuse_pruned,
)

__all__ = ["MemoryLog", "MemoryModels", "MemoryTables"]


_seq, _version = attrgetter("seq"), attrgetter("version")


class MemoryTables(Tables):
    """Rows in dictionaries by key."""

    def __init__(self) -> None:
        self.admissions: dict[tuple[str, str, int], AdmissionRow] = {}
        self.attempts: dict[str, AttemptRow] = {}
        self.errors: dict[str, ErrorRow] = {}
        self.cached: dict[tuple[str, str, str, int], CachedContext] = {}

    def admission(self, owner: str, repo: str, issue_number: int) -> AdmissionRow | None:
        return self.admissions.get((owner, repo, issue_number))

    def attempt(self, attempt_id: str) -> AttemptRow | None:
        return self.attempts.get(attempt_id)

    def contexts(self, owner: str, repo: str, context: str) -> list[CachedContext]:
        rows = [row for key, row in self.cached.items() if key[:3] == (context, owner, repo)]
        return sorted(rows, key=lambda row: row.issue_number)

    def put(self, row: Row) -> None:
        match row:
            case AdmissionRow():
                self.admissions[row.owner, row.repo, row.issue_number] = row
            case AttemptRow():
                self.attempts[row.attempt_id] = row
            case ErrorRow():
                self.errors[row.attempt_id] = row
            case CachedContext():
                self.cached[row.context, row.owner, row.repo, row.issue_number] = row


class MemoryModels(ReadModels):
    """The read models of a ``MemoryLog``."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.tables = MemoryTables()

    def contexts_of(self, owner: str, repo: str) -> list[CachedContext]:
        rows = [row for row in list(self.tables.cached.values()) if (row.owner, row.repo) == (owner, repo)]
        return sorted(rows, key=lambda row: (row.verified_at, row.issue_number, row.context))

    def attempts(
        self,
        *,
        owner: str | None = None,
        repo: str | None = None,
        issue_number: int | None = None,
        sweep: str | None = None,
        state: AttemptState | None = None,
    ) -> list[AttemptRow]:
        rows = [
            row
            for row in list(self.tables.attempts.values())
            if (owner is None or row.owner == owner)
            and (repo is None or row.repo == repo)
            and (issue_number is None or row.issue_number == issue_number)
            and (sweep is None or row.sweep == sweep)
            and (state is None or row.state == state)
        ]
        return sorted(rows, key=lambda row: (row.started_at, row.attempt_id))

    def errors(
        self, *, owner: str | None = None, repo: str | None = None, issue_number: int | None = None
    ) -> list[ErrorRow]:
        rows = [
            row
            for row in list(self.tables.errors.values())
            if (owner is None or row.owner == owner)
            and (repo is None or row.repo == repo)
            and (issue_number is None or row.issue_number == issue_number)
        ]
        return sorted(rows, key=lambda row: (row.at, row.attempt_id))

    def rebuild(self) -> None:
        refuse_pruned(self._log)
        tables = MemoryTables()
        fold(self._log.read_all(), tables)
        self.tables = tables


class MemoryLog(EventLog):
    """All events in one list; safe to use from several threads."""

    def __init__(self, *, log_id: str) -> None:
        self.log_id = log_id
        self.models = MemoryModels(self)
        self._lock = threading.RLock()
        self._events: list[RecordedEvent] = []
        self._streams: dict[str, list[RecordedEvent]] = {}
        self._by_id: dict[str, RecordedEvent] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._pruned: dict[str, StreamInfo] = {}

    def append_many(self, batches: Sequence[Append]) -> list[Appended | Refused]:
        for batch in batches:
            check_batch(batch)
        with self._lock:
            return [self._append(batch) for batch in batches]

    def _append(self, batch: Append) -> Appended | Refused:
        known = [self._by_id.get(event.event_id) for event in batch.events]
        if any(known) or len({event.event_id for event in batch.events}) < len(known):
            return resolve_repeat(batch, known)
        head = self.head(batch.stream)
        if batch.expected_version != head:
            return VersionConflict(stream=batch.stream, expected=batch.expected_version, actual=head)
        try:
            decoded = [decode_projected(event.type, event.schema, event.data) for event in batch.events]
        except UnknownEventType as refusal:
            return refusal
        return self._record(batch, decoded)

    def _record(self, batch: Append, decoded: list[Event | None]) -> Appended:
        stream = self._streams.setdefault(batch.stream, [])
        recorded_us = microseconds(batch.at)
        at = recorded_us / 1_000_000
        hashes = chain_hashes(
            batch.stream,
            batch.events,
            version=self.head(batch.stream),
            previous=stream[-1].hash if stream else GENESIS,
            recorded_us=recorded_us,
        )
        for event, hash_, projected in zip(batch.events, hashes, decoded, strict=True):
            record = RecordedEvent(
                seq=self._events[-1].seq + 1 if self._events else 1,
                stream=batch.stream,
                version=stream[-1].version + 1 if stream else 1,
                event_id=event.event_id,
                type=event.type,
                schema=event.schema,
                recorded_at=at,
                data=event.data,
                hash=hash_,
            )
            stream.append(record)
            self._events.append(record)
            self._by_id[event.event_id] = record
            if projected is not None:
                project(stream=batch.stream, at=at, event=projected, tables=self.models.tables)
        return Appended(stream=batch.stream, version=stream[-1].version, seq=stream[-1].seq)

    def read_stream(self, stream: str, *, after: int = 0, limit: int | None = None) -> Iterator[RecordedEvent]:
        with self._lock:  # a reader sees whole batches
            events = self._streams.get(stream, [])
            return islice(events[bisect_right(events, after, key=_version) :], limit)

    def read_all(self, *, after: int = 0, limit: int | None = None) -> Iterator[RecordedEvent]:
        with self._lock:
            return islice(self._events[bisect_right(self._events, after, key=_seq) :], limit)

    def snapshot(self, stream: str) -> Snapshot | None:
        return self._snapshots.get(stream)

    def put_snapshot(self, snapshot: Snapshot) -> None:
        removed = self._pruned.get(snapshot.stream)
        if removed is not None and removed.version >= snapshot.version:
            raise ValueError(f"stream {snapshot.stream} is pruned beyond version {snapshot.version}")
        self._snapshots[snapshot.stream] = snapshot

    def head(self, stream: str) -> int:
        events = self._streams.get(stream)
        return events[-1].version if events else 0

    def pruned(self) -> dict[str, StreamInfo]:
        return dict(self._pruned)

    def remove_below(self, stream: str, version: int) -> int:
        with self._lock:
            snapshot = self._snapshots.get(stream)
            if snapshot is None or (snapshot.version, snapshot.hash) != (version, self.hash_at(stream, version)):
                raise ValueError(f"stream {stream}: no snapshot covers what is below version {version}")
            events = self._streams[stream]
            cut = bisect_left(events, version, key=_version)
            if cut:
                gone, self._streams[stream] = events[:cut], events[cut:]
                self._pruned[stream] = StreamInfo(stream, gone[-1].version, gone[-1].hash)
                removed = {event.seq for event in gone}
                self._events = [event for event in self._events if event.seq not in removed]
                for event in gone:
                    del self._by_id[event.event_id]
            return cut

    def streams(self, prefix: str = "") -> list[StreamInfo]:
        return [
            StreamInfo(stream, events[-1].version, events[-1].hash)
            for stream, events in sorted(self._streams.items())
            if stream.startswith(prefix)
        ]

    def last_seq(self) -> int:
        return self._events[-1].seq if self._events else 0

    def close(self) -> None:
        """Nothing is held; the events stay readable."""
