"""Read models: tables folded from the log, kept in the transaction that appends, and made again from the log at will.

- ``build_attempts``: every attempt, from its start on.
- ``error_logs``: every attempt that ended without a verified context, and why.
- ``build_contexts``: the build-context cache: what is verified, on which pull request, under which rules, what it was
  made from, and whether it was revoked since.
- ``admissions``: pull requests as they last joined; the cache's rows take their inputs and rules from it.

``project`` is the only place that knows what an event does to a row; backends only get and put rows. So a live table
and one made by ``rebuild`` are equal, in every backend.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from events import codec
from events.errors import InputError
from events.types import (
    AttemptFailed,
    AttemptInterrupted,
    AttemptRateLimited,
    AttemptStarted,
    AttemptSucceeded,
    ContextRevoked,
    Event,
    PullRequestsAdmitted,
)
from events.work import Outcome, SessionReport, Stage
from store.log import EventLog, RecordedEvent
from store.model_rows import AdmissionRow, AttemptRow, AttemptState, CachedContext, ErrorRow, Row

__all__ = [
    "PROJECTED",
    "AdmissionRow",
    "AttemptRow",
    "AttemptState",
    "CachedContext",
    "ErrorRow",
    "ReadModels",
    "Row",
    "Tables",
    "decode_projected",
    "fold",
    "project",
    "refuse_pruned",
]

_REPOSITORY = "repository:"


class Tables(ABC):
    """What ``project`` needs of a backend: rows by key, and a place to put rows (the last one of a key stays)."""

    @abstractmethod
    def admission(self, owner: str, repo: str, issue_number: int) -> AdmissionRow | None:
        """The row of this pull request."""

    @abstractmethod
    def attempt(self, attempt_id: str) -> AttemptRow | None:
        """The row of this attempt."""

    @abstractmethod
    def contexts(self, owner: str, repo: str, context: str) -> list[CachedContext]:
        """The rows of this context in this repository, of every pull request, by number."""

    @abstractmethod
    def put(self, row: Row) -> None:
        """Adds ``row``, or takes the place of the row with its key."""


class ReadModels(ABC):
    """What people and actors ask. All answers are of one moment and in the order of their keys' log."""

    @abstractmethod
    def contexts_of(self, owner: str, repo: str) -> list[CachedContext]:
        """All contexts verified on pull requests of this repository, by time of verification, then by key; those that
        were revoked among them, and marked so."""

    @abstractmethod
    def attempts(
        self,
        *,
        owner: str | None = None,
        repo: str | None = None,
        issue_number: int | None = None,
        sweep: str | None = None,
        state: AttemptState | None = None,
    ) -> list[AttemptRow]:
        """The attempts that match all filters given, by start, then by id."""

    @abstractmethod
    def errors(
        self, *, owner: str | None = None, repo: str | None = None, issue_number: int | None = None
    ) -> list[ErrorRow]:
        """Why attempts failed, for those that match all filters given, by time, then by id."""

    @abstractmethod
    def rebuild(self) -> None:
        """Empties the tables and folds the whole log into them again, in one transaction.

        Raises:
            UnknownEventType: the log holds an event that the tables need and this program cannot read.
            LogUnavailable: the log is open for reading only, or cannot be written now.
        """


def decode_projected(type_: str, schema: int, data: bytes) -> Event | None:
    """The event, if a read model is made from its type; else ``None``, and its data is not looked at.

    Raises:
        UnknownEventType: its data cannot be read.
    """
    return codec.decode(type_, schema, data) if type_ in PROJECTED else None


def fold(recorded: Iterable[RecordedEvent], tables: Tables) -> None:
    """Projects all events, in their order. Raises ``UnknownEventType`` for one that cannot be read."""
    for record in recorded:
        event = decode_projected(record.type, record.schema, record.data)
        if event is not None:
            project(stream=record.stream, at=record.recorded_at, event=event, tables=tables)


def project(*, stream: str, at: float, event: Event, tables: Tables) -> None:
    """Puts the rows that ``event``, recorded in ``stream`` at ``at`` (POSIX seconds), changes.

    An event of a stream that is no repository's, and the end of an attempt that never started, change nothing.
    """
    projection = PROJECTED.get(type(event).__name__)
    if projection is not None and stream.startswith(_REPOSITORY):
        owner, _, repo = stream.removeprefix(_REPOSITORY).partition("/")
        projection(owner, repo, at, event, tables)


def _admitted(owner: str, repo: str, at: float, event: PullRequestsAdmitted, tables: Tables) -> None:  # noqa: ARG001
    for admission in event.pull_requests:
        tables.put(
            AdmissionRow(
                owner=owner,
                repo=repo,
                issue_number=admission.issue_number,
                sweep=event.sweep,
                created_at=admission.created_at,
                commit=admission.commit,
                python_version=admission.python_version,
                inputs=admission.inputs,
                rules=event.rules,
            )
        )


def _started(owner: str, repo: str, at: float, event: AttemptStarted, tables: Tables) -> None:
    tables.put(
        AttemptRow(
            attempt_id=event.attempt_id,
            sweep=event.sweep,
            owner=owner,
            repo=repo,
            issue_number=event.issue_number,
            stage=event.stage,
            agent=event.agent,
            context=event.context,
            source=event.source,
            reason=event.reason,
            started_at=at,
            account=event.account,
        )
    )


def _succeeded(owner: str, repo: str, at: float, event: AttemptSucceeded, tables: Tables) -> None:
    attempt = tables.attempt(event.attempt_id)
    if attempt is None:
        return
    tables.put(_ended(attempt, at, AttemptState.SUCCEEDED, event.outcome, context=event.context))
    admission = tables.admission(owner, repo, event.issue_number)
    if admission is not None:
        tables.put(
            CachedContext(
                context=event.context,
                owner=owner,
                repo=repo,
                issue_number=event.issue_number,
                inputs=admission.inputs,
                created_at=admission.created_at,
                python_version=admission.python_version,
                rules=admission.rules,
                attempt_id=event.attempt_id,
                stage=attempt.stage,
                source=attempt.source,
                verified_at=at,
                parent=_parent(attempt, event),
                tests=event.outcome.blobs.get("tests"),
            )
        )


def _parent(started: AttemptRow, event: AttemptSucceeded) -> str | None:
    made = started.stage is Stage.LLM_GENERATE and started.context != event.context
    return started.context if made else None


def _failed(owner: str, repo: str, at: float, event: AttemptFailed, tables: Tables) -> None:  # noqa: ARG001
    attempt = tables.attempt(event.attempt_id)
    if attempt is None:
        return
    outcome = event.outcome
    ended = _ended(attempt, at, AttemptState.FAILED, outcome, context=outcome.context or attempt.context)
    tables.put(ended)
    tables.put(_error(ended, at, number=event.issue_number))


def _revoked(owner: str, repo: str, at: float, event: ContextRevoked, tables: Tables) -> None:
    for context in event.contexts:
        for row in tables.contexts(owner, repo, context):
            tables.put(replace(row, revoked_at=at, revoked_why=event.why))


def _rate_limited(owner: str, repo: str, at: float, event: AttemptRateLimited, tables: Tables) -> None:  # noqa: ARG001
    attempt = tables.attempt(event.attempt_id)
    if attempt is None:
        return
    ended = replace(
        attempt,
        state=AttemptState.RATE_LIMITED,
        finished_at=at,
        context=event.context or attempt.context,
        message=event.message,
        blobs=event.blobs,
    )
    ended = replace(_with_session(ended, event.session), reset_at=event.reset_at)
    tables.put(ended)
    tables.put(_error(ended, at, number=event.issue_number))


def _interrupted(owner: str, repo: str, at: float, event: AttemptInterrupted, tables: Tables) -> None:  # noqa: ARG001
    attempt = tables.attempt(event.attempt_id)
    if attempt is None:
        return
    state = AttemptState.INTERRUPTED
    ended = replace(attempt, state=state, finished_at=at, message=event.reason, blobs=event.blobs)
    ended = _with_session(ended, event.session)
    tables.put(ended)
    tables.put(_error(ended, at, number=event.issue_number))


def _ended(attempt: AttemptRow, at: float, state: AttemptState, outcome: Outcome, *, context: str | None) -> AttemptRow:
    tests, metrics = outcome.tests, outcome.metrics
    return replace(
        _with_session(attempt, outcome.session),
        state=state,
        finished_at=at,
        context=context,
        ended_stage=outcome.stage,
        failure_class=outcome.failure_class,
        message=outcome.message,
        tests_passed=tests and tests.passed,
        tests_failed=tests and tests.failed,
        tests_errors=tests and tests.errors,
        tests_skipped=tests and tests.skipped,
        tests_flaky=tests and tests.flaky,
        tests_known=tests and tests.known,
        build_s=metrics.build_s,
        test_s=metrics.test_s,
        peak_memory_bytes=metrics.peak_memory_bytes,
        image_bytes=metrics.image_bytes,
        build_reused=metrics.build_reused,
        image=outcome.image,
        log_tail=outcome.log_tail,
        blobs=outcome.blobs,
        exit_code=outcome.exit_code,
    )


def _with_session(attempt: AttemptRow, report: SessionReport | None) -> AttemptRow:
    if report is None:
        return attempt
    return replace(
        attempt,
        reset_at=report.reset_at,
        account=report.account,
        session_ended=report.ended,
        agent_exit_code=report.exit_code,
        agent_version=report.version,
        model=report.model,
        session_id=report.session_id,
        input_tokens=report.input_tokens,
        cached_input_tokens=report.cached_input_tokens,
        output_tokens=report.output_tokens,
        tokens_partial=report.partial,
        usd=report.cost_usd,
        session_s=report.wall_s,
    )


def _error(ended: AttemptRow, at: float, *, number: int) -> ErrorRow:
    return ErrorRow(
        attempt_id=ended.attempt_id,
        owner=ended.owner,
        repo=ended.repo,
        issue_number=number,
        at=at,
        stage=ended.ended_stage or ended.stage.value,
        failure_class=ended.failure_class,
        message=ended.message,
        log_tail=ended.log_tail,
        blobs=ended.blobs,
        state=ended.state,
        exit_code=ended.exit_code,
        reset_at=ended.reset_at,
        agent=ended.agent,
        account=ended.account,
        session_ended=ended.session_ended,
        agent_exit_code=ended.agent_exit_code,
        model=ended.model,
        input_tokens=ended.input_tokens,
        output_tokens=ended.output_tokens,
        usd=ended.usd,
    )


PROJECTED: Mapping[str, Callable[[str, str, float, Any, Tables], None]] = {
    PullRequestsAdmitted.__name__: _admitted,
    AttemptStarted.__name__: _started,
    AttemptSucceeded.__name__: _succeeded,
    AttemptFailed.__name__: _failed,
    AttemptRateLimited.__name__: _rate_limited,
    AttemptInterrupted.__name__: _interrupted,
    ContextRevoked.__name__: _revoked,
}
"""The event types that change a read model, by name."""


def refuse_pruned(log: EventLog) -> None:
    """Raises ``InputError`` if events were pruned: what they put into the read models cannot be had from the log."""
    pruned = log.pruned()
    if pruned:
        raise InputError(
            f"read models cannot be rebuilt: events of {len(pruned)} streams were pruned ({min(pruned)}, …); "
            f"rebuild them from a copy of the log that was made before"
        )
