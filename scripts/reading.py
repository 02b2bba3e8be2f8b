"""Reading a store from the command line: a sweep's and its repositories' states, folded from the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from events.errors import UnknownSweep
from events.repository_state import RepositoryState
from events.sweep import SweepState
from store.log import EventLog
from store.opening import Store, open_store
from store.snapshots import load

__all__ = ["open_sweep", "read_repository", "read_sweep"]

PREFIX = "sweep:"


@contextmanager
def open_sweep(url: str, sweep: str) -> Iterator[tuple[Store, SweepState]]:
    """Opens a store for reading, together with the state of one of its sweeps.

    Raises:
        UnknownSweep: it holds no such sweep; the error names those that it holds.
    """
    with open_store(url, write=False) as store:
        state = read_sweep(store.log, sweep)
        if state.defined is None:
            known = tuple(one.stream.removeprefix(PREFIX) for one in store.log.streams(PREFIX))
            raise UnknownSweep(sweep=sweep, store=url, known=known)
        yield store, state


def read_sweep(log: EventLog, sweep: str) -> SweepState:
    """Folds ``sweep:NAME``; the state of a sweep that is not there has ``defined`` unset."""
    return cast(SweepState, load(log, PREFIX + sweep).state)


def read_repository(log: EventLog, repository: str) -> RepositoryState:
    """Folds ``repository:OWNER/REPO``; empty if it is not there."""
    return cast(RepositoryState, load(log, f"repository:{repository}").state)
