"""The PyPI package ``eventsourcing`` on the same work: an optional extra, compared with when it is installed.

Where work cannot be equal it gets the lighter one: its events are not hash chained, carry no id of their own and change
no read model. In replay one of its aggregates folds what the product folds, another one next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec

from events.types import Event
from scripts.bench.figures import Figure
from scripts.bench.machine import installed
from store.log import NewEvent

__all__ = ["Foreign", "is_installed", "missing"]

_FULL = 2


def is_installed() -> bool:
    """Whether the package is there."""
    return installed("eventsourcing") is not None


def missing(group: str) -> Figure:
    """What stands in the table for a comparison that cannot be made."""
    note = "eventsourcing is not installed: nothing to compare with; install it with `pip install -e '.[bench]'`"
    return Figure(group=group, name="compared with eventsourcing", value=0.0, unit="", note=note)


class Foreign:
    """An application of ``eventsourcing`` over one SQLite file: WAL, ``synchronous=FULL``, both read back."""

    def __init__(self, path: Path) -> None:
        from eventsourcing.application import Application
        from eventsourcing.sqlite import SQLiteApplicationRecorder

        environment = {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(path)}
        self._app: Application[UUID] = Application(env=environment)
        recorder = self._app.recorder
        assert isinstance(recorder, SQLiteApplicationRecorder)  # noqa: S101 - what the environment asks for
        self._recorder = recorder
        self._id = uuid4()
        self._version = 0
        with recorder.datastore.get_connection(commit=True) as connection:
            found = []
            for pragma in ("journal_mode", "synchronous"):
                cursor = connection.cursor()
                cursor.execute(f"PRAGMA {pragma}")
                found.append(cursor.fetchone()[0])
        if found != ["wal", _FULL]:
            raise RuntimeError(f"eventsourcing's SQLite is not set as ours: journal mode and synchronous are {found}")

    def append(self, events: Sequence[NewEvent]) -> None:
        """Records ready bytes through its recorder: one transaction, no encoding, no aggregate."""
        from eventsourcing.persistence import StoredEvent

        stored = []
        for event in events:
            self._version += 1
            stored.append(StoredEvent(self._id, self._version, event.type, event.data))
        self._recorder.insert_events(stored)

    def write(self, repository: str, events: Iterable[Event], *, light: bool) -> UUID:
        """Saves an aggregate with these events; returns its id."""
        from scripts.bench.foreign_aggregate import EqualRepository, LightRepository

        kind: Any = LightRepository if light else EqualRepository
        aggregate = kind(repository)
        for event in events:
            data = msgspec.to_builtins(event)
            aggregate.trigger_event(kind.Happened, type=type(event).__name__, data=data)
        self._app.save(aggregate)
        return UUID(str(aggregate.id))

    def replay(self, aggregate_id: UUID) -> Any:
        """Reads, decodes and folds an aggregate."""
        return self._app.repository.get(aggregate_id)

    def close(self) -> None:
        """Closes its database."""
        self._app.close()
