"""What the build-context cache knows of a repository and its stream does not: as the core imports it."""

from __future__ import annotations

from collections.abc import Iterable

from events.commands import ImportContexts
from events.repository_state import RepositoryState
from events.types import ImportedContext
from store.read_models import CachedContext

__all__ = ["import_of"]


def import_of(state: RepositoryState, cached: Iterable[CachedContext]) -> ImportContexts:
    """The command that brings in what is news to ``state``: what others verified, and what was revoked elsewhere."""
    return ImportContexts(contexts=[_imported(one) for one in cached if _is_news(state, one)])


def _is_news(state: RepositoryState, one: CachedContext) -> bool:
    if one.revoked_at is not None or one.context in state.revoked:
        return one.context not in state.revoked
    known = state.prs.get(one.issue_number)
    same_job = known is not None and (known.inputs, known.rules) == (one.inputs, one.rules)
    return known is None or not (same_job and known.context == one.context)


def _imported(one: CachedContext) -> ImportedContext:
    return ImportedContext(
        context=one.context,
        issue_number=one.issue_number,
        created_at=one.created_at,
        inputs=one.inputs,
        rules=one.rules,
        attempt_id=one.attempt_id,
        parent=one.parent,
        tests=one.tests,
        revoked=one.revoked_why if one.revoked_at is not None else None,
    )
