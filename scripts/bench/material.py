"""What benchmarks write and read: events of the product's own types, the same for the same sizes and seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

from actors.simulation.engine import Simulation
from actors.simulation.measure import KNOBS
from actors.simulation.worlds import make_world
from events import codec
from events.types import (
    Admission,
    AttemptFailed,
    AttemptStarted,
    AttemptSucceeded,
    Event,
    PullRequestHeld,
    PullRequestReopened,
    PullRequestsAdmitted,
    RepositoryClaimed,
    StageEntered,
)
from events.work import Check, FailureClass, Level, Metrics, Outcome, Stage, TestCounts, VerificationRules
from store.log import NewEvent
from store.memory import MemoryLog

__all__ = ["SWEEP", "detailed_stream", "new_events", "simulated_stream", "small_events"]

SWEEP = "bench"
ADMITTED_AT_ONCE = 500
_RULES = VerificationRules()
_STOCK = "0" * 64


def small_events(count: int, *, first: int = 0) -> list[NewEvent]:
    """Events of about 150 bytes that change no read model, with ids of their own."""
    return [
        NewEvent(f"{number:026d}", "PullRequestHeld", 1, codec.encode(_held(number)))
        for number in range(first, first + count)
    ]


def _held(number: int) -> Event:
    reason = f"the generation of PR {number % 5000 + 7} may serve it: no evidence lies between them"
    return PullRequestHeld(issue_number=number % 5000 + 1, behind=f"attempt-{number:020d}", reason=reason)


def new_events(events: Sequence[Event], *, prefix: str) -> Iterator[NewEvent]:
    """``events`` as a log takes them."""
    for number, event in enumerate(events, start=1):
        yield NewEvent(f"{prefix}-{number}", type(event).__name__, codec.schema_of(event), codec.encode(event))


def simulated_stream(pull_requests: int, *, seed: int) -> list[Event]:
    """The stream of one repository as the simulator's real core writes it: some 2.3 events a pull request."""
    epochs = max(2, pull_requests // 20)
    world = make_world(repositories=1, prs=pull_requests, epochs=(epochs, epochs), days=pull_requests * 2.0, seed=seed)
    log = MemoryLog(log_id="bench")
    Simulation(world, log, knobs=KNOBS, sweep=SWEEP).run()
    (name,) = (one.name for one in world.repositories)
    return [codec.decode(one.type, one.schema, one.data) for one in log.read_stream(f"repository:{name}")]


def detailed_stream(pull_requests: int, *, rounds: int = 1) -> Iterator[Event]:
    """The stream of one repository with an event for every transition and outcomes as runners report them.

    A round takes every pull request from its queue to a verified context, every fourth by way of a failed one: 4.5
    events a pull request, of which the ends of attempts have about 1 KB. Later rounds reopen the pull requests: one
    event more.
    """
    yield RepositoryClaimed(incarnation="bench", sweep=SWEEP)
    rows = [_admission(number) for number in range(1, pull_requests + 1)]
    for start in range(0, len(rows), ADMITTED_AT_ONCE):
        some = rows[start : start + ADMITTED_AT_ONCE]
        yield PullRequestsAdmitted(sweep=SWEEP, rules=_RULES, policy=KNOBS, pull_requests=some)
    for turn in range(rounds):
        for number in range(1, pull_requests + 1):
            if turn:
                yield PullRequestReopened(issue_number=number, sweep=SWEEP, reason="`headrace retry` asked for it")
            yield from _worked_on(number, turn)


def _worked_on(number: int, turn: int) -> Iterator[Event]:
    yield StageEntered(issue_number=number, stage=Stage.CHECK_CACHE)
    yield StageEntered(issue_number=number, stage=Stage.FIND_SIMILAR, reason="the cache knows no context for it")
    context = sha256(b"%d" % (number // 20)).hexdigest()
    if number % 4 == 0:
        yield _started(f"f{turn}-{number}", number, context=_STOCK)
        yield AttemptFailed(attempt_id=f"f{turn}-{number}", issue_number=number, outcome=_outcome(_STOCK, ok=False))
    yield _started(f"s{turn}-{number}", number, context=context)
    yield AttemptSucceeded(
        attempt_id=f"s{turn}-{number}", issue_number=number, context=context, outcome=_outcome(context, ok=True)
    )


def _started(attempt_id: str, number: int, *, context: str) -> AttemptStarted:
    return AttemptStarted(
        attempt_id=attempt_id,
        issue_number=number,
        stage=Stage.TRY_SIMILAR,
        sweep=SWEEP,
        lease=f"lease-{attempt_id}",
        runner="runner:bench:3",
        context=context,
        source=max(1, number - 3),
        reason=f"PR {max(1, number - 3)}'s context: the nearest verified on the left, 3 days",
    )


def _admission(number: int) -> Admission:
    digest = sha256(b"row %d" % number).hexdigest()
    return Admission(
        issue_number=number,
        created_at=f"20{10 + number // 8000:02d}-{number // 700 % 12 + 1:02d}-{number // 25 % 28 + 1:02d}T12:00:00Z",
        commit=digest[:40],
        python_version="3.11",
        row=digest,
        inputs=digest[::-1],
    )


def _outcome(context: str, *, ok: bool) -> Outcome:
    return Outcome(
        verified=ok,
        level=Level.TESTS,
        stage="tests",
        failure_class=None if ok else FailureClass.RECIPE,
        message="212 of 214 tests passed" if ok else "3 of 214 tests passed: below the threshold of 0.9",
        checks=[
            Check("build", True, "built in 41.2 s"),
            Check("import", True, "imports from this checkout"),
            Check("tests", ok, "214 collected"),
            Check("negative control", ok, "without the package's source no test passes"),
            Check("tree", ok, "tracked files are those of the commit"),
        ],
        context=context,
        image="1" * 64,
        tests=TestCounts(passed=212, failed=2) if ok else TestCounts(passed=3, failed=211),
        metrics=Metrics(build_s=41.2, test_s=12.75, peak_memory_bytes=1 << 28, image_bytes=1 << 30),
        blobs={"build_log": "2" * 64, "test_log": "3" * 64, "control_log": "4" * 64},
        log_tail="" if ok else "E   ImportError: cannot import name 'soft_unicode' from 'markupsafe'\n" * 3,
    )
