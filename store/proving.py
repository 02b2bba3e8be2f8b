"""Proves that the read models of a store are what its log gives, whoever keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import msgspec

from store.memory import MemoryTables
from store.opening import Store
from store.read_models import fold

__all__ = ["Rows", "folded_rows", "stored_rows"]


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """All rows of the read models that are asked for: how many of each, and a digest of their content."""

    attempts: int
    errors: int
    contexts: int
    digest: str


def stored_rows(store: Store) -> Rows:
    """The rows as they are kept."""
    contexts = [row for owner, repo in _repositories(store) for row in store.models.contexts_of(owner, repo)]
    return _rows(store.models.attempts(), store.models.errors(), contexts)


def folded_rows(store: Store) -> Rows:
    """The rows as the log gives them, folded anew in memory."""
    tables = MemoryTables()
    fold(store.log.read_all(), tables)
    attempts = sorted(tables.attempts.values(), key=lambda row: (row.started_at, row.attempt_id))
    errors = sorted(tables.errors.values(), key=lambda row: (row.at, row.attempt_id))
    contexts = [
        row
        for name in _repositories(store)
        for row in sorted(
            (one for one in tables.cached.values() if (one.owner, one.repo) == name),
            key=lambda row: (row.verified_at, row.issue_number, row.context),
        )
    ]
    return _rows(attempts, errors, contexts)


def _repositories(store: Store) -> list[tuple[str, str]]:
    names = [info.stream.partition(":")[2] for info in store.log.streams("repository:")]
    return [(owner, repo) for owner, _, repo in (name.partition("/") for name in names)]


def _rows(attempts: Sequence[object], errors: Sequence[object], contexts: Sequence[object]) -> Rows:
    content = msgspec.json.encode([attempts, errors, contexts], order="deterministic")
    return Rows(attempts=len(attempts), errors=len(errors), contexts=len(contexts), digest=sha256(content).hexdigest())
