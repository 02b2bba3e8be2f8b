"""A small history with every event type in it, written by hand: it does not change when decisions do."""

from __future__ import annotations

from msgspec.structs import replace

from events import codec
from events.types import (
    Account,
    AccountPaused,
    AccountProbed,
    AccountReopened,
    AccountsConfigured,
    AttemptFailed,
    AttemptInterrupted,
    AttemptRateLimited,
    AttemptStarted,
    AttemptSucceeded,
    Budget,
    BudgetReached,
    CacheHit,
    ContextRevoked,
    ContextsImported,
    Drift,
    Event,
    GatherFinished,
    GatherPrepared,
    GovernorClaimed,
    ImportedContext,
    Lease,
    LeaseAwaited,
    LeasesExpired,
    LeasesGranted,
    LeasesReleased,
    NeighboursQueued,
    OutcomeReported,
    PullRequestFailed,
    PullRequestHeld,
    PullRequestReopened,
    PullRequestsAdmitted,
    RepositoriesAdmitted,
    RepositoryActivated,
    RepositoryClaimed,
    RepositoryRetired,
    RepositoryRows,
    StageEntered,
    SweepDefined,
    SweepRunEnded,
    SweepRunStarted,
    UsageCounted,
)
from events.work import Check, FailureClass, Level, Metrics, Outcome, SessionReport, Stage, TestCounts
from store.log import Append, EventLog, NewEvent
from tests.events.worlds import RULES, STOCK, admission, policy

GATHER = "gather:o/r"
REPOSITORY = "repository:o/r"
START = 1_760_000_000.25
STEP_S = 60.0


def _outcome(*, verified: bool, context: str, cls: FailureClass | None = None) -> Outcome:
    return Outcome(
        verified=verified,
        level=Level.TESTS,
        stage="tests",
        failure_class=cls,
        message="7 of 7 passed" if verified else f"refused: {cls}",
        checks=[Check("negative control", verified, "später 🌊")],
        context=context,
        image="i" * 64,
        tests=TestCounts(passed=7) if verified else TestCounts(failed=7),
        metrics=Metrics(build_s=12.5, test_s=3.0, peak_memory_bytes=1 << 28, image_bytes=1 << 30, build_reused=True),
        blobs={"test_log": "b" * 64},
        log_tail="" if verified else "E   AssertionError",
    )


def _started(attempt_id: str, number: int, stage: Stage, **more: object) -> AttemptStarted:
    return AttemptStarted(
        attempt_id=attempt_id,
        issue_number=number,
        stage=stage,
        sweep="demo",
        lease=f"lease-{attempt_id}",
        runner="runner:0",
        **more,  # type: ignore[arg-type]
    )


def _ready(number: int) -> list[tuple[str, Event]]:
    return [
        (REPOSITORY, StageEntered(issue_number=number, stage=Stage.CHECK_CACHE)),
        (REPOSITORY, StageEntered(issue_number=number, stage=Stage.FIND_SIMILAR, reason="not in the cache")),
    ]


def _session(account: str, ended: str = "completed", **more: object) -> SessionReport:
    return SessionReport(
        account=account,
        agent=account,
        ended=ended,
        version="2.1.330",
        input_tokens=2400,
        cached_input_tokens=1600,
        output_tokens=84,
        **more,  # type: ignore[arg-type]
    )


def _agents() -> list[tuple[str, Event]]:
    """Leases of agents, a limit and its probe, what sessions used, and two that race."""
    claude = Account(name="claude", slots=1, agent="claude", budget=Budget(sessions=9), window_s=18_000.0)
    codex = Account(name="codex", slots=2, agent="codex")
    accounts = [Account(name="docker", slots=2), claude, codex]
    reset_at = START + 9_000

    def lease(attempt_id: str, account: str) -> Lease:
        return Lease(
            lease_id=f"{account}-{attempt_id}",
            account=account,
            slot=0,
            holder=REPOSITORY,
            expires_at=START + 6_030,
            issue_number=1,
            attempt_id=attempt_id,
            granted_at=START + 6_000,
        )

    def session(attempt_id: str, account: str, reason: str = "") -> tuple[str, Event]:
        more = {"agent": account, "account": account, "agent_lease": f"{account}-{attempt_id}", "reason": reason}
        return REPOSITORY, _started(attempt_id, 1, Stage.LLM_GENERATE, context=STOCK, **more)

    def used(attempt_id: str, account: str, usd: float | None) -> tuple[str, Event]:
        counted = UsageCounted(
            account=account,
            attempt_id=attempt_id,
            at=START + 6_000,
            sweep="demo",
            input_tokens=2400,
            output_tokens=84,
            usd=usd,
        )
        return "governor", counted

    limit = _session("claude", "rate_limited", message="5-hour limit", reset_at=reset_at)
    refused = _outcome(verified=False, context="8" * 64, cls=FailureClass.RECIPE)
    won = _outcome(verified=True, context="9" * 64)
    paused = AccountPaused(
        account="claude", until=reset_at + 12.5, reason="5-hour limit", attempt_id="b1", reset_at=reset_at
    )
    return [
        ("governor", AccountsConfigured(accounts=accounts, sweep="demo", budget=Budget(sessions=4, usd=10.0))),
        ("governor", LeasesGranted(leases=[lease("b1", "claude")])),
        *_ready(1),
        session("b1", "claude"),
        (
            REPOSITORY,
            AttemptRateLimited(
                attempt_id="b1",
                issue_number=1,
                account="claude",
                message="5-hour limit",
                reset_at=reset_at,
                at=START + 6_010,
                context="8" * 64,
                session=limit,
                blobs={"transcript": "b" * 64},
            ),
        ),
        used("b1", "claude", 0.016),
        ("governor", paused),
        ("governor", LeasesReleased(lease_ids=["claude-b1"])),
        session("b2", "codex"),
        (
            REPOSITORY,
            AttemptFailed(attempt_id="b2", issue_number=1, outcome=replace(refused, session=_session("codex"))),
        ),
        used("b2", "codex", None),
        ("governor", AccountProbed(account="claude", lease_id="claude-b3")),
        ("governor", LeasesGranted(leases=[lease("b3", "claude"), lease("b4", "codex")])),
        session("b3", "claude"),
        session("b4", "codex", "races 1 other session on it"),
        (REPOSITORY, AttemptSucceeded(attempt_id="b4", issue_number=1, context="9" * 64, outcome=won)),
        (
            REPOSITORY,
            AttemptInterrupted(
                attempt_id="b3", issue_number=1, reason="lost the race", session=_session("claude", "cancelled")
            ),
        ),
        used("b4", "codex", None),
        ("governor", LeasesReleased(lease_ids=["codex-b4"])),
        used("b3", "claude", 0.016),
        ("governor", BudgetReached(account="", what="sessions", spent=4.0, limit=4.0)),
        ("governor", AccountReopened(account="claude", reason="its probe ended without a limit")),
        ("governor", LeasesReleased(lease_ids=["claude-b3"])),
    ]


def history() -> list[tuple[str, Event]]:
    """Streams and events in the order of their recording."""
    rows = [admission(number, seed=number != 5) for number in range(1, 7)]
    good, bad = "c" * 64, "d" * 64
    lease = Lease(lease_id="lease-a1", account="docker", slot=0, holder=REPOSITORY, expires_at=START + 600)
    other = Lease(lease_id="lease-a2", account="docker", slot=1, holder=REPOSITORY, expires_at=START + 660)
    verified = _outcome(verified=True, context=good)
    refused = _outcome(verified=False, context=bad, cls=FailureClass.RECIPE)
    away = _outcome(verified=False, context=STOCK, cls=FailureClass.INFRA)
    imported = ImportedContext(
        context=good, issue_number=6, created_at=rows[5].created_at, inputs="inputs-6", rules=RULES, attempt_id="old"
    )
    made = "a" * 64
    counted = replace(verified, tests=TestCounts(passed=7, failed=2, flaky=1, known=2), blobs={"tests": "7" * 64})
    flaked = _outcome(verified=False, context=good, cls=FailureClass.FLAKE)
    tampered = _outcome(verified=False, context=bad, cls=FailureClass.TAMPER)
    repository = RepositoryRows(repository="o/r", rows="e" * 64, pull_requests=6)
    sweep = "sweep:demo"
    return [
        (
            sweep,
            SweepDefined(
                sweep="demo", timeline="prs.jsonl", timeline_digest="f" * 64, rules=RULES, policy=policy(generate=True)
            ),
        ),
        (sweep, RepositoriesAdmitted(repositories=[repository])),
        (sweep, SweepRunStarted(run="run-1", host="host", pid=7, workers=2)),
        ("governor", GovernorClaimed(incarnation="g1")),
        ("governor", AccountsConfigured(accounts=[Account(name="docker", slots=2)])),
        (sweep, RepositoryActivated(repository="o/r")),
        (REPOSITORY, RepositoryClaimed(incarnation="r1", sweep="demo")),
        (REPOSITORY, ContextsImported(contexts=[imported])),
        (
            REPOSITORY,
            PullRequestsAdmitted(sweep="demo", rules=RULES, policy=policy(generate=True), pull_requests=rows),
        ),
        (REPOSITORY, StageEntered(issue_number=6, stage=Stage.CHECK_CACHE)),
        (REPOSITORY, CacheHit(issue_number=6, context=good, attempt_id="old", reason="equal inputs")),
        ("governor", LeasesGranted(leases=[lease, other])),
        *_ready(1),
        (REPOSITORY, _started("a1", 1, Stage.TRY_SIMILAR, context=good, source=6, reason="nearest on the right")),
        *_ready(2),
        (REPOSITORY, _started("a2", 2, Stage.TRY_DEFAULT, context=STOCK)),
        ("attempt:a1", OutcomeReported(attempt_id="a1", outcome=verified)),
        (REPOSITORY, AttemptSucceeded(attempt_id="a1", issue_number=1, context=good, outcome=verified)),
        (REPOSITORY, NeighboursQueued(source=1, issue_numbers=[2, 5], reason="within 60 days")),
        ("governor", LeasesReleased(lease_ids=["lease-a1"])),
        (REPOSITORY, AttemptFailed(attempt_id="a2", issue_number=2, outcome=away, retry_at=START + 900)),
        (REPOSITORY, _started("a3", 2, Stage.TRY_SIMILAR, context=bad)),
        (REPOSITORY, AttemptFailed(attempt_id="a3", issue_number=2, outcome=refused)),
        (REPOSITORY, _started("a4", 2, Stage.LLM_GENERATE, agent="claude")),
        *_ready(3),
        (REPOSITORY, PullRequestHeld(issue_number=3, behind="a4", reason="PR 2's generation may serve it")),
        (
            REPOSITORY,
            AttemptRateLimited(
                attempt_id="a4", issue_number=2, account="claude", message="usage limit", reset_at=START + 9000
            ),
        ),
        (REPOSITORY, LeaseAwaited(issue_number=2, reason="claude is paused", until=START + 9000)),
        (REPOSITORY, StageEntered(issue_number=3, stage=Stage.FIND_SIMILAR, reason="nothing to wait for")),
        (REPOSITORY, _started("a5", 3, Stage.TRY_DEFAULT, context=STOCK)),
        (
            REPOSITORY,
            AttemptInterrupted(
                attempt_id="a5", issue_number=3, reason="its runner died", blobs={"build_log": "b" * 64}
            ),
        ),
        ("governor", LeasesExpired(lease_ids=["lease-a2"], reason="not renewed for 60 s")),
        *_ready(4),
        (
            REPOSITORY,
            PullRequestFailed(
                issue_number=4, reason="nothing is left to try", stage="tests", failure_class=FailureClass.RECIPE
            ),
        ),
        (REPOSITORY, PullRequestReopened(issue_number=4, sweep="demo", reason="a better prompt")),
        (REPOSITORY, _started("a6", 3, Stage.LLM_GENERATE, agent="claude", context=good)),
        (REPOSITORY, AttemptSucceeded(attempt_id="a6", issue_number=3, context=made, outcome=counted)),
        (REPOSITORY, StageEntered(issue_number=2, stage=Stage.FIND_SIMILAR, reason="it is its turn")),
        (REPOSITORY, _started("a7", 2, Stage.TRY_SIMILAR, context=good, source=1)),
        (REPOSITORY, AttemptFailed(attempt_id="a7", issue_number=2, outcome=flaked)),
        (REPOSITORY, _started("a8", 2, Stage.LLM_GENERATE, agent="claude")),
        (REPOSITORY, AttemptFailed(attempt_id="a8", issue_number=2, outcome=tampered)),
        (
            REPOSITORY,
            ContextRevoked(
                context=bad, why="tampering was found on PR 2: refused: tamper", contexts=[bad], attempt_id="a8"
            ),
        ),
        (
            REPOSITORY,
            ContextRevoked(context=good, why="its wheel is poisoned", contexts=[good, made], issue_numbers=[1, 3, 6]),
        ),
        *_agents(),
        (sweep, RepositoryRetired(repository="o/r", succeeded=2, failed=0, unreached=0)),
        (sweep, SweepRunEnded(run="run-1", how="interrupted", reason="Ctrl-C")),
        *_gathered(),
    ]


def _gathered() -> list[tuple[str, Event]]:
    drift = Drift(key="PYTHON_VERSION", earlier=1, earlier_value="3.10", later=2, later_value="3.11")
    return [
        (GATHER, GatherPrepared(batch_id="batch_00000001", upto=40, issue_numbers=[1, 2], prepared="1" * 64)),
        (
            GATHER,
            GatherFinished(batch_id="batch_00000001", status="done", result="2" * 64, report="3" * 64, drifts=[drift]),
        ),
        (GATHER, GatherPrepared(batch_id="batch_00000002", upto=52, issue_numbers=[3], prepared="4" * 64)),
        (
            GATHER,
            GatherFinished(batch_id="batch_00000002", status="failed", result="5" * 64, message="it is too long"),
        ),
    ]


def record(log: EventLog) -> None:
    """Appends the history, an event a minute."""
    versions: dict[str, int] = {}
    for number, (stream, event) in enumerate(history(), start=1):
        new = NewEvent(f"e{number}", type(event).__name__, codec.schema_of(event), codec.encode(event))
        appended = log.append(Append(stream, versions.get(stream, 0), [new], START + number * STEP_S))
        versions[stream] = appended.version
