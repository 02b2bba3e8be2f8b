"""The rows of the read models, as :mod:`store.read_models` folds them from the log and people read them with SQL."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from events.work import FailureClass, Stage, VerificationRules

__all__ = ["AdmissionRow", "AttemptRow", "AttemptState", "CachedContext", "ErrorRow", "Row"]


class AttemptState(StrEnum):
    """What became of an attempt."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RATE_LIMITED = "rate_limited"
    INTERRUPTED = "interrupted"


class AdmissionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A pull request as it last joined a timeline."""

    owner: str
    repo: str
    issue_number: int
    sweep: str
    created_at: str
    commit: str
    python_version: str
    inputs: str
    rules: VerificationRules


class AttemptRow(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt. Times are POSIX seconds; ``reason``: why it was made; ``message``: how it ended.

    ``exit_code``: of the build step that failed. Of a session: ``account``; how it ended (``session_ended``, a value of
    ``SessionReport.ended``) and the exit code of its CLI; what it used, as far as the CLI tells (``SessionReport``);
    ``session_s``: its seconds without the last verification.
    """

    attempt_id: str
    sweep: str
    owner: str
    repo: str
    issue_number: int
    stage: Stage
    agent: str | None
    context: str | None
    source: int | None
    reason: str
    started_at: float
    state: AttemptState = AttemptState.RUNNING
    finished_at: float | None = None
    ended_stage: str | None = None
    failure_class: FailureClass | None = None
    message: str = ""
    tests_passed: int | None = None
    tests_failed: int | None = None
    tests_errors: int | None = None
    tests_skipped: int | None = None
    build_s: float | None = None
    test_s: float | None = None
    peak_memory_bytes: int | None = None
    image_bytes: int | None = None
    build_reused: bool = False
    image: str | None = None
    log_tail: str = ""
    blobs: dict[str, str] = msgspec.field(default_factory=dict)
    reset_at: float | None = None
    tests_flaky: int | None = None
    tests_known: int | None = None
    exit_code: int | None = None
    account: str | None = None
    session_ended: str | None = None
    agent_exit_code: int | None = None
    agent_version: str | None = None
    model: str | None = None
    session_id: str | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    tokens_partial: bool = False
    usd: float | None = None
    session_s: float | None = None


class ErrorRow(msgspec.Struct, frozen=True, kw_only=True):
    """Why an attempt came to nothing. ``at``: POSIX seconds; ``stage``: where it ended, or was when it was cut short.

    ``state`` tells failed ones from limited and interrupted ones; the other columns are those of its ``AttemptRow``.
    """

    attempt_id: str
    owner: str
    repo: str
    issue_number: int
    at: float
    stage: str
    failure_class: FailureClass | None
    message: str
    log_tail: str
    blobs: dict[str, str]
    state: AttemptState = AttemptState.FAILED
    exit_code: int | None = None
    reset_at: float | None = None
    agent: str | None = None
    account: str | None = None
    session_ended: str | None = None
    agent_exit_code: int | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    usd: float | None = None


class CachedContext(msgspec.Struct, frozen=True, kw_only=True):
    """A context that is verified for one pull request, with the inputs and rules that it was verified under.

    ``created_at`` (ISO 8601) is the pull request's; ``stage`` and ``source`` tell how the context got to it, ``parent``
    what a session made it from; ``tests`` is the blob of that name of the attempt that verified it. ``verified_at`` and
    ``revoked_at`` are in POSIX seconds; one that was revoked is not to be used, for the reason ``revoked_why``.
    """

    context: str
    owner: str
    repo: str
    issue_number: int
    inputs: str
    created_at: str
    python_version: str
    rules: VerificationRules
    attempt_id: str
    stage: Stage
    source: int | None
    verified_at: float
    parent: str | None = None
    tests: str | None = None
    revoked_at: float | None = None
    revoked_why: str | None = None


Row = AdmissionRow | AttemptRow | ErrorRow | CachedContext
