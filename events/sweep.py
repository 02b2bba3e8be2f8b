"""The sweep machine: which repositories a sweep holds, which of them have an actor, and its runs.

::

    repository of a sweep:   pending ──RepositoryActivated──▶ active ──RepositoryRetired──▶ retired
                                ▲                                                             │
                                └──────── RepositoriesAdmitted (rows anew) ──────────────┘

A repository that was active when the processes died is activated again by the next run; that is no new transition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any

import msgspec

from events.errors import IllegalTransition
from events.types import (
    RepositoriesAdmitted,
    RepositoryActivated,
    RepositoryRetired,
    RepositoryRows,
    SweepDefined,
    SweepEvent,
    SweepRunEnded,
    SweepRunStarted,
)

__all__ = ["TRANSITIONS", "RepositoryPhase", "SweepRepository", "SweepState", "evolve", "fold"]


class RepositoryPhase(StrEnum):
    """Where a repository of a sweep stands."""

    PENDING = "pending"
    ACTIVE = "active"
    RETIRED = "retired"


TRANSITIONS: dict[RepositoryPhase, dict[str, RepositoryPhase]] = {
    RepositoryPhase.PENDING: {
        "RepositoriesAdmitted": RepositoryPhase.PENDING,
        "RepositoryActivated": RepositoryPhase.ACTIVE,
    },
    RepositoryPhase.ACTIVE: {
        "RepositoriesAdmitted": RepositoryPhase.PENDING,
        "RepositoryActivated": RepositoryPhase.ACTIVE,
        "RepositoryRetired": RepositoryPhase.RETIRED,
    },
    RepositoryPhase.RETIRED: {
        "RepositoriesAdmitted": RepositoryPhase.PENDING,
    },
}


class SweepRepository(msgspec.Struct, kw_only=True):
    """A repository of the sweep. The counts are those of its retirement."""

    rows: RepositoryRows
    phase: RepositoryPhase = RepositoryPhase.PENDING
    succeeded: int = 0
    failed: int = 0
    unreached: int = 0


class SweepState(msgspec.Struct, kw_only=True):
    """All that stream ``sweep:NAME`` says."""

    sweep: str
    version: int = 0
    defined: SweepDefined | None = None
    repositories: dict[str, SweepRepository] = msgspec.field(default_factory=dict)
    runs: int = 0
    last_run: SweepRunStarted | None = None
    last_end: SweepRunEnded | None = None

    def in_phase(self, phase: RepositoryPhase) -> list[str]:
        """The repositories in one phase, in the order of their admission."""
        return [name for name, one in self.repositories.items() if one.phase is phase]

    @property
    def pull_requests(self) -> int:
        """How many pull requests the sweep holds."""
        return sum(one.rows.pull_requests for one in self.repositories.values())


def evolve(state: SweepState, event: SweepEvent) -> SweepState:
    """Folds one event into ``state``, in place, and returns it; an illegal one raises ``IllegalTransition``."""
    handler = _HANDLERS.get(type(event))
    if handler is None:
        raise IllegalTransition(machine="sweep", state="any", event=type(event).__name__, subject=state.sweep)
    handler(state, event)
    state.version += 1
    return state


def fold(sweep: str, events: Iterable[SweepEvent]) -> SweepState:
    """The state after ``events``, from nothing."""
    state = SweepState(sweep=sweep)
    for event in events:
        evolve(state, event)
    return state


def _next_phase(state: SweepState, repository: str, trigger: str) -> tuple[SweepRepository, RepositoryPhase]:
    known = state.repositories.get(repository)
    phase = known.phase if known else "unknown"
    to = TRANSITIONS[known.phase].get(trigger) if known else None
    if known is None or to is None:
        raise IllegalTransition(machine="sweep", state=phase, event=trigger, subject=f"{state.sweep}: {repository}")
    return known, to


def _defined(state: SweepState, event: SweepDefined) -> None:
    state.defined = event


def _admitted(state: SweepState, event: RepositoriesAdmitted) -> None:
    for rows in event.repositories:
        state.repositories[rows.repository] = SweepRepository(rows=rows)


def _activated(state: SweepState, event: RepositoryActivated) -> None:
    known, to = _next_phase(state, event.repository, "RepositoryActivated")
    known.phase = to


def _retired(state: SweepState, event: RepositoryRetired) -> None:
    known, to = _next_phase(state, event.repository, "RepositoryRetired")
    known.phase = to
    known.succeeded, known.failed, known.unreached = event.succeeded, event.failed, event.unreached


def _run_started(state: SweepState, event: SweepRunStarted) -> None:
    state.runs += 1
    state.last_run, state.last_end = event, None


def _run_ended(state: SweepState, event: SweepRunEnded) -> None:
    state.last_end = event


_HANDLERS: dict[type, Callable[[SweepState, Any], None]] = {
    SweepDefined: _defined,
    RepositoriesAdmitted: _admitted,
    RepositoryActivated: _activated,
    RepositoryRetired: _retired,
    SweepRunStarted: _run_started,
    SweepRunEnded: _run_ended,
}
