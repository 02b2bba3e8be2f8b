"""A repository's wave: which pull requests were finished by a stretch of its stream, and how. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from events.pull_request import FINISHED, PrState
from events.repository_state import RepositoryState
from events.types import (
    AttemptFailed,
    AttemptInterrupted,
    AttemptRateLimited,
    AttemptStarted,
    AttemptSucceeded,
    CacheHit,
    PullRequestFailed,
    RepositoryEvent,
)
from events.work import Outcome, SessionReport, Stage

__all__ = ["Processed", "Session", "wave_of"]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One session of an agent on a pull request. ``ended``: ``verified``, or what became of it instead."""

    account: str
    ended: str
    message: str = ""
    context: str | None = None
    report: SessionReport | None = None


class Processed(msgspec.Struct, frozen=True, kw_only=True):
    """How a pull request was finished. ``stage``: of the attempt that verified it, or where it failed; ``outcome``: of
    its last attempt, if that told one; ``sessions``: all that were paid for it in this wave."""

    issue_number: int
    succeeded: bool
    stage: str
    reason: str
    context: str | None = None
    failure_class: str | None = None
    outcome: Outcome | None = None
    sessions: tuple[Session, ...] = ()


def wave_of(state: RepositoryState, events: Iterable[RepositoryEvent]) -> list[Processed]:
    """The pull requests that ``events`` finished and that still are in ``state``, in the order of their times.

    One that was opened again and finished again is told as it ended last.
    """
    wave = _Wave()
    for event in events:
        wave.take(event)
    found = [one for number, one in wave.finished.items() if state.prs[number].state in FINISHED]
    kept = [one for one in found if one.succeeded == (state.prs[one.issue_number].state is PrState.SUCCEEDED)]
    kept.sort(key=lambda one: (state.prs[one.issue_number].at, one.issue_number))
    return [msgspec.structs.replace(one, sessions=tuple(wave.sessions.get(one.issue_number, ()))) for one in kept]


class _Wave:
    """Reads events in order."""

    def __init__(self) -> None:
        self.finished: dict[int, Processed] = {}
        self.sessions: dict[int, list[Session]] = {}
        self._started: dict[str, AttemptStarted] = {}
        self._last: dict[int, Outcome] = {}

    def take(self, event: RepositoryEvent) -> None:
        match event:
            case AttemptStarted():
                self._started[event.attempt_id] = event
            case AttemptSucceeded():
                outcome = event.outcome
                self._session(event.attempt_id, "verified", outcome.message, outcome.session, outcome.context)
                started = self._started.get(event.attempt_id)
                self.finished[event.issue_number] = Processed(
                    issue_number=event.issue_number,
                    succeeded=True,
                    stage=started.stage.value if started is not None else event.outcome.stage,
                    reason=event.outcome.message,
                    context=event.context,
                    outcome=event.outcome,
                )
            case AttemptFailed():
                outcome = self._last[event.issue_number] = event.outcome
                self._session(event.attempt_id, "failed", outcome.message, outcome.session, outcome.context)
            case AttemptRateLimited():
                self._session(event.attempt_id, "rate_limited", event.message, event.session, event.context)
            case AttemptInterrupted():
                self._session(event.attempt_id, "interrupted", event.reason, event.session, None)
            case CacheHit():
                self.finished[event.issue_number] = Processed(
                    issue_number=event.issue_number,
                    succeeded=True,
                    stage=Stage.CHECK_CACHE.value,
                    reason=event.reason,
                    context=event.context,
                )
            case PullRequestFailed():
                self.finished[event.issue_number] = Processed(
                    issue_number=event.issue_number,
                    succeeded=False,
                    stage=event.stage,
                    reason=event.reason,
                    failure_class=event.failure_class.value if event.failure_class is not None else None,
                    outcome=self._last.get(event.issue_number),
                )
            case _:
                pass

    def _session(
        self, attempt_id: str, ended: str, message: str, report: SessionReport | None, context: str | None
    ) -> None:
        started = self._started.get(attempt_id)
        if started is None or started.stage is not Stage.LLM_GENERATE:
            return
        account = (report.account if report is not None else "") or started.account or started.agent or "agent"
        session = Session(
            account=account,
            ended=ended,
            message=message,
            context=context,
            report=report,
        )
        self.sessions.setdefault(started.issue_number, []).append(session)
