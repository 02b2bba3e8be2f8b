"""Copies a store into another one, of any kind: blobs, events, snapshots; read models follow from the events.

The copy of an event is the event: id, time, version, ``seq`` and hash are the same, and at the end every stream of the
target has the head that it has in the source. A copy that was cut off goes on where it was when it is made again; a
target that holds anything else is refused and not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice

import msgspec

from events.errors import InputError, LogCorrupt
from store.blobs import ListedBlobs
from store.log import Append, Appended, EventLog, NewEvent, RecordedEvent, StreamInfo
from store.opening import Store

__all__ = ["Copied", "copy_store"]

EVENTS_PER_BATCH = 500
BATCHES_PER_APPEND = 200


class Copied(msgspec.Struct, frozen=True, kw_only=True):
    """What a copy brought over; ``seq``: of the last event, now the same in both."""

    events: int
    blobs: int
    snapshots: int
    streams: int
    seq: int


def copy_store(source: Store, target: Store, *, on_progress: Callable[[str, int], None]) -> Copied:
    """Brings ``target`` to what ``source`` holds when the copy begins; ``on_progress`` gets a kind and how many so far.

    Raises:
        InputError: events of the source were pruned, or the target holds other events than the source began with.
        LogCorrupt: the source, or what arrived, is not what was written.
        LogUnavailable, LogLocked: the target cannot be written now; make the copy again.
    """
    pruned = source.log.pruned()
    if pruned:
        raise InputError(
            f"{source.url} cannot be copied: events of {len(pruned)} streams were pruned ({min(pruned)}, …); copy a "
            f"store that is whole"
        )
    begin = _agreed(source, target)
    blobs = _copy_blobs(source, target, on_progress)
    heads = {info.stream: info for info in target.log.streams()}
    events = 0
    batches = _batches(source.log.read_all(after=begin), heads)
    while group := list(islice(batches, BATCHES_PER_APPEND)):
        results = target.log.append_many([batch for batch, _ in group])
        for (batch, last), result in zip(group, results, strict=True):
            if not isinstance(result, Appended):
                raise result
            if result.seq != last.seq:
                raise InputError(f"{target.url} is written by others meanwhile; make the copy when it is at rest")
            events += len(batch.events)
        on_progress("events", events)
    _compare(target, heads)
    snapshots = _copy_snapshots(source.log, target.log, heads)
    return Copied(events=events, blobs=blobs, snapshots=snapshots, streams=len(heads), seq=target.log.last_seq())


def _agreed(source: Store, target: Store) -> int:
    """The ``seq`` up to which the target is a copy of the source."""
    seq = target.log.last_seq()
    ends = [list(store.log.read_all(after=seq - 1, limit=1)) for store in (source, target)] if seq else [[], []]
    other = f"{target.url} holds other events than {source.url}; copy into an empty store"
    if target.log.pruned() or ends[0] != ends[1]:
        raise InputError(other)
    for info in target.log.streams():
        if source.log.hash_at(info.stream, info.version) != info.hash:
            raise InputError(f"{other} (stream {info.stream} differs)")
    return seq


def _copy_blobs(source: Store, target: Store, on_progress: Callable[[str, int], None]) -> int:
    if not isinstance(source.blobs, ListedBlobs) or not isinstance(target.blobs, ListedBlobs):
        raise InputError(f"blobs of {source.url} cannot be listed here; copy on the node where the store is")
    there = set(target.blobs.digests())
    copied = 0
    for digest in source.blobs.digests():
        if digest not in there:
            target.blobs.put(source.blobs.get(digest))
            copied += 1
            on_progress("blobs", copied)
    return copied


def _batches(events: Iterable[RecordedEvent], heads: dict[str, StreamInfo]) -> Iterator[tuple[Append, RecordedEvent]]:
    """Runs of events of one stream and time, each with its last event; ``heads`` goes along with them."""
    for (stream, at), run in groupby(events, key=lambda event: (event.stream, event.recorded_at)):
        while some := list(islice(run, EVENTS_PER_BATCH)):
            before = heads[stream].version if stream in heads else 0
            if some[0].version != before + 1:
                where = f"stream {stream} version {some[0].version}"
                raise LogCorrupt(where=where, detail=f"version {before + 1} is missing before it")
            heads[stream] = StreamInfo(stream, some[-1].version, some[-1].hash)
            new = [NewEvent(event.event_id, event.type, event.schema, event.data) for event in some]
            yield Append(stream, before, new, at), some[-1]


def _compare(target: Store, heads: dict[str, StreamInfo]) -> None:
    """Raises ``LogCorrupt`` unless every stream of the target ends in the hash that it has in the source."""
    for info in target.log.streams():
        if heads.get(info.stream) != info:
            raise LogCorrupt(where=f"stream {info.stream} of {target.url}", detail="its hash is not that of the source")


def _copy_snapshots(source: EventLog, target: EventLog, heads: Iterable[str]) -> int:
    copied = 0
    for stream in heads:
        snapshot = source.snapshot(stream)
        if snapshot is not None and target.snapshot(stream) != snapshot:
            if target.hash_at(stream, snapshot.version) != snapshot.hash:
                continue  # taken after the copy began: it is of an event that was not copied
            target.put_snapshot(snapshot)
            copied += 1
    return copied
