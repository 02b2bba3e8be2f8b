"""Writing a store from the command line while no sweep does: what the core decided, as :mod:`actors.recording` does."""

from __future__ import annotations

import time
from collections.abc import Sequence

from actors.recording import record
from events.commands import Reopen, Revoke
from events.decide import decide
from events.repository_state import RepositoryState
from events.sweep import SweepState
from events.types import RepositoryEvent
from store.log import EventLog

__all__ = ["decide_and_record"]


def decide_and_record(
    log: EventLog, repository: RepositoryState, command: Revoke | Reopen, *, sweeps: Sequence[SweepState]
) -> list[RepositoryEvent]:
    """Decides on a command and records the events.

    Returns:
        the repository's events; none if its stream says it all already.

    Raises:
        LogUnavailable, VersionConflict: nothing was recorded.
    """
    now = time.time()
    events = decide(repository, command, now)
    record(log, repository, events, sweeps=sweeps, at=now)
    return events
