"""The event log and its read models in memory: for tests, the simulator and dry runs. Gone with the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import islice

from events.errors import UnknownEventType, VersionConflict
from events.types import Event
from store.log import (
    GENESIS,
    Append,
    Appended,
    EventLog,
    RecordedEvent,
    Refused,
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
)

__all__ = ["MemoryLog", "MemoryModels", "MemoryTables"]


class MemoryTables(Tables):
    """Rows in dictionaries by key."""

    def __init__(self) -> None:
        self.admissions: dict[tuple[str, str, int], AdmissionRow] = {}
        self.attempts: dict[str, AttemptRow] = {}
        self.errors: dict[str, ErrorRow] = {}
        self.contexts: dict[tuple[str, str, str, int], CachedContext] = {}

    def admission(self, owner: str, repo: str, issue_number: int) -> AdmissionRow | None:
        return self.admissions.get((owner, repo, issue_number))

    def attempt(self, attempt_id: str) -> AttemptRow | None:
        return self.attempts.get(attempt_id)

    def put(self, row: Row) -> None:
        match row:
            case AdmissionRow():
                self.admissions[row.owner, row.repo, row.issue_number] = row
            case AttemptRow():
                self.attempts[row.attempt_id] = row
            case ErrorRow():
                self.errors[row.attempt_id] = row
            case CachedContext():
                self.contexts[row.context, row.owner, row.repo, row.issue_number] = row


class MemoryModels(ReadModels):
    """The read models of a ``MemoryLog``."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self.tables = MemoryTables()

    def contexts_of(self, owner: str, repo: str) -> list[CachedContext]:
        rows = [row for row in list(self.tables.contexts.values()) if (row.owner, row.repo) == (owner, repo)]
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
        tables = MemoryTables()
        fold(self._log.read_all(), tables)
        self.tables = tables


class MemoryLog(EventLog):
    """All events in one list; safe to use from several threads."""

    def __init__(self, *, log_id: str) -> None:
        self.log_id = log_id
        self.models = MemoryModels(self)
        self._lock = threading.Lock()
        self._events: list[RecordedEvent] = []
        self._streams: dict[str, list[RecordedEvent]] = {}
        self._by_id: dict[str, RecordedEvent] = {}

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
            version=len(stream),
            previous=stream[-1].hash if stream else GENESIS,
            recorded_us=recorded_us,
        )
        for event, hash_, projected in zip(batch.events, hashes, decoded, strict=True):
            record = RecordedEvent(
                seq=len(self._events) + 1,
                stream=batch.stream,
                version=len(stream) + 1,
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
        return Appended(stream=batch.stream, version=len(stream), seq=len(self._events))

    def read_stream(self, stream: str, *, after: int = 0, limit: int | None = None) -> Iterator[RecordedEvent]:
        events = self._streams.get(stream, [])
        return islice(events[after:], limit)

    def read_all(self, *, after: int = 0, limit: int | None = None) -> Iterator[RecordedEvent]:
        return islice(self._events[after:], limit)

    def head(self, stream: str) -> int:
        return len(self._streams.get(stream, ()))

    def streams(self, prefix: str = "") -> list[StreamInfo]:
        return [
            StreamInfo(stream, len(events), events[-1].hash)
            for stream, events in sorted(self._streams.items())
            if stream.startswith(prefix)
        ]

    def close(self) -> None:
        """Nothing is held; the events stay readable."""
