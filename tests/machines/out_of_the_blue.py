"""Events that come at the wrong moment."""

from __future__ import annotations

from typing import Any

from events.types import (
    AttemptFailed,
    AttemptInterrupted,
    AttemptRateLimited,
    AttemptStarted,
    AttemptSucceeded,
    CacheHit,
    ContextRevoked,
    LeaseAwaited,
    NeighboursQueued,
    PullRequestFailed,
    PullRequestHeld,
    PullRequestReopened,
    RepositoryActivated,
    StageEntered,
)
from events.work import Stage
from tests.events.worlds import outcome

__all__ = ["out_of_the_blue"]


def out_of_the_blue(number: int, attempt_id: str) -> list[Any]:
    """Every event about one pull request and one attempt, and two that no repository takes."""
    bad, good = outcome(verified=False), outcome()
    attempt: dict[str, Any] = {"attempt_id": attempt_id, "issue_number": number}
    stages: list[Any] = [StageEntered(issue_number=number, stage=stage) for stage in Stage]
    stages += [AttemptStarted(**attempt, stage=stage, sweep="s", lease="l", runner="r") for stage in Stage]
    return [
        *stages,
        CacheHit(issue_number=number, context="c", attempt_id="old", reason=""),
        PullRequestHeld(issue_number=number, behind="b", reason=""),
        LeaseAwaited(issue_number=number, reason=""),
        AttemptSucceeded(**attempt, context="c", outcome=good),
        AttemptFailed(**attempt, outcome=bad),
        AttemptRateLimited(**attempt, account="claude", message=""),
        AttemptInterrupted(**attempt, reason=""),
        PullRequestFailed(issue_number=number, reason="", stage="tests"),
        PullRequestReopened(issue_number=number, sweep="s", reason=""),
        ContextRevoked(context="c", why="", contexts=["c"], issue_numbers=[number]),
        NeighboursQueued(source=1, issue_numbers=[number, 99], reason=""),
        RepositoryActivated(repository="o/r"),
    ]
