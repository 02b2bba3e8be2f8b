"""How a pull request is worked on anew although it, or the cache, has an answer already. Pure.

Neither its own earlier success nor the cache is asked: it goes past ``check_cache`` at once. Contexts of its neighbours
are tried as ever, and what was refuted on it may be tried again.
"""

from __future__ import annotations

from collections.abc import Iterable

from events.pull_request import FINISHED, PrState
from events.repository_state import RepositoryState
from events.types import PullRequestReopened, RepositoryEvent, StageEntered
from events.work import Stage

__all__ = ["FORCED", "force"]

FORCED = "forced: neither an earlier success nor the cache counts"
"""The usual reason."""


def force(state: RepositoryState, numbers: Iterable[int], *, reason: str) -> list[RepositoryEvent]:
    """The events that open pull requests of the active sweep again and take them past the cache.

    One that is under way already is left alone, and so is one that the active sweep does not have.
    """
    members = state.members.get(state.sweep, set())
    chosen = [number for number in dict.fromkeys(numbers) if number in members]
    finished = [number for number in chosen if state.prs[number].state in FINISHED]
    events: list[RepositoryEvent] = [
        PullRequestReopened(issue_number=number, sweep=state.sweep, reason=reason) for number in finished
    ]
    past = [number for number in chosen if number in finished or state.prs[number].state is PrState.QUEUED]
    if past:
        events.append(StageEntered(issue_number=past[0], stage=Stage.CHECK_CACHE, reason=reason, others=past[1:]))
        events.append(StageEntered(issue_number=past[0], stage=Stage.FIND_SIMILAR, reason=reason, others=past[1:]))
    return events
