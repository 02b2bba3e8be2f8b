"""What a repository's state holds of each pull request and of each attempt in flight."""

from __future__ import annotations

from datetime import datetime

import msgspec

from events.pull_request import PrState
from events.work import Stage, VerificationRules

__all__ = ["InFlight", "Place", "PrRecord", "import_key", "posix"]

Place = tuple[float, int]
"""A pull request's place on the time line: POSIX seconds, then its number."""


def posix(created_at: str) -> float:
    """POSIX seconds of an ISO 8601 time."""
    return datetime.fromisoformat(created_at).timestamp()


def import_key(number: int, inputs: str, rules: VerificationRules) -> str:
    """Under what a repository's state keeps an imported context: one job of one pull request."""
    return f"{number}:{inputs}:{rules.level}:{rules.min_pass_ratio}"


class InFlight(msgspec.Struct, kw_only=True):
    """An attempt that has started and not ended."""

    attempt_id: str
    issue_number: int
    stage: Stage
    context: str | None
    agent: str | None
    lease: str
    runner: str


class PrRecord(msgspec.Struct, kw_only=True):
    """One pull request. ``tried``: the contexts refuted on it under its present inputs and rules. ``not_before``: POSIX
    seconds before which nothing is tried on it, after infra failures of its own."""

    issue_number: int
    created_at: str
    at: float
    commit: str
    python_version: str
    row: str
    inputs: str
    rules: VerificationRules
    reached: bool
    state: PrState = PrState.QUEUED
    tried: set[str] = msgspec.field(default_factory=set)
    generations: int = 0
    rate_limits: int = 0
    infra_failures: int = 0
    runner_deaths: int = 0
    not_before: float = 0.0
    attempt_id: str | None = None
    behind: str | None = None
    context: str | None = None
    reason: str = ""
