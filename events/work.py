"""The nouns that cross between core, store and actors: a pull request's inputs, a work order, an outcome.

All are frozen msgspec Structs: they are validated when decoded, compare by value and are encoded as JSON in the log.
Times are ISO 8601 strings in UTC where people read them and POSIX seconds (``float``) where the core computes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

import msgspec

__all__ = [
    "Admission",
    "CascadePolicy",
    "Check",
    "FailureClass",
    "ImportedContext",
    "Level",
    "Metrics",
    "Outcome",
    "PriorAttempt",
    "PullRequest",
    "SessionReport",
    "Stage",
    "TestCounts",
    "VerificationRules",
    "WorkOrder",
]


class Stage(StrEnum):
    """The stages of a pull request in which attempts are made."""

    CHECK_CACHE = "check_cache"
    FIND_SIMILAR = "find_similar"
    TRY_SIMILAR = "try_similar"
    TRY_DEFAULT = "try_default"
    LLM_GENERATE = "llm_generate"


class Level(StrEnum):
    """How far a verification goes; each level includes those before it."""

    BUILD = "build"
    SMOKE = "smoke"
    TESTS = "tests"
    F2P = "f2p"


class FailureClass(StrEnum):
    """Who has to answer for a failure. ``infra`` never counts against the context or the pull request."""

    INFRA = "infra"
    RECIPE = "recipe"
    AGENT = "agent"
    TAMPER = "tamper"
    TIMEOUT = "timeout"
    FLAKE = "flake"


class PullRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One row of a timeline (CONTRACTS.md section 4). ``created_at`` is ISO 8601 in UTC."""

    owner: str
    repo: str
    issue_number: int
    sha: str
    created_at: str
    base_sha: str | None = None
    title: str | None = None
    body: str | None = None
    pr_context: str | None = None
    patch: str | None = None
    test_patch: str | None = None
    fail_to_pass: list[str] | None = None
    pass_to_pass: list[str] | None = None
    env_payload: str | None = None
    python_version: str | None = None
    primary_root: str | None = None
    clone_url: str | None = None
    seed: bool = True

    @property
    def repository(self) -> str:
        """``owner/repo``."""
        return f"{self.owner}/{self.repo}"

    @property
    def name(self) -> str:
        """``owner/repo#number``, as people write it."""
        return f"{self.owner}/{self.repo}#{self.issue_number}"

    @property
    def commit(self) -> str:
        """The commit whose tree is built: ``base_sha``, or else ``sha``."""
        return self.base_sha or self.sha


class VerificationRules(msgspec.Struct, frozen=True, kw_only=True):
    """What a context must do to count as verified. Part of the log: a verdict holds under its rules only.

    ``must_pass``: tests, or patterns of them (``fnmatch``), that have to pass whatever the ratio is. ``reruns``: how
    often a failing test is run again before it counts as failed. ``allow_known_failures``: when a neighbour's context
    is reused, tests that failed where it was verified may fail here too, by their identity.
    """

    level: Level = Level.TESTS
    min_pass_ratio: float = 0.9
    must_pass: tuple[str, ...] = ()
    reruns: int = 2
    allow_known_failures: bool = True


class CascadePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The knobs of a cascade (CONTRACTS.md section 1). Part of the log: a decision can be replayed under its policy.

    ``stock_context`` is the digest of the stock template; ``generate`` tells whether any agent may be paid. Of one pull
    request: ``max_attempts`` sessions may fail, ``max_aborted`` may end without a verdict, ``rl_max_retries`` limits of
    accounts are waited out, and ``race`` accounts work at once after a session has failed.
    """

    stock_context: str
    window_days: float = 60.0
    neighbor_cap: int = 40
    tasks_per_repo: int = 0
    try_default: bool = True
    max_candidates: int = 6
    generate: bool = False
    max_attempts: int = 3
    max_aborted: int = 2
    rl_max_retries: int = 3
    race: int = 1


class Admission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One pull request as it entered a timeline.

    ``row`` is the blob of its full timeline row; ``inputs`` the digest of what decides its environment (commit,
    Python version, requirements): equal inputs under equal rules are the same job.
    """

    issue_number: int
    created_at: str
    commit: str
    python_version: str
    row: str
    inputs: str
    seed: bool = True


class ImportedContext(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A context that the build-context cache knows as verified for one pull request.

    ``parent``: the context that a session made it from; ``tests``: the ``tests`` blob of the attempt that verified it;
    ``revoked``: why it is not to be used any more.
    """

    context: str
    issue_number: int
    created_at: str
    inputs: str
    rules: VerificationRules
    attempt_id: str
    parent: str | None = None
    tests: str | None = None
    revoked: str | None = None


class Check(msgspec.Struct, frozen=True, gc=False):
    """One thing that a verification looked at, and what it saw."""

    name: str
    ok: bool
    detail: str = ""


class TestCounts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Test cases by outcome. ``flaky``: of the passed ones, those that failed at first; ``known``: of the failed ones
    and errors, those that were allowed to (``VerificationRules.allow_known_failures``)."""

    __test__: ClassVar[bool] = False  # pytest, looking for test classes, passes this one over

    passed: int = 0
    failed: int = 0
    errors: int = 0
    skipped: int = 0
    flaky: int = 0
    known: int = 0

    @property
    def run(self) -> int:
        """Tests that ran: passed, failed or errored."""
        return self.passed + self.failed + self.errors


class Metrics(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Resources of one attempt. ``None``: not measured."""

    build_s: float | None = None
    test_s: float | None = None
    peak_memory_bytes: int | None = None
    image_bytes: int | None = None
    build_reused: bool = False


class SessionReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What one session of a coding agent did and used, as far as its CLI tells.

    ``ended``: a value of ``actors.agents.session.SessionReason`` (``completed``, ``rate_limited``, ``stalled``, …) or
    ``no_scripts``, ``tamper``, ``disk``; ``reset_at``: when the account's limit is over, POSIX seconds, if the CLI told
    that. Tokens are those of the whole session, ``input_tokens`` with the cached ones among them; ``partial``: it ended
    before the CLI summed up, and they are a lower bound. ``cost_usd``: ``None`` where the CLI tells none.
    ``verifications``: how often the agent asked for a verdict while it worked. ``exit_code``: the CLI's, negative where
    a signal ended it; ``None`` if it never began or is unknown.
    """

    account: str
    agent: str
    ended: str
    message: str = ""
    reset_at: float | None = None
    version: str | None = None
    model: str | None = None
    session_id: str | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    partial: bool = False
    cost_usd: float | None = None
    tool_calls: int = 0
    verifications: int = 0
    wall_s: float = 0.0
    exit_code: int | None = None


class PriorAttempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A failed attempt on the same pull request, as the next agent is told of it.

    ``failed_at``: where it ended (``Outcome.stage``); ``context``: the digest of what was tried, if there was any.
    """

    attempt_id: str
    stage: Stage
    failed_at: str
    message: str
    failure_class: FailureClass | None = None
    context: str | None = None
    log_tail: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What one work order came to.

    ``stage`` is where it ended (``audit, source, base, repository, build, inspect, smoke, tests, f2p``);
    ``failure_class`` is null exactly when ``verified``. ``log_tail`` holds the last lines of what failed; ``blobs``
    maps a kind (``tests``, and a log of each step: ``build_log, smoke_log, test_log, rerun_1_log, control_log``, …) to
    the SHA-256 of its full content. ``cancelled``: the work was ended from outside before it had a verdict.
    ``session``: the agent's session that the order was; its transcript is blob ``transcript``. ``exit_code``: of the
    build step that failed.
    """

    verified: bool
    level: Level
    stage: str
    failure_class: FailureClass | None = None
    message: str = ""
    checks: list[Check] = msgspec.field(default_factory=list)
    context: str | None = None
    image: str | None = None
    tests: TestCounts | None = None
    metrics: Metrics = msgspec.field(default_factory=Metrics)
    blobs: dict[str, str] = msgspec.field(default_factory=dict)
    log_tail: str = ""
    cancelled: bool = False
    session: SessionReport | None = None
    exit_code: int | None = None


class WorkOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a runner needs for one attempt: which context, on which pull request, under which rules.

    ``context`` is the digest of a ``DockerContext`` whose tar is a blob of that digest, or ``None`` for the stock
    template. ``anchor`` is the commit that the repository tier of images holds. ``log_id`` names the log that the
    attempt belongs to: two logs may hold sweeps of one name. ``known_failures`` is the ``tests`` blob of the attempt
    that verified ``context`` on the neighbour it is taken from. For ``llm_generate``: ``agent`` is the CLI, ``account``
    the name of the leased account, ``prior`` what was tried before, and ``context`` what the session starts from.
    """

    attempt_id: str
    log_id: str
    sweep: str
    stage: Stage
    pull_request: PullRequest
    rules: VerificationRules
    anchor: str
    context: str | None = None
    agent: str | None = None
    account: str | None = None
    prior: tuple[PriorAttempt, ...] = ()
    known_failures: str | None = None
