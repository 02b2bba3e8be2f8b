"""What the build-context cache knows of a repository and its stream does not: as the core imports it."""

from __future__ import annotations

from collections.abc import Iterable

from actors.admission import imported
from events.commands import ImportContexts
from events.repository_state import RepositoryState
from store.read_models import CachedContext

__all__ = ["import_of"]


def import_of(state: RepositoryState, cached: Iterable[CachedContext]) -> ImportContexts:
    """The command that brings in what is news to ``state``: what others verified, and what was revoked elsewhere."""
    return ImportContexts(contexts=[imported(one) for one in cached if _is_news(state, one)])


def _is_news(state: RepositoryState, one: CachedContext) -> bool:
    if one.revoked_at is not None or one.context in state.revoked:
        return one.context not in state.revoked
    known = state.prs.get(one.issue_number)
    same_job = known is not None and (known.inputs, known.rules) == (one.inputs, one.rules)
    return known is None or not (same_job and known.context == one.context)
