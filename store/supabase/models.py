"""The read models of a Supabase store: read in pages, rebuilt beside the live ones and put in their place at once.

An answer is of one moment: one that takes several pages is read anew while the log goes on meanwhile, a few times; a
long answer from a log that never rests may then mix moments of a second or so. A rebuild takes the place of all rows in
one transaction that finds the log where the fold ended, and is tried anew where it went on.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping

from events.errors import LogUnavailable
from store.log import EventLog, RecordedEvent
from store.read_models import (
    AttemptRow,
    AttemptState,
    CachedContext,
    ErrorRow,
    ReadModels,
    Row,
    decode_projected,
    project,
    refuse_pruned,
)
from store.supabase.rest import Rest
from store.supabase.rows import FoldedTables, unpacked_row

__all__ = ["SupabaseModels"]

PAGE_ROWS = 1000
STAGED_ROWS = 500
"""Rows that travel together to a rebuild."""
CALM_TRIES = 3
"""How often a long answer is read anew because the log went on while it was read."""
REBUILD_TRIES = 10


class SupabaseModels(ReadModels):
    """The read models behind ``rest``. ``write``: they may be rebuilt."""

    def __init__(self, rest: Rest, *, log: EventLog, write: bool) -> None:
        self._rest, self._log, self._write = rest, log, write

    def contexts_of(self, owner: str, repo: str) -> list[CachedContext]:
        rows = self._rows("build_contexts", {"owner": owner, "repo": repo})
        found = [row for row in rows if isinstance(row, CachedContext)]
        return sorted(found, key=lambda row: (row.verified_at, row.issue_number, row.context))

    def attempts(
        self,
        *,
        owner: str | None = None,
        repo: str | None = None,
        issue_number: int | None = None,
        sweep: str | None = None,
        state: AttemptState | None = None,
    ) -> list[AttemptRow]:
        filters = {"owner": owner, "repo": repo, "issue_number": issue_number, "sweep": sweep, "state": state}
        rows = self._rows("build_attempts", filters)
        return sorted(
            (row for row in rows if isinstance(row, AttemptRow)), key=lambda row: (row.started_at, row.attempt_id)
        )

    def errors(
        self, *, owner: str | None = None, repo: str | None = None, issue_number: int | None = None
    ) -> list[ErrorRow]:
        rows = self._rows("error_logs", {"owner": owner, "repo": repo, "issue_number": issue_number})
        return sorted((row for row in rows if isinstance(row, ErrorRow)), key=lambda row: (row.at, row.attempt_id))

    def rebuild(self) -> None:
        if not self._write:
            raise LogUnavailable(f"{self._rest.url}: the log is open for reading only; open it for writing")
        refuse_pruned(self._log)
        tables, seq = FoldedTables(), 0
        for _ in range(REBUILD_TRIES):
            seq = _fold(self._log.read_all(after=seq), tables, seq=seq)
            rebuild = secrets.token_hex(8)
            for part, (model, rows) in enumerate(_parts(tables.packed())):
                arguments = {"rebuild": rebuild, "part": part, "model": model, "rows": rows}
                self._rest.rpc("headrace_stage", arguments)
            if self._rest.rpc("headrace_rebuild", {"rebuild": rebuild, "seq": seq}):
                return
        raise LogUnavailable(f"{self._rest.url}: the log is written all the time; rebuild when no sweep runs")

    def _rows(self, model: str, filters: Mapping[str, object]) -> list[Row]:
        given = {column: value for column, value in filters.items() if value is not None}
        for _ in range(CALM_TRIES):
            rows, calm = self._read(model, given)
            if calm:
                break
        return rows

    def _read(self, model: str, filters: Mapping[str, object]) -> tuple[list[Row], bool]:
        """All rows that match, and whether they are of one moment."""
        rows: list[Row] = []
        seqs: set[int] = set()
        after = ""
        while True:
            arguments = {"model": model, "filters": filters, "after": after, "size": PAGE_ROWS}
            page = self._rest.rpc("headrace_rows", arguments)
            seqs.add(page["seq"])
            rows += [unpacked_row(model, fields)[0] for fields in page["rows"]]
            if len(page["rows"]) < PAGE_ROWS:
                return rows, len(seqs) == 1
            after = page["rows"][-1]["row_key"]


def _fold(recorded: Iterable[RecordedEvent], tables: FoldedTables, *, seq: int) -> int:
    """Projects events; the ``seq`` of the last one, or that given."""
    for record in recorded:
        seq = record.seq
        event = decode_projected(record.type, record.schema, record.data)
        if event is not None:
            tables.changed_by = record.event_id
            project(stream=record.stream, at=record.recorded_at, event=event, tables=tables)
    return seq


def _parts(rows: Iterable[tuple[str, dict[str, object]]]) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Rows of one read model each, as many as travel together."""
    part: list[dict[str, object]] = []
    of = ""
    for model, row in rows:
        if part and (model != of or len(part) == STAGED_ROWS):
            yield of, part
            part = []
        of = model
        part.append(row)
    if part:
        yield of, part
