"""Replay: the states that a log tells of, folded from stored events by the machines of today.

Replay reads what it is given and nothing else: no file, no clock, no randomness. What was written by a live actor was
folded by it first, so every event must be allowed where it stands: one that is not, and a state that differs from the
one recorded at the same version, mean that the transition code changed or the log did, and raise ``ReplayDivergence``
with stream, version and field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from events.codec import reader
from events.errors import IllegalTransition, ReplayDivergence, UnknownEventType
from events.streams import Machine, State, field_digests, first_difference, machine_of
from events.types import Event

__all__ = ["Stored", "StreamFold", "check_digests", "check_recorded", "replay"]

Stored = tuple[int, str, int, bytes | str]
"""A stored event: version, type, schema and JSON."""


class StreamFold:
    """One stream on its way through its machine. ``state`` is what the events taken so far say."""

    def __init__(self, stream: str, *, state: Any = None) -> None:
        """Begins with an empty state, or goes on from ``state``, which is changed in place.

        Raises:
            UnknownEventType: no machine folds streams of this name.
        """
        found = machine_of(stream)
        if found is None:
            raise UnknownEventType(type_=stream, schema=0, detail="no machine folds this stream", where=stream)
        self.stream = stream
        self.machine: Machine[Any] = found[0]
        self.state: Any = self.machine.initial(found[1]) if state is None else state

    def take(self, version: int, type_: str, schema: int, data: bytes | str) -> None:
        """Folds one event.

        Raises:
            UnknownEventType: this program cannot read it.
            ReplayDivergence: the machine does not allow it, or it does not follow what was taken before.
        """
        self.take_all(((version, type_, schema, data),))

    def take_all(self, events: Iterable[Stored]) -> None:
        """Folds events in order; raises as :meth:`take`, then the state is that before the event that is named."""
        state, evolve = self.state, self.machine.evolve
        readers: dict[tuple[str, int], Callable[[bytes | str], Event]] = {}
        version, type_, schema = 0, "", 0
        try:
            for version, type_, schema, data in events:
                if version != state.version + 1:
                    field, replayed = "version", f"only {state.version} events before it"
                    raise ReplayDivergence(
                        stream=self.stream, version=version, field=field, recorded=str(version), replayed=replayed
                    )
                read = readers.get((type_, schema))
                if read is None:
                    read = readers[type_, schema] = reader(type_, schema)
                evolve(state, read(data))
        except UnknownEventType as exc:
            raise exc.at(f"stream {self.stream} version {version}") from exc
        except msgspec.DecodeError as exc:
            where = f"stream {self.stream} version {version}"
            raise UnknownEventType(type_=type_, schema=schema, detail=str(exc), where=where) from exc
        except IllegalTransition as exc:
            field, replayed = f"{exc.machine} {exc.subject}", f"not allowed in state '{exc.state}'"
            raise ReplayDivergence(
                stream=self.stream, version=version, field=field, recorded=exc.event, replayed=replayed
            ) from exc
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as exc:
            replayed = f"{type(exc).__name__}: {exc}"
            raise ReplayDivergence(
                stream=self.stream, version=version, field="state", recorded=type_, replayed=replayed
            ) from exc


def replay(stream: str, events: Iterable[Stored], *, state: State | None = None) -> Any:
    """The state of ``stream`` after ``events``, from nothing or from ``state``; raises as :class:`StreamFold`."""
    fold = StreamFold(stream, state=state)
    fold.take_all(events)
    return fold.state


def check_recorded(stream: str, *, recorded: State, replayed: State) -> None:
    """Compares a state that was recorded with the one folded from the events up to the same version.

    Raises:
        ReplayDivergence: naming the first field that differs.
    """
    found = first_difference(recorded, replayed)
    if found is not None:
        raise ReplayDivergence(
            stream=stream, version=recorded.version, field=found.field, recorded=found.one, replayed=found.other
        )


def check_digests(stream: str, *, recorded: Mapping[str, str], replayed: State) -> None:
    """As :func:`check_recorded`, with what ``field_digests`` gave when the log was written.

    Raises:
        ReplayDivergence: naming the first field that differs.
    """
    found = field_digests(replayed)
    for field, digest in recorded.items():
        if found.get(field) != digest:
            raise ReplayDivergence(
                stream=stream,
                version=replayed.version,
                field=field,
                recorded=f"digest {digest}",
                replayed=f"digest {found.get(field)}",
            )
