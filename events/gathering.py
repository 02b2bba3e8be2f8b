"""The gather machine: a repository's reports, each prepared and then finished, once.

::

    idle ──GatherPrepared──▶ prepared ──GatherFinished──▶ idle

Whoever dies between the two finds the report prepared, and has only to finish it. A wave is what was finished since the
report before, so no pull request's end is told twice and none is left out. Pure.
"""

from __future__ import annotations

import msgspec

from events.errors import IllegalTransition
from events.gather_events import GatherEvent, GatherFinished, GatherPrepared

__all__ = ["GatherState", "evolve", "finish", "prepare"]


class GatherState(msgspec.Struct, kw_only=True):
    """What stream ``gather:OWNER/REPO`` says. ``upto``: the version of the repository's stream that is covered;
    ``waves``: reports that were finished; ``report``: the blob of the last one that could be made."""

    repository: str
    version: int = 0
    upto: int = 0
    waves: int = 0
    pending: GatherPrepared | None = None
    report: str | None = None


def evolve(state: GatherState, event: GatherEvent) -> GatherState:
    """Folds one event into ``state``, in place, and returns it.

    Raises:
        IllegalTransition: a report is prepared already, or another or none is; the state is unchanged.
    """
    pending = state.pending
    if isinstance(event, GatherPrepared):
        if pending is not None or event.upto <= state.upto:
            raise _illegal(state, event)
        state.pending = event
    elif isinstance(event, GatherFinished):
        if pending is None or pending.batch_id != event.batch_id:
            raise _illegal(state, event)
        state.upto, state.pending = pending.upto, None
        state.waves += 1
        state.report = event.report or state.report
    else:
        raise _illegal(state, event)
    state.version += 1
    return state


def _illegal(state: GatherState, event: object) -> IllegalTransition:
    where = "prepared" if state.pending is not None else "idle"
    return IllegalTransition(machine="gather", state=where, event=type(event).__name__, subject=state.repository)


def prepare(
    state: GatherState, *, batch_id: str, upto: int, issue_numbers: list[int], prepared: str
) -> list[GatherEvent]:
    """The intent of a report on these pull requests; none if one is prepared already, or there is nothing to tell."""
    if state.pending is not None or not issue_numbers or upto <= state.upto:
        return []
    return [GatherPrepared(batch_id=batch_id, upto=upto, issue_numbers=issue_numbers, prepared=prepared)]


def finish(state: GatherState, event: GatherFinished) -> list[GatherEvent]:
    """The end of the report that is prepared; none if it is finished already."""
    if state.pending is None or state.pending.batch_id != event.batch_id:
        return []
    return [event]
