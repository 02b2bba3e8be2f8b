"""Durable appends by one writer: the log, bare SQLite with the same settings, and ``eventsourcing``.

Bare SQLite inserts the same rows into the same table with the same indexes (Headrace's own, without its triggers), with
the same page cache; what the log does beyond it (hash chain, expected version, ids) is what is compared. A second bare
table, with a row of four columns and no id, is there as a figure only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

from scripts.bench.figures import Figure
from scripts.bench.foreign import Foreign, is_installed, missing
from scripts.bench.material import small_events
from scripts.bench.options import Options
from scripts.bench.sampling import median, paired, percentiles, rounds
from store.log import Append, EventLog, NewEvent
from store.opening import open_store

__all__ = ["measure"]

GROUP = "append"
STREAM = "repository:bench/append"
AT = 1_760_000_000.0
HASH = "f" * 64
SAME_TABLE = """
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY, stream TEXT NOT NULL, version INTEGER NOT NULL, event_id TEXT NOT NULL UNIQUE,
        type TEXT NOT NULL, schema INTEGER NOT NULL, recorded_us INTEGER NOT NULL, data TEXT NOT NULL,
        hash TEXT NOT NULL, UNIQUE (stream, version)
    )
"""
SMALL_TABLE = """
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY, stream TEXT NOT NULL, version INTEGER NOT NULL, data BLOB NOT NULL,
        UNIQUE (stream, version)
    )
"""

Row = Callable[[int, NewEvent], tuple[object, ...]]


class _Bare:
    """Plain ``sqlite3``: a single row in a transaction of its own by one statement, many by ``executemany``."""

    def __init__(self, path: Path, *, table: str, columns: int, row: Row) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        execute = self._connection.execute
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA cache_size = -65536")
        found = [execute("PRAGMA journal_mode").fetchone()[0], execute("PRAGMA synchronous").fetchone()[0]]
        if found != ["wal", 2]:
            raise RuntimeError(f"bare SQLite is not set as the log: journal mode and synchronous are {found}")
        execute(table)
        self._insert = f"INSERT INTO events VALUES ({', '.join('?' * columns)})"  # noqa: S608
        self._row, self._count = row, 0

    def one(self, events: Sequence[NewEvent]) -> None:
        """A statement that is a transaction of its own."""
        self._count += 1
        self._connection.execute(self._insert, self._row(self._count, events[0]))

    def begun(self, events: Sequence[NewEvent]) -> None:
        """The same between BEGIN and COMMIT."""
        self._connection.execute("BEGIN IMMEDIATE")
        self.one(events)
        self._connection.execute("COMMIT")

    def many(self, events: Sequence[NewEvent]) -> None:
        """All in one transaction."""
        rows = []
        for event in events:
            self._count += 1
            rows.append(self._row(self._count, event))
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(self._insert, rows)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()


def _same_row(number: int, event: NewEvent) -> tuple[object, ...]:
    at = 1_760_000_000_000_000
    return number, STREAM, number, event.event_id, event.type, event.schema, at, event.data.decode(), HASH


def _small_row(number: int, event: NewEvent) -> tuple[object, ...]:
    return number, STREAM, number, event.data


class _Log:
    def __init__(self, log: EventLog) -> None:
        self._log, self._version = log, 0

    def append(self, events: list[NewEvent]) -> None:
        self._version = self._log.append(Append(STREAM, self._version, events, AT)).version


def measure(options: Options) -> list[Figure]:
    """One event at a time and batches of 100, side by side."""
    store = open_store(f"sqlite:///{options.folder}/append.db", write=True, holder="bench")
    same = _Bare(options.folder / "same.db", table=SAME_TABLE, columns=9, row=_same_row)
    begun = _Bare(options.folder / "begun.db", table=SAME_TABLE, columns=9, row=_same_row)
    small = _Bare(options.folder / "small.db", table=SMALL_TABLE, columns=4, row=_small_row)
    log = _Log(store.log)
    foreign = Foreign(options.folder / "foreign.db") if is_installed() else None
    try:
        ones: dict[str, Callable[[list[NewEvent]], None]] = {
            "log": log.append,
            "bare": same.one,
            "begun": begun.begun,
            "small": small.one,
        }
        many: dict[str, Callable[[list[NewEvent]], None]] = {
            "log": log.append,
            "bare": same.many,
            "small": small.many,
        }
        if foreign is not None:
            ones["eventsourcing"] = many["eventsourcing"] = foreign.append
        ids = _Ids()
        figures = _figures(options, ids, ones, size=1, goal=0.9)
        figures += _figures(options, ids, many, size=100, goal=0.7)
    finally:
        store.close()
        for bare in (same, begun, small):
            bare.close()
        if foreign is not None:
            foreign.close()
    return figures if foreign is not None else [*figures, missing(GROUP)]


class _Ids:
    """Events whose ids were not used before."""

    def __init__(self) -> None:
        self._used = 0

    def batches(self, count: int, size: int) -> list[list[NewEvent]]:
        events = small_events(count * size, first=self._used)
        self._used += len(events)
        return [events[start : start + size] for start in range(0, len(events), size)]


def _figures(
    options: Options,
    ids: _Ids,
    subjects: dict[str, Callable[[list[NewEvent]], None]],
    *,
    size: int,
    goal: float,
) -> list[Figure]:
    calls = 3 if options.quick else (100 if size == 1 else 20)
    count = 2 if options.quick else 120
    latencies: list[float] = []
    taken = {
        name: _turn(ids, append, calls=calls, size=size, latencies=latencies if name == "log" else [])
        for name, append in subjects.items()
    }
    found = rounds(taken, count=count, seed=options.seed)
    what = "one event" if size == 1 else f"batches of {size}"
    note = f"durable, WAL, synchronous=FULL; {count} rounds of {calls} calls in turns, seed {options.seed}"
    names = {
        "log": "the log",
        "bare": "bare SQLite, same table",
        "begun": "bare SQLite, same table, BEGIN … COMMIT",
        "small": "bare SQLite, four columns",
        "eventsourcing": "eventsourcing",
    }
    figures = [
        Figure(
            group=GROUP,
            name=f"{what}: {names[name]}",
            value=round(median(values)),
            unit="events/s",
            percentiles={key: round(value) for key, value in percentiles(values, 10, 90).items()},
            note=note,
        )
        for name, values in found.items()
    ]
    figures.append(
        Figure(
            group=GROUP,
            name=f"{what}: time of a call of the log",
            value=round(median(latencies), 1),
            unit="µs",
            percentiles={key: round(value, 1) for key, value in percentiles(latencies, 50, 90, 99).items()},
            note=note,
        )
    )
    for other, least in (("bare", goal), ("begun", None), ("small", None), ("eventsourcing", 1.0)):
        if other in found:
            ratios = paired(found["log"], found[other])
            figures.append(
                Figure(
                    group=GROUP,
                    name=f"{what}: the log over {names[other]}",
                    value=round(median(ratios), 3),
                    unit="x",
                    goal=least,
                    percentiles={key: round(value, 3) for key, value in percentiles(ratios, 10, 90).items()},
                    note="median of the ratios of each round",
                )
            )
    return figures


def _turn(
    ids: _Ids, append: Callable[[list[NewEvent]], None], *, calls: int, size: int, latencies: list[float]
) -> Callable[[], float]:
    def turn() -> float:
        batches = ids.batches(calls, size)
        begun = before = perf_counter()
        for batch in batches:
            append(batch)
            now = perf_counter()
            latencies.append((now - before) * 1e6)
            before = now
        return calls * size / (before - begun)

    return turn
