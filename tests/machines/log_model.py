"""What an event log must answer, said once more with plain dictionaries: the model that the log machines check against.

It keeps every event that was ever acknowledged, also those that were pruned since, and says what becomes of a batch
without looking at how a log decides that.
"""

from __future__ import annotations

from typing import NamedTuple

from events.errors import EventIdReused, VersionConflict
from events.replay import Stored
from store.log import Append, Appended, NewEvent, RecordedEvent, Refused, microseconds

__all__ = ["LogModel", "Written", "written"]


class Written(NamedTuple):
    """An acknowledged event, without what only the log knows (its hash)."""

    seq: int
    stream: str
    version: int
    event_id: str
    type: str
    schema: int
    recorded_us: int
    data: bytes


def written(event: RecordedEvent) -> Written:
    """A recorded event, to be compared with the model's."""
    return Written(
        event.seq,
        event.stream,
        event.version,
        event.event_id,
        event.type,
        event.schema,
        microseconds(event.recorded_at),
        event.data,
    )


class LogModel:
    """See the module."""

    def __init__(self) -> None:
        self.streams: dict[str, list[Written]] = {}
        self.order: list[Written] = []
        self.pruned: dict[str, int] = {}
        self.batches: list[Append] = []

    def head(self, stream: str) -> int:
        """The stream's last version; 0 if it has none."""
        return len(self.streams.get(stream, []))

    def left(self, stream: str) -> list[Written]:
        """The events of a stream that were not pruned."""
        return self.streams.get(stream, [])[self.pruned.get(stream, 0) :]

    def left_of_all(self, *, after: int = 0) -> list[Written]:
        """All events behind a position that were not pruned, in order."""
        return [one for one in self.order if one.seq > after and one.version > self.pruned.get(one.stream, 0)]

    def stored(self, stream: str) -> list[Stored]:
        """Every event of a stream, pruned ones too, to be folded."""
        return [(one.version, one.type, one.schema, one.data) for one in self.streams.get(stream, [])]

    def take(self, batch: Append) -> Appended | type[Refused]:
        """What appending ``batch`` must give: a position, or the kind of refusal; what is recorded is kept."""
        ids = [event.event_id for event in batch.events]
        known = {one.event_id: one for one in self.left_of_all() if one.event_id in ids}
        if known or len(set(ids)) < len(ids):
            return self._again(batch, known)
        if batch.expected_version != self.head(batch.stream):
            return VersionConflict
        for event in batch.events:
            self._record(batch, event)
        self.batches.append(batch)
        return Appended(batch.stream, self.head(batch.stream), len(self.order))

    def _again(self, batch: Append, known: dict[str, Written]) -> Appended | type[EventIdReused]:
        found = [known.get(event.event_id) for event in batch.events]
        first = found[0]
        if first is None:
            return EventIdReused
        there = self.streams[first.stream][first.version - 1 :][: len(batch.events)]
        same = [(batch.stream, *payload(event)) for event in batch.events]
        if [(one.stream, one.event_id, one.type, one.schema, one.data) for one in there] != same:
            return EventIdReused
        return Appended(batch.stream, there[-1].version, there[-1].seq, duplicate=True)

    def _record(self, batch: Append, event: NewEvent) -> None:
        stream = self.streams.setdefault(batch.stream, [])
        place = (len(self.order) + 1, batch.stream, len(stream) + 1)
        event_id, type_, schema, data = payload(event)
        one = Written(*place, event_id, type_, schema, microseconds(batch.at), data)
        stream.append(one)
        self.order.append(one)


def payload(event: NewEvent) -> tuple[str, str, int, bytes]:
    """What a repetition must repeat."""
    return event.event_id, event.type, event.schema, event.data
