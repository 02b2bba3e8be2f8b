"""Writing to a store while no sweep does: what the core decided, each step whole or not at all.

A step is one repository's events together with what its sweeps must know, in one transaction: whoever is killed between
two steps decides anew and finds the first step done.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors.ids import new_id
from actors.log_client import new_event
from events.repository import evolve
from events.repository_state import RepositoryState
from events.sweep import RepositoryPhase, SweepState
from events.sweep import evolve as evolve_sweep
from events.types import Event, RepositoriesAdmitted, RepositoryEvent
from store.log import Append, Appended, EventLog

__all__ = ["record"]


def record(
    log: EventLog,
    repository: RepositoryState,
    events: Sequence[RepositoryEvent],
    *,
    sweeps: Sequence[SweepState],
    at: float,
) -> None:
    """Records and folds a repository's events, and gives it back to those of ``sweeps`` that are done with it although
    pull requests of theirs are open again. ``at``: POSIX seconds.

    Raises:
        LogUnavailable, VersionConflict: nothing was recorded.
    """
    stream, version = f"repository:{repository.repository}", repository.version
    for event in events:
        evolve(repository, event)
    batches = [_batch(stream, version, events, at)] if events else []
    for sweep in sweeps:
        woken = _woken(sweep, repository)
        if woken is not None:
            batches.append(_batch(f"sweep:{sweep.sweep}", sweep.version, [woken], at))
            evolve_sweep(sweep, woken)
    for result in log.append_many(batches):
        if not isinstance(result, Appended):
            raise result


def _batch(stream: str, version: int, events: Sequence[Event], at: float) -> Append:
    return Append(stream, version, [new_event(event, new_id()) for event in events], at)


def _woken(sweep: SweepState, repository: RepositoryState) -> RepositoriesAdmitted | None:
    """What brings a repository back into a sweep that has retired it and has work in it."""
    known = sweep.repositories.get(repository.repository)
    if known is None or known.phase is not RepositoryPhase.RETIRED or not repository.has_work(sweep.sweep):
        return None
    return RepositoriesAdmitted(repositories=[known.rows])
