"""Writes a simulation's events into an ordinary event log, in their order, many batches to a transaction.

Without a log it counts them only.
"""

from __future__ import annotations

from collections.abc import Sequence

from events import codec
from events.types import Event
from store.log import Append, Appended, EventLog, NewEvent

__all__ = ["Journal"]

BATCHES = 1000


class Journal:
    """Keeps the versions of the streams it writes. What was not flushed is lost with the process."""

    def __init__(self, log: EventLog | None, *, prefix: str) -> None:
        self._log, self._prefix = log, prefix
        self._versions: dict[str, int] = {}
        self._batches: list[Append] = []
        self.events = 0

    def record(self, stream: str, events: Sequence[Event], at: float) -> None:
        """Appends ``events`` at virtual time ``at`` (POSIX seconds)."""
        if not events or self._log is None:
            self.events += len(events)
            return
        new = []
        for event in events:
            self.events += 1
            name = type(event).__name__
            new.append(NewEvent(f"{self._prefix}{self.events}", name, codec.SCHEMAS[name], codec.encode(event)))
        version = self._versions.get(stream, 0)
        self._batches.append(Append(stream, version, new, at))
        self._versions[stream] = version + len(new)
        if len(self._batches) >= BATCHES:
            self.flush()

    def flush(self) -> None:
        """Writes everything that was recorded.

        Raises:
            LogUnavailable: the log cannot be written.
            VersionConflict: somebody else writes these streams.
        """
        batches, self._batches = self._batches, []
        for result in self._log.append_many(batches) if self._log is not None and batches else []:
            if not isinstance(result, Appended):
                raise result
