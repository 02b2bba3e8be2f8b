"""The aggregate of the comparison with ``eventsourcing``; importing this module needs that package."""

from __future__ import annotations

from typing import Any

from eventsourcing.domain import Aggregate

__all__ = ["ForeignRepository"]


class ForeignRepository(Aggregate):
    """Pull requests by number, each with the last that happened to it."""

    def __init__(self) -> None:
        self.prs: dict[int, dict[str, Any]] = {}

    class Happened(Aggregate.Event):
        """One event of a repository, as plain JSON."""

        type: str
        data: dict[str, Any]

        def apply(self, aggregate: Any) -> None:
            """Keeps it as the last of its pull request."""
            aggregate.prs[self.data.get("issue_number", 0)] = self.data
