"""Snapshots: a stream's state at one of its versions, so that opening it reads only what came after.

A snapshot is a convenience and never the truth: it lies outside of the events, one a stream, replaced by the next one.
It is used only when it is whole (its digest), belongs to the event that is stored at its version (that event's hash)
and holds a state of today's shape. Otherwise a warning says so and the stream is folded from its start, with the same
result.
"""

from __future__ import annotations

import msgspec
from loguru import logger

from events.errors import LogCorrupt
from events.replay import StreamFold
from events.streams import State, machine_of
from store.log import EventLog, Snapshot, snapshot_digest

__all__ = ["find_snapshot", "load", "save_snapshot", "start_is_gone", "state_of", "usable_state"]


def state_of(snapshot: Snapshot) -> State | None:
    """The state in a snapshot; none if it is of another shape than today's.

    Raises:
        LogCorrupt: the snapshot is not what was written.
    """
    where = f"the snapshot of stream {snapshot.stream} at version {snapshot.version}"
    found = machine_of(snapshot.stream)
    if found is None or snapshot_digest(snapshot) != snapshot.digest:
        raise LogCorrupt(where=where, detail="its content does not match its digest")
    if snapshot.shape != found[0].shape:
        return None
    try:
        state: State = found[0].unpack(snapshot.state)
    except msgspec.DecodeError as exc:
        raise LogCorrupt(where=where, detail=str(exc)) from exc
    if state.version != snapshot.version:
        raise LogCorrupt(where=where, detail=f"its state is of version {state.version}")
    return state


def usable_state(snapshot: Snapshot | None) -> State | None:
    """The state in a snapshot, or none, with a warning that says why."""
    if snapshot is None:
        return None
    try:
        state = state_of(snapshot)
    except LogCorrupt as exc:
        logger.warning("{}; the stream is read from its start", exc.message)
        return None
    if state is None:
        logger.warning(
            "the snapshot of stream {} at version {} is of another version of Headrace; the stream is read from its "
            "start",
            snapshot.stream,
            snapshot.version,
        )
    return state


def find_snapshot(log: EventLog, stream: str) -> Snapshot | None:
    """The snapshot of a stream if it belongs to what is stored, else none, with a warning."""
    snapshot = log.snapshot(stream)
    if snapshot is None or log.hash_at(stream, snapshot.version) == snapshot.hash:
        return snapshot
    logger.warning(
        "the snapshot of stream {} at version {} is not of this history; the stream is read from its start",
        stream,
        snapshot.version,
    )
    return None


def load(log: EventLog, stream: str) -> StreamFold:
    """A stream folded to its head, from its snapshot if that is usable.

    Raises:
        UnknownEventType, ReplayDivergence, LogCorrupt, LogUnavailable: as reading and folding do.
        LogCorrupt: the stream was pruned, and the snapshot that covers what is gone cannot be used.
    """
    fold = StreamFold(stream, state=usable_state(find_snapshot(log, stream)))
    removed = log.pruned().get(stream) if not fold.state.version else None
    if removed is not None:
        raise LogCorrupt(where=f"stream {stream}", detail=start_is_gone(removed.version))
    fold.take_all(log.payloads(stream, after=fold.state.version))
    return fold


def start_is_gone(last: int) -> str:
    """Why a pruned stream without a usable snapshot cannot be folded; ``last``: its last version that is gone."""
    return f"its versions 1 to {last} were pruned and the snapshot that covers them cannot be used"


def save_snapshot(log: EventLog, stream: str, *, version: int, shape: str, state: bytes) -> None:
    """Stores a packed state as the snapshot of ``stream``, in place of the one before.

    Raises:
        ValueError: the stream has no such version.
        LogUnavailable: the log cannot be written now.
    """
    hash_ = log.hash_at(stream, version)
    if hash_ is None:
        raise ValueError(f"stream {stream} has no version {version}")
    snapshot = Snapshot(stream=stream, version=version, hash=hash_, shape=shape, state=state, digest="")
    log.put_snapshot(msgspec.structs.replace(snapshot, digest=snapshot_digest(snapshot)))
