"""The event log: what every backend guarantees, and the hash chain that all of them keep.

- A batch is recorded whole or not at all, and is durable when ``append`` returns.
- A stream's versions are exactly 1..head. ``expected_version`` is the head that the writer knows, 0 for "no stream
  yet"; of several writers with an equal expectation one wins, the others get ``VersionConflict``.
- Repeating a batch (the same event ids) returns the positions that it got the first time; this is looked at before the
  expected version, so an answer lost on its way is got by asking again.
- ``seq`` orders all events. A reader that goes on from the last ``seq`` it saw misses nothing, while writers write.
- Every event carries a hash over its content and its stream's previous hash: what was changed later is found and named
  (``verify_chain``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType, TracebackType
from typing import Self

import msgspec

from events.errors import EventIdReused, LogCorrupt, UnknownEventType, VersionConflict
from events.replay import Stored

__all__ = [
    "GENESIS",
    "Append",
    "Appended",
    "EventLog",
    "NewEvent",
    "RecordedEvent",
    "Refused",
    "Snapshot",
    "StreamInfo",
    "chain_hash",
    "chain_hashes",
    "check_batch",
    "microseconds",
    "resolve_repeat",
    "snapshot_digest",
    "verify_chain",
]

GENESIS = "0" * 64
"""What a stream's first event has as its previous hash."""

Refused = VersionConflict | EventIdReused | UnknownEventType
"""Why a batch was not recorded. ``UnknownEventType``: a read model has to read one of its events and cannot."""


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """An event to record: a JSON object in ``data``, its type and schema, and an id that stays with it in retries."""

    event_id: str
    type: str
    schema: int
    data: bytes


class Append(msgspec.Struct, frozen=True):
    """Events for one stream, all or none. ``at``: POSIX seconds, kept to the microsecond as ``recorded_at``."""

    stream: str
    expected_version: int
    events: list[NewEvent]
    at: float


class Appended(msgspec.Struct, frozen=True):
    """Where a batch is: version and ``seq`` of its last event. ``duplicate``: it was there before this call."""

    stream: str
    version: int
    seq: int
    duplicate: bool = False


class RecordedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event as it is stored. ``recorded_at``: POSIX seconds; ``hash``: SHA-256, hexadecimal (``chain_hash``)."""

    seq: int
    stream: str
    version: int
    event_id: str
    type: str
    schema: int
    recorded_at: float
    data: bytes
    hash: str


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream's head: version and hash of its last event."""

    stream: str
    version: int
    hash: str


class Snapshot(msgspec.Struct, frozen=True):
    """A stream's packed state at ``version``, where the event with ``hash`` is. ``shape``: of the state's fields."""

    stream: str
    version: int
    hash: str
    shape: str
    state: bytes
    digest: str


def snapshot_digest(snapshot: Snapshot) -> str:
    """The ``digest`` that a snapshot must have: SHA-256 over all else."""
    header = f"{snapshot.version}\n{snapshot.hash}\n{snapshot.shape}\n{len(snapshot.stream)}\n{snapshot.stream}"
    return sha256(header.encode() + snapshot.state).hexdigest()


class EventLog(ABC):
    """An append-only log of streams. A call that raised ``LogUnavailable`` may have happened: repeat it as it was."""

    log_id: str
    """Random id, made when the log was created and stored in it: two logs are never taken for each other."""

    def append(self, batch: Append) -> Appended:
        """Records one batch, durably.

        Raises:
            VersionConflict: the stream is not at ``expected_version``.
            EventIdReused: an event id of the batch is recorded with another payload, or only a part of it is recorded.
            UnknownEventType: a read model cannot read an event of the batch.
            LogUnavailable: the log cannot be written now; the batch may be repeated.
            ValueError: the batch is empty, or its data is not UTF-8.
        """
        (result,) = self.append_many([batch])
        if isinstance(result, Appended):
            return result
        raise result

    @abstractmethod
    def append_many(self, batches: Sequence[Append]) -> list[Appended | Refused]:
        """Records several batches in one durable transaction (group commit); results are in the order of ``batches``.

        Each batch is recorded whole or refused alone; a later one sees those before it. When this raises
        (``LogUnavailable``, ``LogCorrupt``, ``ValueError``), none of them is recorded or, after ``LogUnavailable``,
        perhaps all that were not to be refused.
        """

    @abstractmethod
    def read_stream(self, stream: str, *, after: int = 0, limit: int | None = None) -> Iterator[RecordedEvent]:
        """The events of ``stream`` with a version above ``after``, in order, at most ``limit``."""

    @abstractmethod
    def read_all(self, *, after: int = 0, limit: int | None = None) -> Iterator[RecordedEvent]:
        """All events with a ``seq`` above ``after``, in order, at most ``limit``; ends at the head it finds then."""

    def payloads(self, stream: str, *, after: int = 0) -> Iterator[Stored]:
        """As ``read_stream``, but only what folding needs: the fast way to read a long stream."""
        for one in self.read_stream(stream, after=after):
            yield one.version, one.type, one.schema, one.data

    def hash_at(self, stream: str, version: int) -> str | None:
        """The hash of one event; none if there is no such event."""
        for one in self.read_stream(stream, after=version - 1, limit=1):
            return one.hash if one.version == version else None
        return None

    @abstractmethod
    def snapshot(self, stream: str) -> Snapshot | None:
        """What ``put_snapshot`` stored last for a stream, unchecked (see :mod:`store.snapshots`)."""

    @abstractmethod
    def put_snapshot(self, snapshot: Snapshot) -> None:
        """Stores a snapshot in place of the stream's last one, durably.

        Raises:
            ValueError: the stream was pruned beyond its version: it would cover too little.
            LogUnavailable: the log cannot be written now.
        """

    @abstractmethod
    def head(self, stream: str) -> int:
        """The version of the last event of ``stream``; 0 if there is no such stream."""

    @abstractmethod
    def pruned(self) -> dict[str, StreamInfo]:
        """The last event that was removed of each stream of which some were (:mod:`store.pruning`)."""

    @abstractmethod
    def remove_below(self, stream: str, version: int) -> int:
        """Removes the events of ``stream`` below ``version``, durably, and says how many; for ``store.pruning``.

        Raises:
            ValueError: no snapshot of the stream is at ``version``, with the hash of the event there.
            LogUnavailable: the log cannot be written now.
        """

    @abstractmethod
    def streams(self, prefix: str = "") -> list[StreamInfo]:
        """The heads of all streams whose names start with ``prefix``, by name."""

    def verify(self) -> list[StreamInfo]:
        """Reads the whole log and checks it: ``seq`` without gaps, every stream's versions and hash chain, the heads.

        Raises:
            LogCorrupt: naming stream and version of the first event that is not what was written.
        """
        pruned = self.pruned()
        before = {info.stream: info for info in self.streams()}
        found = verify_chain(_gapless(self.read_all(), pruned=pruned), pruned=pruned)
        after = {info.stream: info for info in self.streams()}  # a writer may have gone on meanwhile
        for stream in sorted(found.keys() | before.keys()):
            heads = (before.get(stream), after.get(stream))
            read = found.get(stream)
            ends = {head.version: head for head in heads if head is not None}
            if read is None or heads[1] is None or not min(ends) <= read.version <= max(ends):
                raise LogCorrupt(where=f"stream {stream}", detail="its events and its head do not agree")
            if ends.get(read.version, read) != read:
                raise LogCorrupt(where=f"stream {stream}", detail="its events and its head do not agree")
        return [found[stream] for stream in sorted(found)]

    def verify_recent(self, count: int = 200) -> None:
        """Checks the last ``count`` events as :meth:`verify` checks all: what a crash or a bad disk touches first.

        Raises:
            LogCorrupt: naming stream and version.
        """
        events = list(self.read_all(after=max(0, self.last_seq() - count)))
        pruned = self.pruned()
        starts: dict[str, StreamInfo] = {}
        for event in events:
            if event.stream in starts:
                continue
            stream, before = event.stream, event.version - 1
            removed = pruned.get(stream)
            if removed is not None and removed.version == before:
                starts[stream] = removed
                continue
            hash_ = self.hash_at(stream, before) if before else GENESIS
            if hash_ is None:
                where = f"stream {stream} version {event.version}"
                raise LogCorrupt(where=where, detail=f"version {before} is missing before it")
            starts[stream] = StreamInfo(stream, before, hash_)
        verify_chain(events, pruned=starts)

    @abstractmethod
    def last_seq(self) -> int:
        """The ``seq`` of the last event of the log; 0 if it is empty."""

    @abstractmethod
    def close(self) -> None:
        """Gives the log up; closing twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_batch(batch: Append) -> None:
    """Raises ``ValueError`` for a batch that no backend can store: without events, or with data that is not UTF-8."""
    if not batch.events:
        raise ValueError(f"stream {batch.stream}: an append needs at least one event")
    for event in batch.events:
        event.data.decode()


def resolve_repeat(batch: Append, known: Sequence[RecordedEvent | None]) -> Appended | EventIdReused:
    """What becomes of a batch of whose event ids some are known; ``known`` holds what is recorded under each of them.

    A repetition is whole: the same stream, order and payloads. Anything else uses an id twice.
    """
    records = [record for record in known if record is not None]
    repeated = len(records) == len(batch.events) and all(
        (record.stream, record.version, record.type, record.schema, record.data)
        == (batch.stream, records[0].version + offset, event.type, event.schema, event.data)
        for offset, (event, record) in enumerate(zip(batch.events, records, strict=True))
    )
    if not repeated:
        return EventIdReused(event_id=_used_twice(batch, known), stream=batch.stream)
    return Appended(stream=batch.stream, version=records[-1].version, seq=records[-1].seq, duplicate=True)


def _used_twice(batch: Append, known: Sequence[RecordedEvent | None]) -> str:
    seen: set[str] = set()
    for event, record in zip(batch.events, known, strict=True):
        payload = (event.type, event.schema, event.data)
        if event.event_id in seen or (record and (record.type, record.schema, record.data) != payload):
            return event.event_id
        seen.add(event.event_id)
    return next(event.event_id for event, record in zip(batch.events, known, strict=True) if record)


def microseconds(at: float) -> int:
    """POSIX seconds as whole microseconds: the precision that every backend stores and hashes."""
    return round(at * 1_000_000)


def chain_hashes(
    stream: str, events: Iterable[NewEvent | RecordedEvent], *, version: int, previous: str, recorded_us: int
) -> list[str]:
    """The hashes of ``events``, which follow version ``version`` of ``stream`` whose hash is ``previous``.

    A hash is the SHA-256 over lines of previous hash, version, schema, microseconds and the lengths in characters of
    stream, event id and type, then these three, then the data: no two different events have the same encoding, and SQL
    can build it too.
    """
    hashes = []
    between = f"\n{recorded_us}\n{len(stream)}\n"
    for event in events:
        version += 1
        event_id, type_ = event.event_id, event.type
        header = (
            f"{previous}\n{version}\n{event.schema}{between}{len(event_id)}\n{len(type_)}\n{stream}{event_id}{type_}"
        )
        previous = sha256(header.encode() + event.data).hexdigest()
        hashes.append(previous)
    return hashes


def chain_hash(event: RecordedEvent, *, previous: str) -> str:
    """The hash that ``event`` must have when the event before it has ``previous`` (``GENESIS`` for the first)."""
    recorded_us = microseconds(event.recorded_at)
    (hash_,) = chain_hashes(
        event.stream, (event,), version=event.version - 1, previous=previous, recorded_us=recorded_us
    )
    return hash_


def verify_chain(
    events: Iterable[RecordedEvent], *, pruned: Mapping[str, StreamInfo] = MappingProxyType({})
) -> dict[str, StreamInfo]:
    """Checks versions and hashes of whole streams, in any mixture that keeps each one's order.

    A stream in ``pruned`` begins behind the event that is named there, others at version 1.

    Returns:
        the head of every stream seen.

    Raises:
        LogCorrupt: naming stream and version of the first event that is not what was written.
    """
    heads = {stream: (info.version, info.hash) for stream, info in pruned.items()}
    for event in events:
        version, previous = heads.get(event.stream, (0, GENESIS))
        where = f"stream {event.stream} version {event.version}"
        if event.version != version + 1:
            raise LogCorrupt(where=where, detail=f"version {version + 1} is missing before it")
        try:
            intact = chain_hash(event, previous=previous) == event.hash
        except TypeError:  # a damaged record may hold another type in a field
            intact = False
        if not intact:
            raise LogCorrupt(where=where, detail="its content does not match its hash")
        heads[event.stream] = (event.version, event.hash)
    return {stream: StreamInfo(stream, version, hash_) for stream, (version, hash_) in heads.items()}


def _gapless(events: Iterable[RecordedEvent], *, pruned: Mapping[str, StreamInfo]) -> Iterator[RecordedEvent]:
    removed = sum(info.version for info in pruned.values())
    count, last = 0, 0
    for count, event in enumerate(events, start=1):
        if not last < event.seq <= count + removed:
            where = f"stream {event.stream} version {event.version}"
            detail = f"its seq is {event.seq}, {count - 1} are before it and {removed} were pruned"
            raise LogCorrupt(where=where, detail=f"an event before it is missing: {detail}")
        last = event.seq
        yield event
    if last != count + removed:
        raise LogCorrupt(where="the log", detail=f"of {removed} pruned events only {last - count} were there")
