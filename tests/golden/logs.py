"""Golden logs: ``NAME.jsonl`` is a log as it was written once, ``NAME.states.jsonl`` what it folded to then.

Each line of a log is an event as ``headrace events --json`` prints it, with ``event_id`` and ``schema`` besides. Each
line of a states file is a stream's state after one event: a short digest of each field; its first line holds the
shapes of the states.

``python -m tests.golden.logs`` writes what is missing: the newest log, from ``tests/events/history.py``, and the states
of every log. A log that was released is never made again: when history has more in it, ``NEWEST`` gets another name.
Delete a states file, and run this, only when a state's *shape* changed; when it did not, a difference is a divergence
that a user's log would meet too.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from events.replay import StreamFold
from events.streams import field_digests
from scripts.events import exported
from store.log import RecordedEvent
from store.memory import MemoryLog
from tests.events.history import record

FOLDER = Path(__file__).parent
NEWEST = "schema-1-gather"
KINDS = ("repository:o/r", "sweep:s", "governor", "gather:o/r", "attempt:a")


class Line(msgspec.Struct, kw_only=True):
    """An event of a golden log."""

    seq: int
    stream: str
    version: int
    type: str
    recorded_at: str
    data: msgspec.Raw
    hash: str
    event_id: str
    schema: int


class StateLine(msgspec.Struct, kw_only=True):
    """A stream's state after one event: digests by field."""

    stream: str
    version: int
    fields: dict[str, str]


def names() -> list[str]:
    """The golden logs."""
    return sorted(path.stem for path in FOLDER.glob("*.jsonl") if not path.name.endswith(".states.jsonl"))


def read_log(name: str) -> list[RecordedEvent]:
    """The events of a golden log."""
    lines = msgspec.json.Decoder(Line).decode_lines((FOLDER / f"{name}.jsonl").read_bytes())
    return [
        RecordedEvent(
            seq=one.seq,
            stream=one.stream,
            version=one.version,
            event_id=one.event_id,
            type=one.type,
            schema=one.schema,
            recorded_at=datetime.fromisoformat(one.recorded_at).timestamp(),
            data=bytes(one.data),
            hash=one.hash,
        )
        for one in lines
    ]


def read_states(name: str) -> tuple[dict[str, str], list[StateLine]]:
    """The shapes under which the states of a golden log were recorded, and the states, event by event."""
    shapes, *lines = (FOLDER / f"{name}.states.jsonl").read_bytes().splitlines()
    decoder = msgspec.json.Decoder(StateLine)
    return msgspec.json.decode(shapes, type=dict[str, str]), [decoder.decode(line) for line in lines]


def shapes() -> dict[str, str]:
    """Today's shapes by kind of stream."""
    return {kind.partition(":")[0]: StreamFold(kind).machine.shape for kind in KINDS}


def write() -> None:
    """See the module."""
    newest = FOLDER / f"{NEWEST}.jsonl"
    if not newest.exists():
        log = MemoryLog(log_id="golden")
        record(log)
        lines = [exported(one) | {"event_id": one.event_id, "schema": one.schema} for one in log.read_all()]
        newest.write_bytes(msgspec.json.Encoder().encode_lines(lines))
    for name in names():
        path = FOLDER / f"{name}.states.jsonl"
        if path.exists():
            continue
        by_stream: dict[str, StreamFold] = {}
        recorded = []
        for event in read_log(name):
            fold = by_stream.setdefault(event.stream, StreamFold(event.stream))
            fold.take(event.version, event.type, event.schema, event.data)
            recorded.append(StateLine(stream=event.stream, version=event.version, fields=field_digests(fold.state)))
        path.write_bytes(msgspec.json.Encoder().encode_lines([shapes(), *recorded]))


if __name__ == "__main__":
    write()
