"""What a log says as of now or of an earlier moment, and whether it still says what was recorded.

``states_at`` folds every stream up to a ``seq`` or a time: what the actors' states were then. ``check`` reads all that
is stored and trusts none of it: hash chains, versions, events, transitions. Both only read the log; the folding itself
(:mod:`events.replay`) does no I/O at all.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from events.errors import InputError, LogCorrupt
from events.replay import StreamFold, check_recorded
from events.streams import State
from store.log import EventLog, RecordedEvent, Snapshot, StreamInfo, verify_chain
from store.snapshots import start_is_gone, state_of

__all__ = ["Moment", "Past", "check", "states_at"]


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """Up to when: a ``seq`` of the log, a time in POSIX seconds, both, or neither (all that is there)."""

    seq: int | None = None
    at: float | None = None


class Past(msgspec.Struct, kw_only=True):
    """The states by stream, in the order of the streams' beginnings; ``seq`` and ``recorded_at`` of the last event."""

    states: dict[str, State]
    events: int
    seq: int
    recorded_at: float


def states_at(log: EventLog, moment: Moment, *, stream: str | None = None) -> Past:
    """Folds every stream, or one, up to ``moment``, that included.

    A stream counts up to the last event before its first later one: clocks of machines may differ, versions do not.

    Raises:
        InputError: the log has no such stream, or nothing as early as ``moment``.
        UnknownEventType, ReplayDivergence: naming stream and version.
        LogCorrupt, LogUnavailable: the log cannot be read.
    """
    return _Reading(log, moment, compare=False).through(stream)


def check(log: EventLog, *, stream: str | None = None) -> Past:
    """Checks the log, or one stream: versions without gaps, hash chains, that every event is read and allowed, and that
    snapshots hold what their streams fold to.

    Returns:
        what :func:`states_at` gives for now.

    Raises:
        LogCorrupt, UnknownEventType, ReplayDivergence: naming stream and version of the first damage.
        InputError: the log has no such stream.
    """
    if stream is None:
        log.verify()
    else:
        pruned = log.pruned()
        verify_chain(log.read_stream(stream), pruned={name: pruned[name] for name in pruned.keys() & {stream}})
    return _Reading(log, Moment(), compare=True).through(stream)


class _Reading:
    """One pass through the log up to a moment. ``compare``: snapshots with what is folded up to their versions."""

    def __init__(self, log: EventLog, moment: Moment, *, compare: bool) -> None:
        self._log, self._moment, self._compare = log, moment, compare
        self._folds: dict[str, StreamFold] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._skipped: dict[str, Snapshot] = {}
        self._over: set[str] = set()

    def through(self, stream: str | None) -> Past:
        count, seq, at = 0, 0, 0.0
        for event in self._events(stream):
            self._take(event)
            count, seq, at = count + 1, event.seq, max(at, event.recorded_at)
        self._refuse_what_is_gone(stream)
        if not count:
            what = f"stream {stream}" if stream else "the log"
            when = "" if self._moment == Moment() else " as early as that"
            raise InputError(f"{what} holds no event{when}; `headrace events` shows what there is")
        states = {name: fold.state for name, fold in self._folds.items()}
        return Past(states=states, events=count, seq=seq, recorded_at=at)

    def _refuse_what_is_gone(self, stream: str | None) -> None:
        """Raises ``InputError`` for a moment at which a stream had states that went with what was pruned of it."""
        for name, removed in self._log.pruned().items():
            if stream not in (None, name) or (name in self._folds and name not in self._skipped):
                continue
            skipped = self._skipped.get(name)
            version = skipped.version if skipped else removed.version + 1
            found = list(self._log.read_stream(name, after=version - 1, limit=1))
            later = f"ask for seq {found[0].seq} or later" if found else "no later state is there either"
            raise InputError(
                f"stream {name} was pruned: versions 1 to {removed.version} are gone, and its states before version "
                f"{version} with them; {later}, or name another stream with --stream"
            )

    def _events(self, stream: str | None) -> Iterator[RecordedEvent]:
        seq, at = self._moment.seq, self._moment.at
        events = self._log.read_all(limit=seq) if stream is None else self._log.read_stream(stream)
        for event in events:
            if seq is not None and event.seq > seq:
                return
            if at is not None and event.recorded_at > at:
                self._over.add(event.stream)
            if event.stream not in self._over:
                yield event

    def _take(self, event: RecordedEvent) -> None:
        fold = self._folds.get(event.stream)
        if fold is None:
            fold = self._folds[event.stream] = self._begun(event)
        snapshot = self._snapshots.get(event.stream)
        if event.stream not in self._skipped:
            fold.take(event.version, event.type, event.schema, event.data)
        if snapshot is not None and snapshot.version == event.version:
            self._skipped.pop(event.stream, None)
            self._compared(snapshot, event, fold)

    def _begun(self, first: RecordedEvent) -> StreamFold:
        """The fold of a stream whose first stored event is ``first``: of a pruned one, it goes on from the snapshot."""
        stream, pruned = first.stream, first.version > 1
        snapshot = self._log.snapshot(stream) if self._compare or pruned else None
        if snapshot is not None:
            self._snapshots[stream] = snapshot
        if not pruned:
            return StreamFold(stream)
        state = state_of(snapshot) if snapshot is not None else None
        if snapshot is None or state is None:
            removed = StreamInfo(stream, first.version - 1, "")
            raise LogCorrupt(where=f"stream {stream}", detail=start_is_gone(removed.version))
        self._skipped[stream] = snapshot
        return StreamFold(stream, state=state)

    def _compared(self, snapshot: Snapshot, event: RecordedEvent, fold: StreamFold) -> None:
        recorded = state_of(snapshot)
        if snapshot.hash != event.hash:
            where = f"the snapshot of stream {event.stream} at version {event.version}"
            raise LogCorrupt(where=where, detail="it is not of this history")
        if recorded is not None:
            check_recorded(event.stream, recorded=recorded, replayed=fold.state)
