"""Writing a store from the command line while no sweep does: what the core decided, each step whole or not at all.

A step is one repository's events together with what its sweeps must know, in one transaction: whoever is killed between
two steps runs the command again, which decides anew and finds the first step done.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from actors.ids import new_id
from actors.log_client import new_event
from events.commands import Reopen, Revoke
from events.decide import decide
from events.repository import evolve
from events.repository_state import RepositoryState
from events.sweep import RepositoryPhase, SweepState
from events.sweep import evolve as evolve_sweep
from events.types import Event, RepositoriesAdmitted, RepositoryEvent
from store.log import Append, Appended, EventLog

__all__ = ["decide_and_record"]


def decide_and_record(
    log: EventLog, repository: RepositoryState, command: Revoke | Reopen, *, sweeps: Sequence[SweepState]
) -> list[RepositoryEvent]:
    """Decides on a command, records and folds the events, and gives the repository back to those of ``sweeps`` that are
    done with it although pull requests of theirs are open again.

    Returns:
        the repository's events; none if its stream says it all already.

    Raises:
        LogUnavailable, VersionConflict: nothing was recorded.
    """
    now, stream = time.time(), f"repository:{repository.repository}"
    version = repository.version
    events = decide(repository, command, now)
    for event in events:
        evolve(repository, event)
    batches = [_batch(stream, version, events, now)] if events else []
    for sweep in sweeps:
        woken = _woken(sweep, repository)
        if woken is not None:
            batches.append(_batch(f"sweep:{sweep.sweep}", sweep.version, [woken], now))
            evolve_sweep(sweep, woken)
    for result in log.append_many(batches):
        if not isinstance(result, Appended):
            raise result
    return events


def _batch(stream: str, version: int, events: Sequence[Event], at: float) -> Append:
    return Append(stream, version, [new_event(event, new_id()) for event in events], at)


def _woken(sweep: SweepState, repository: RepositoryState) -> RepositoriesAdmitted | None:
    """What brings a repository back into a sweep that has retired it and has work in it."""
    known = sweep.repositories.get(repository.repository)
    if known is None or known.phase is not RepositoryPhase.RETIRED or not repository.has_work(sweep.sweep):
        return None
    return RepositoriesAdmitted(repositories=[known.rows])
