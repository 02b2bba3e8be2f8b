"""The aggregates of the comparison with ``eventsourcing``; importing this module needs that package."""

from __future__ import annotations

from typing import Any

import msgspec
from eventsourcing.domain import Aggregate

from events.codec import EVENT_TYPES
from events.repository import evolve
from events.repository_state import RepositoryState

__all__ = ["EqualRepository", "LightRepository"]


class EqualRepository(Aggregate):
    """Folds the state that the product folds, by its own transitions: equal work with an equal result."""

    def __init__(self, repository: str) -> None:
        self.state = RepositoryState(repository=repository)

    class Happened(Aggregate.Event):
        """One event of a repository, as plain JSON."""

        type: str
        data: dict[str, Any]

        def apply(self, aggregate: Any) -> None:
            """Folds it."""
            event: Any = msgspec.convert(self.data, EVENT_TYPES[self.type])
            evolve(aggregate.state, event)


class LightRepository(Aggregate):
    """Pull requests by number, each with the last that happened to it: far less than the product folds."""

    def __init__(self, repository: str) -> None:
        self.repository = repository
        self.prs: dict[int, dict[str, Any]] = {}

    class Happened(Aggregate.Event):
        """One event of a repository, as plain JSON."""

        type: str
        data: dict[str, Any]

        def apply(self, aggregate: Any) -> None:
            """Keeps it as the last of its pull request."""
            aggregate.prs[self.data.get("issue_number", 0)] = self.data
