"""Pruning: removes the old events of a stream that a snapshot covers, and nothing else.

The event at the snapshot's version stays, so a stream keeps its head and no version or ``seq`` is ever used again. The
log keeps version and hash of the last event that was removed: the chain of what is left is verified from there.
Before anything is removed, the stream is verified and replayed, and the snapshot must hold exactly what it folds to.

What pruning gives up: states before the snapshot (``replay --at``), rebuilding read models from the log, folding from
the start when the snapshot is lost or a later version of Headrace has states of another shape, and recognising an
append of a removed event that is repeated (its expected version is refused instead). A log that may be needed whole is
copied first.
"""

from __future__ import annotations

import msgspec

from events.errors import LogCorrupt
from store.log import EventLog
from store.replay import check
from store.snapshots import find_snapshot, usable_state

__all__ = ["Cut", "cut_of", "prune"]


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """What pruning a stream comes to: versions ``first`` to ``last`` go, those behind ``last`` up to ``head`` stay.

    ``removed`` is how many go; ``why_kept`` says why none does.
    """

    stream: str
    first: int
    last: int
    head: int
    why_kept: str = ""

    @property
    def removed(self) -> int:
        """How many events go."""
        return self.last - self.first + 1

    @property
    def kept(self) -> int:
        """How many events stay."""
        return self.head - self.last


def cut_of(log: EventLog, stream: str) -> Cut:
    """What :func:`prune` would remove; only reads.

    Raises:
        LogCorrupt, UnknownEventType, ReplayDivergence: the stream or its snapshot is not whole.
        InputError: the log has no such stream.
    """
    known = log.pruned().get(stream)
    gone = known.version if known else 0
    snapshot = find_snapshot(log, stream)
    if snapshot is None or usable_state(snapshot) is None:
        why = "its snapshot cannot be used" if log.snapshot(stream) else "it has no snapshot"
        return Cut(stream=stream, first=gone + 1, last=gone, head=log.head(stream), why_kept=why)
    head = check(log, stream=stream).states[stream].version
    if head < snapshot.version:
        raise LogCorrupt(where=f"the snapshot of stream {stream}", detail="it is ahead of its stream")
    last = snapshot.version - 1
    why = "" if last > gone else "its snapshot covers nothing that is left"
    return Cut(stream=stream, first=gone + 1, last=last, head=head, why_kept=why)


def prune(log: EventLog, stream: str) -> int:
    """Removes the events of ``stream`` below the version of its snapshot, durably, all or none.

    Returns:
        how many were removed; 0 if there is no usable snapshot, or nothing below it.

    Raises:
        LogCorrupt, UnknownEventType, ReplayDivergence: the stream or its snapshot is not whole; nothing was removed.
        LogUnavailable: the log cannot be written now.
    """
    cut = cut_of(log, stream)
    return log.remove_below(stream, cut.last + 1) if cut.removed else 0
