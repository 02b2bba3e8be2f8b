"""Pruning: removes the old events of a stream that a snapshot covers, and nothing else.

The event at the snapshot's version stays, so a stream keeps its head and no version or ``seq`` is ever used again. The
log keeps version and hash of the last event that was removed: the chain of what is left is verified from there.
Before anything is removed, the stream is verified and replayed, and the snapshot must hold exactly what it folds to.

What pruning gives up: states before the snapshot (``replay --at``), rebuilding read models from the log, and folding
from the start when the snapshot is lost or a later version of Headrace has states of another shape. A log that may be
needed whole is copied first.
"""

from __future__ import annotations

from events.errors import LogCorrupt
from store.log import EventLog
from store.replay import check
from store.snapshots import find_snapshot, usable_state

__all__ = ["prune"]


def prune(log: EventLog, stream: str) -> int:
    """Removes the events of ``stream`` below the version of its snapshot, durably, all or none.

    Returns:
        how many were removed; 0 if there is no usable snapshot, or nothing below it.

    Raises:
        LogCorrupt, UnknownEventType, ReplayDivergence: the stream or its snapshot is not whole; nothing was removed.
        LogUnavailable: the log cannot be written now.
    """
    snapshot = find_snapshot(log, stream)
    if snapshot is None or usable_state(snapshot) is None:
        return 0
    if check(log, stream=stream).states[stream].version < snapshot.version:
        raise LogCorrupt(where=f"the snapshot of stream {stream}", detail="it is ahead of its stream")
    return log.remove_below(stream, snapshot.version)
