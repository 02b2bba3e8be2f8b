"""Read models as rows of PostgreSQL: what is read to fold an event, what that changes, and how both travel.

``project`` computes rows here, in the client; the database checks that what was read for them is still so, and writes
them in the transaction that records the events. A row carries the id of the event that made it what it is
(``changed_by``): that names its content, whoever computed it, and whether live or in a rebuild.

PostgreSQL's text has no character U+0000, which test output may have: it travels escaped.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec

from store.memory import MemoryTables
from store.read_models import AdmissionRow, AttemptRow, CachedContext, ErrorRow, Row, Tables

__all__ = ["MODELS", "Batch", "FoldedTables", "Puts", "RowCache", "Versioned", "packed_row", "row_key", "unpacked_row"]

MODELS: Mapping[str, type[Row]] = {
    "admissions": AdmissionRow,
    "build_attempts": AttemptRow,
    "error_logs": ErrorRow,
    "build_contexts": CachedContext,
}
"""The tables that are read models, and the structs of their rows."""

MAX_CACHED_ROWS = 20_000

_NAMES = {row: name for name, row in MODELS.items()}
_ESCAPE, _NUL = "\x1a", "\0"

Versioned = tuple[Row | None, str | None]
"""A row and the id of the event that made it; two times nothing where there is none."""
Where = tuple[str, str, str]
_WHERE = ("owner", "repo", "context")


def row_key(row: Row) -> str:
    """What names a row within its read model."""
    match row:
        case AdmissionRow():
            return _admission_key(row.owner, row.repo, row.issue_number)
        case CachedContext():
            return f"{row.owner}/{row.repo}#{row.issue_number:012d} {row.context}"
        case _:
            return row.attempt_id


def _admission_key(owner: str, repo: str, issue_number: int) -> str:
    return f"{owner}/{repo}#{issue_number:012d}"


def packed_row(row: Row, changed_by: str) -> dict[str, object]:
    """A row as the database takes it."""
    fields = cast(dict[str, object], msgspec.to_builtins(row))
    return cast(dict[str, object], _escaped({"row_key": row_key(row), "changed_by": changed_by, **fields}))


def unpacked_row(model: str, fields: Mapping[str, object]) -> tuple[Row, str]:
    """What :func:`packed_row` made, from the database's answer."""
    plain = cast(dict[str, Any], _unescaped(dict(fields)))
    return msgspec.convert(plain, MODELS[model], strict=False), str(plain["changed_by"])


def _escaped(value: object) -> object:
    match value:
        case str() if _NUL in value or _ESCAPE in value:
            return value.replace(_ESCAPE, _ESCAPE + "1").replace(_NUL, _ESCAPE + "0")
        case dict():
            return {_escaped(key): _escaped(one) for key, one in value.items()}
        case list():
            return [_escaped(one) for one in value]
        case _:
            return value


def _unescaped(value: object) -> object:
    match value:
        case str() if _ESCAPE in value:
            return value.replace(_ESCAPE + "0", _NUL).replace(_ESCAPE + "1", _ESCAPE)
        case dict():
            return {_unescaped(key): _unescaped(one) for key, one in value.items()}
        case list():
            return [_unescaped(one) for one in value]
        case _:
            return value


class RowCache:
    """What this process knows of rows. It may be wrong: the database says so, and it is told what is right.

    A row that is not in it is taken to be absent, which costs a second call where it is not.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._rows: OrderedDict[tuple[str, str], Versioned] = OrderedDict()
        self._sets: OrderedDict[Where, dict[str, Versioned]] = OrderedDict()

    def row(self, model: str, key: str) -> Versioned:
        with self._turn:
            return self._rows.get((model, key), (None, None))

    def contexts(self, where: Where) -> dict[str, Versioned]:
        """All rows of a context in a repository, by key."""
        with self._turn:
            return dict(self._sets.get(where, {}))

    def learn(self, model: str, rows: Mapping[str, Versioned]) -> None:
        """Takes over what rows are now."""
        with self._turn:
            for key, known in rows.items():
                self._rows[model, key] = known
                self._rows.move_to_end((model, key))
                row = known[0]
                if isinstance(row, CachedContext):
                    found = self._sets.get((row.owner, row.repo, row.context))
                    if found is not None:
                        found[key] = known
            while len(self._rows) > MAX_CACHED_ROWS:
                self._rows.popitem(last=False)

    def learn_contexts(self, where: Where, rows: Mapping[str, Versioned]) -> None:
        """Takes over which rows a context has in a repository."""
        with self._turn:
            self._sets[where] = dict(rows)
            while len(self._sets) > MAX_CACHED_ROWS:
                self._sets.popitem(last=False)

    def clear(self) -> None:
        """Forgets all."""
        with self._turn:
            self._rows.clear()
            self._sets.clear()


class Puts:
    """Rows that the batches of one call put so far, with the events that made them: what a later batch reads first."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, tuple[Row, str]]] = {}

    def put(self, row: Row, changed_by: str) -> None:
        self.rows.setdefault(_NAMES[type(row)], {})[row_key(row)] = (row, changed_by)

    def update(self, later: Puts) -> None:
        """Takes over what a later batch put."""
        for model, rows in later.rows.items():
            self.rows.setdefault(model, {}).update(rows)

    def find(self, model: str, key: str) -> tuple[Row, str] | None:
        return self.rows.get(model, {}).get(key)

    def contexts(self, where: Where) -> dict[str, Versioned]:
        """Rows of a context in a repository, by key."""
        return {
            key: (row, by)
            for key, (row, by) in self.rows.get("build_contexts", {}).items()
            if isinstance(row, CachedContext) and (row.owner, row.repo, row.context) == where
        }


class Batch(Tables):
    """The rows of one batch of events: read from those put before in the same call, else from what is known.

    ``changed_by`` has to be set to an event's id before the event is projected.
    """

    def __init__(self, cache: RowCache, before: Puts) -> None:
        self.changed_by = ""
        self.puts = Puts()
        self._cache, self._before = cache, before
        self._reads: dict[str, dict[str, str | None]] = {}
        self._sets: dict[Where, dict[str, str | None]] = {}

    def admission(self, owner: str, repo: str, issue_number: int) -> AdmissionRow | None:
        return cast(AdmissionRow | None, self._read("admissions", _admission_key(owner, repo, issue_number)))

    def attempt(self, attempt_id: str) -> AttemptRow | None:
        return cast(AttemptRow | None, self._read("build_attempts", attempt_id))

    def contexts(self, owner: str, repo: str, context: str) -> list[CachedContext]:
        where = (owner, repo, context)
        known = self._cache.contexts(where) | self._before.contexts(where)
        self._sets.setdefault(where, {key: by for key, (_, by) in known.items()})
        rows = [row for row, _ in (known | self.puts.contexts(where)).values() if isinstance(row, CachedContext)]
        return sorted(rows, key=lambda row: row.issue_number)

    def put(self, row: Row) -> None:
        self.puts.put(row, self.changed_by)

    def packed(self) -> dict[str, object]:
        """The part of a batch's request that speaks of rows."""
        return {
            "reads": {model: _escaped(keys) for model, keys in self._reads.items()},
            "sets": [
                ["build_contexts", _escaped(dict(zip(_WHERE, where, strict=True))), _escaped(seen)]
                for where, seen in self._sets.items()
            ],
            "rows": {
                model: [packed_row(row, by) for row, by in rows.values()] for model, rows in self.puts.rows.items()
            },
        }

    def learn_recorded(self) -> None:
        """What was put is recorded: others may build on it."""
        for model, rows in self.puts.rows.items():
            self._cache.learn(model, {key: (row, by) for key, (row, by) in rows.items()})

    def learn_stale(self, answer: Iterable[tuple[str, Iterable[Mapping[str, object]]]]) -> None:
        """What was read is something else in the database: ``answer`` has all rows that there are of it, by model."""
        found: dict[str, list[tuple[Row, str]]] = {}
        for model, some in answer:
            found.setdefault(model, []).extend(unpacked_row(model, fields) for fields in some)
        for model, keys in self._reads.items():
            rows: dict[str, Versioned] = {row_key(row): (row, by) for row, by in found.get(model, ())}
            self._cache.learn(model, {key: rows.get(key, (None, None)) for key in keys})
        there = Puts()
        for row, by in found.get("build_contexts", ()):
            there.put(row, by)
        for where in self._sets:
            self._cache.learn_contexts(where, there.contexts(where))

    def _read(self, model: str, key: str) -> Row | None:
        own = self.puts.find(model, key)
        if own is not None:
            return own[0]
        row, by = self._before.find(model, key) or self._cache.row(model, key)
        self._reads.setdefault(model, {}).setdefault(key, by)
        return row


class FoldedTables(MemoryTables):
    """All rows of a log that is folded anew, each with the event that made it what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.changed_by = ""
        self.by: dict[tuple[str, str], str] = {}

    def put(self, row: Row) -> None:
        super().put(row)
        self.by[_NAMES[type(row)], row_key(row)] = self.changed_by

    def packed(self) -> Iterable[tuple[str, dict[str, object]]]:
        """Every row as the database takes it, with its read model."""
        tables: tuple[Iterable[Row], ...] = (
            self.admissions.values(),
            self.attempts.values(),
            self.errors.values(),
            self.cached.values(),
        )
        for model, rows in zip(MODELS, tables, strict=True):
            for row in rows:
                yield model, packed_row(row, self.by[model, row_key(row)])
