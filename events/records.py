"""What a repository's state holds of each pull request and of each attempt in flight."""

from __future__ import annotations

from datetime import datetime

import msgspec

from events.pull_request import PrState
from events.work import FailureClass, Outcome, Stage, VerificationRules

__all__ = ["Flaked", "InFlight", "Place", "PrRecord", "context_of", "import_key", "posix"]

Place = tuple[float, int]
"""A pull request's place on the time line: POSIX seconds, then its number."""


_rules = msgspec.json.Encoder()


def posix(created_at: str) -> float:
    """POSIX seconds of an ISO 8601 time."""
    return datetime.fromisoformat(created_at).timestamp()


def import_key(number: int, inputs: str, rules: VerificationRules) -> str:
    """Under what a repository's state keeps an imported context: one job of one pull request, under all its rules."""
    return f"{number}:{inputs}:{_rules.encode(rules).decode()}"


class InFlight(msgspec.Struct, kw_only=True):
    """An attempt that has started and not ended. ``lost``: another session has verified its pull request meanwhile."""

    attempt_id: str
    issue_number: int
    stage: Stage
    context: str | None
    agent: str | None
    lease: str
    runner: str
    source: int | None = None
    account: str | None = None
    agent_lease: str | None = None
    lost: bool = False


def context_of(attempt: InFlight, outcome: Outcome) -> str | None:
    """What an outcome speaks of: the context that was tried, or that a session made (if it made one)."""
    if outcome.context is not None or attempt.stage is Stage.LLM_GENERATE:
        return outcome.context
    return attempt.context


class Flaked(msgspec.Struct, frozen=True):
    """The attempt that first saw a context's verdict flip: its stage, and where it had the context from.

    ``unjudged``: it is a session, and the infrastructure failed before there was any verdict on what it made.
    """

    stage: Stage
    source: int | None
    unjudged: bool = False


class PrRecord(msgspec.Struct, kw_only=True):
    """One pull request.

    - ``tried``: the contexts refuted on it under its present inputs and rules; ``flaked``: those whose verdict was not
      the same twice, with the attempt that saw it first. Each is tried once more before it is refuted.
    - ``not_before``: POSIX seconds before which nothing is tried on it, after infra failures of its own.
    - ``generation_ended``: an agent tampered on it, and no further session is paid for it.
    - ``context`` and why it is trusted: ``verified_by`` (a stage), ``source`` (the pull request that it was taken from)
      and ``tests`` (the ``tests`` blob of the attempt that verified it).
    - ``failure_class``: of the last failure that was not the infrastructure's; ``failures``: all those attempts.
    - ``generations``, ``aborted``, ``rate_limits``: sessions that were refused, that ended without a verdict, and that
      met the limit of their account; ``made``: what the last of them left.
    """

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
    aborted: int = 0
    rate_limits: int = 0
    infra_failures: int = 0
    runner_deaths: int = 0
    not_before: float = 0.0
    attempt_id: str | None = None
    behind: str | None = None
    context: str | None = None
    reason: str = ""
    flaked: dict[str, Flaked] = msgspec.field(default_factory=dict)
    generation_ended: bool = False
    failure_class: FailureClass | None = None
    verified_by: Stage | None = None
    source: int | None = None
    tests: str | None = None
    made: str | None = None
    failures: list[str] = msgspec.field(default_factory=list)

    @property
    def again(self) -> str | None:
        """The context that is to be tried once more, because its last verdict was a flake."""
        return next((one for one in self.flaked if one not in self.tried), None) if self.flaked else None
