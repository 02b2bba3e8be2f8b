"""Read models: what each event does to a row, alike in both backends, and equal to what the log gives when rebuilt."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from events import codec
from events.errors import LogUnavailable, VersionConflict
from events.types import (
    Admission,
    AttemptFailed,
    AttemptInterrupted,
    AttemptRateLimited,
    AttemptStarted,
    AttemptSucceeded,
    ContextRevoked,
    Event,
    PullRequestsAdmitted,
    RepositoryClaimed,
)
from events.work import (
    CascadePolicy,
    FailureClass,
    Level,
    Metrics,
    Outcome,
    SessionReport,
    Stage,
    TestCounts,
    VerificationRules,
)
from store.log import Append, NewEvent
from store.opening import Store, open_store
from store.read_models import PROJECTED, AttemptRow, AttemptState, CachedContext, ErrorRow, ReadModels
from store.sqlite_models import TABLES
from tests.store.backends import BACKENDS, opened

AT = 1_700_000_000.0
RULES = VerificationRules(level=Level.TESTS, min_pass_ratio=0.8)
OUTCOME = Outcome(
    verified=True,
    level=Level.TESTS,
    stage="tests",
    image="sha256:1",
    tests=TestCounts(passed=9, failed=1, errors=2, skipped=3, flaky=4, known=1),
    metrics=Metrics(build_s=1.5, test_s=2.5, peak_memory_bytes=100, image_bytes=200, build_reused=True),
    blobs={"build_log": "b" * 64, "tests": "t" * 64},
    log_tail="10 passed",
)
FAILURE = Outcome(
    verified=False,
    level=Level.TESTS,
    stage="build",
    failure_class=FailureClass.RECIPE,
    message="error: no such header Python.h",
    log_tail="gcc: error",
    blobs={"build_log": "c" * 64},
    exit_code=2,
)
REPORT = SessionReport(
    account="claude:work",
    agent="claude",
    ended="rate_limited",
    message="You've hit your limit",
    reset_at=AT + 60,
    version="2.1.330",
    model="claude-opus-5-5",
    session_id="session-1",
    input_tokens=1200,
    cached_input_tokens=1000,
    output_tokens=84,
    partial=True,
    cost_usd=0.25,
    wall_s=12.5,
    exit_code=1,
)


def admitted(*numbers: int, rules: VerificationRules = RULES, inputs: str = "in") -> PullRequestsAdmitted:
    return PullRequestsAdmitted(
        sweep="demo",
        rules=rules,
        policy=CascadePolicy(stock_context="stock"),
        pull_requests=[
            Admission(
                issue_number=number,
                created_at=f"2020-01-0{number}T00:00:00Z",
                commit=f"commit{number}",
                python_version="3.10",
                row="r" * 64,
                inputs=f"{inputs}{number}",
            )
            for number in numbers
        ],
    )


def started(attempt_id: str, number: int, *, stage: Stage = Stage.TRY_SIMILAR) -> AttemptStarted:
    return AttemptStarted(
        attempt_id=attempt_id,
        issue_number=number,
        stage=stage,
        sweep="demo",
        lease="lease",
        runner="runner",
        context="ctx",
        source=7,
        reason="nearest on the left",
    )


def session(attempt_id: str, number: int) -> AttemptStarted:
    began = started(attempt_id, number, stage=Stage.LLM_GENERATE)
    return msgspec.structs.replace(began, agent="claude", account="claude:work", agent_lease="lease-2")


def session_end(attempt_id: str, number: int, end: str) -> Event:
    """The end of a session, of one of four kinds."""
    match end:
        case "succeeded":
            outcome = msgspec.structs.replace(OUTCOME, session=REPORT)
            return AttemptSucceeded(attempt_id=attempt_id, issue_number=number, context="made", outcome=outcome)
        case "failed":
            outcome = msgspec.structs.replace(FAILURE, session=REPORT)
            return AttemptFailed(attempt_id=attempt_id, issue_number=number, outcome=outcome)
        case "limited":
            return limited(attempt_id, number)
    return AttemptInterrupted(attempt_id=attempt_id, issue_number=number, reason="its runner died", session=REPORT)


def append(store: Store, *events: Event, stream: str = "repository:o/r", at: float = AT) -> None:
    version = store.log.head(stream)
    new = [
        NewEvent(f"{stream}-{version + n}", type(event).__name__, codec.schema_of(event), codec.encode(event))
        for n, event in enumerate(events)
    ]
    store.log.append(Append(stream, version, new, at))


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    with opened(request, tmp_path / "log.db") as store:
        yield store


def test_an_attempt_is_a_row_from_its_start_on(store: Store) -> None:
    append(store, admitted(1), started("a", 1))
    assert store.models.attempts() == [
        AttemptRow(
            attempt_id="a",
            sweep="demo",
            owner="o",
            repo="r",
            issue_number=1,
            stage=Stage.TRY_SIMILAR,
            agent=None,
            context="ctx",
            source=7,
            reason="nearest on the left",
            started_at=AT,
        )
    ]


def test_a_success_ends_its_attempt_and_caches_the_context_under_the_pull_requests_inputs(store: Store) -> None:
    append(store, admitted(1, 2))
    append(store, started("a", 2), at=AT + 1)
    append(store, AttemptSucceeded(attempt_id="a", issue_number=2, context="verified", outcome=OUTCOME), at=AT + 5)
    (attempt,) = store.models.attempts()
    assert (attempt.state, attempt.started_at, attempt.finished_at) == (AttemptState.SUCCEEDED, AT + 1, AT + 5)
    assert (attempt.ended_stage, attempt.failure_class, attempt.context) == ("tests", None, "verified")
    tests = (attempt.tests_passed, attempt.tests_failed, attempt.tests_errors, attempt.tests_skipped)
    assert tests == (9, 1, 2, 3)
    assert (attempt.tests_flaky, attempt.tests_known) == (4, 1)
    assert (attempt.build_s, attempt.test_s, attempt.peak_memory_bytes, attempt.image_bytes) == (1.5, 2.5, 100, 200)
    assert attempt.build_reused is True
    assert (attempt.image, attempt.log_tail, attempt.blobs) == ("sha256:1", "10 passed", OUTCOME.blobs)
    assert store.models.contexts_of("o", "r") == [
        CachedContext(
            context="verified",
            owner="o",
            repo="r",
            issue_number=2,
            inputs="in2",
            created_at="2020-01-02T00:00:00Z",
            python_version="3.10",
            rules=RULES,
            attempt_id="a",
            stage=Stage.TRY_SIMILAR,
            source=7,
            verified_at=AT + 5,
            parent=None,
            tests="t" * 64,
        )
    ]
    assert store.models.contexts_of("o", "other") == []
    assert store.models.errors() == []


def test_a_failure_ends_its_attempt_and_is_an_error_row(store: Store) -> None:
    append(store, admitted(1), started("a", 1))
    append(store, AttemptFailed(attempt_id="a", issue_number=1, outcome=FAILURE), at=AT + 5)
    (attempt,) = store.models.attempts()
    assert (attempt.state, attempt.failure_class, attempt.context) == (AttemptState.FAILED, FailureClass.RECIPE, "ctx")
    assert (attempt.message, attempt.tests_passed) == ("error: no such header Python.h", None)
    assert store.models.errors() == [
        ErrorRow(
            attempt_id="a",
            owner="o",
            repo="r",
            issue_number=1,
            at=AT + 5,
            stage="build",
            failure_class=FailureClass.RECIPE,
            message="error: no such header Python.h",
            log_tail="gcc: error",
            blobs={"build_log": "c" * 64},
            exit_code=2,
        )
    ]
    assert attempt.exit_code == 2
    assert store.models.contexts_of("o", "r") == []


def limited(attempt_id: str, number: int) -> AttemptRateLimited:
    return AttemptRateLimited(
        attempt_id=attempt_id,
        issue_number=number,
        account="claude:work",
        message="claude ran into a limit",
        reset_at=AT + 60,
        session=REPORT,
        context="left",
        blobs={"transcript": "d" * 64},
    )


def test_limited_and_interrupted_attempts_are_errors_of_their_own_kind(store: Store) -> None:
    append(store, admitted(1), session("a", 1), started("b", 1))
    interrupted = AttemptInterrupted(attempt_id="b", issue_number=1, reason="driver died", blobs={"x": "y"})
    append(store, limited("a", 1), interrupted, at=AT + 5)
    one, other = store.models.attempts()
    assert (one.state, one.message, one.reset_at) == (AttemptState.RATE_LIMITED, "claude ran into a limit", AT + 60)
    assert (one.context, one.blobs) == ("left", {"transcript": "d" * 64})
    assert (other.state, other.message, other.blobs) == (AttemptState.INTERRUPTED, "driver died", {"x": "y"})
    error, second = store.models.errors()
    assert (error.state, error.stage, error.message, error.reset_at) == (one.state, one.stage, one.message, AT + 60)
    assert (error.agent, error.account, error.model) == ("claude", "claude:work", "claude-opus-5-5")
    assert (error.session_ended, error.agent_exit_code) == ("rate_limited", 1)
    assert (error.input_tokens, error.output_tokens, error.usd, error.blobs) == (1200, 84, 0.25, one.blobs)
    assert (second.state, second.message, second.blobs, second.account) == (
        other.state,
        "driver died",
        {"x": "y"},
        None,
    )


@pytest.mark.parametrize("end", ["succeeded", "failed", "limited", "interrupted"])
def test_what_a_session_used_is_told_however_its_attempt_ended(store: Store, end: str) -> None:
    append(store, admitted(1), session("a", 1))
    (running,) = store.models.attempts()
    assert (running.agent, running.account, running.input_tokens, running.usd) == ("claude", "claude:work", None, None)
    append(store, session_end("a", 1, end))
    (attempt,) = store.models.attempts()
    assert (attempt.agent, attempt.account, attempt.agent_version) == ("claude", "claude:work", "2.1.330")
    assert (attempt.model, attempt.session_id) == ("claude-opus-5-5", "session-1")
    assert (attempt.session_ended, attempt.agent_exit_code, attempt.reset_at) == ("rate_limited", 1, AT + 60)
    assert (attempt.input_tokens, attempt.cached_input_tokens, attempt.output_tokens) == (1200, 1000, 84)
    assert (attempt.tokens_partial, attempt.usd, attempt.session_s) == (True, 0.25, 12.5)


def test_a_context_keeps_the_rules_that_it_was_verified_under(store: Store) -> None:
    append(store, admitted(1), started("a", 1))
    append(store, AttemptSucceeded(attempt_id="a", issue_number=1, context="c", outcome=OUTCOME))
    append(store, admitted(1, rules=VerificationRules(min_pass_ratio=1.0), inputs="new"))
    (cached,) = store.models.contexts_of("o", "r")
    assert (cached.rules, cached.inputs) == (RULES, "in1")
    append(store, started("b", 1))
    append(store, AttemptSucceeded(attempt_id="b", issue_number=1, context="c", outcome=OUTCOME))
    (cached,) = store.models.contexts_of("o", "r")
    assert (cached.rules.min_pass_ratio, cached.inputs, cached.attempt_id) == (1.0, "new1", "b")


def test_attempts_are_filtered_by_all_that_is_given(store: Store) -> None:
    append(store, admitted(1, 2), started("a", 1), started("b", 2))
    append(store, started("c", 1), stream="repository:o/q", at=AT + 1)
    append(store, AttemptFailed(attempt_id="b", issue_number=2, outcome=FAILURE), at=AT + 2)
    models = store.models
    assert [row.attempt_id for row in models.attempts(owner="o")] == ["a", "b", "c"]
    assert [row.attempt_id for row in models.attempts(repo="r", issue_number=1)] == ["a"]
    assert [row.attempt_id for row in models.attempts(state=AttemptState.FAILED)] == ["b"]
    assert [row.attempt_id for row in models.attempts(sweep="other")] == []
    assert [row.attempt_id for row in models.errors(owner="o", repo="r", issue_number=2)] == ["b"]
    assert models.errors(issue_number=1) == []


def test_other_events_and_other_streams_change_nothing(store: Store) -> None:
    append(store, RepositoryClaimed(incarnation="i", sweep="demo"))
    append(store, started("a", 1), stream="elsewhere")
    append(store, AttemptFailed(attempt_id="never started", issue_number=1, outcome=FAILURE))
    assert (store.models.attempts(), store.models.errors(), store.models.contexts_of("o", "r")) == ([], [], [])


def test_a_refused_batch_leaves_no_rows(store: Store) -> None:
    append(store, admitted(1), started("a", 1))
    events = [started("b", 1)]
    new = [NewEvent(f"x{n}", "AttemptStarted", 1, codec.encode(event)) for n, event in enumerate(events)]
    reused = NewEvent("repository:o/r-0", "AttemptStarted", 1, codec.encode(started("c", 1)))
    store.log.append_many([Append("repository:o/r", 0, new, AT), Append("repository:o/r", 2, [*new, reused], AT)])
    assert [row.attempt_id for row in store.models.attempts()] == ["a"]


def test_a_repeated_batch_changes_no_row(store: Store) -> None:
    append(store, admitted(1), started("a", 1))
    repeat = Append("repository:o/r", 1, [NewEvent("s", "AttemptStarted", 1, codec.encode(started("b", 1)))], AT)
    with pytest.raises(VersionConflict):
        store.log.append(repeat)
    repeat = Append(repeat.stream, 2, repeat.events, AT)
    store.log.append(repeat)
    append(store, AttemptFailed(attempt_id="b", issue_number=1, outcome=FAILURE))
    assert store.log.append(repeat).duplicate
    assert [row.state for row in store.models.attempts()] == [AttemptState.RUNNING, AttemptState.FAILED]


def test_the_sql_tables_have_the_columns_of_their_rows(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/log.db", write=True):
        raw = sqlite3.connect(tmp_path / "log.db")
        for table in TABLES:
            columns = tuple(name for _, name, *_ in raw.execute(f"PRAGMA table_info({table.name})"))
            assert columns == table.row.__struct_fields__
        raw.close()


def test_every_projected_type_is_an_event() -> None:
    assert PROJECTED.keys() <= codec.EVENT_TYPES.keys()


def test_a_reader_does_not_rebuild(tmp_path: Path) -> None:
    open_store(f"sqlite:///{tmp_path}/log.db", write=True).close()
    reader = open_store(f"sqlite:///{tmp_path}/log.db", write=False)
    with reader, pytest.raises(LogUnavailable, match="open for reading only"):
        reader.models.rebuild()


def test_rebuilding_mends_tables_that_were_tampered_with(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/log.db", write=True) as store:
        append(store, admitted(1), started("a", 1))
        before = everything(store.models)
        raw = sqlite3.connect(tmp_path / "log.db")
        raw.execute("UPDATE build_attempts SET state = 'succeeded'")
        raw.execute("DELETE FROM admissions")
        raw.commit()
        raw.close()
        assert everything(store.models) != before
        store.models.rebuild()
        assert everything(store.models) == before
        append(store, AttemptSucceeded(attempt_id="a", issue_number=1, context="c", outcome=OUTCOME))
        assert len(store.models.contexts_of("o", "r")) == 1


def everything(models: ReadModels) -> tuple[list[AttemptRow], list[ErrorRow], list[CachedContext]]:
    contexts = [row for repo in ("r", "q") for row in models.contexts_of("o", repo)]
    return models.attempts(), models.errors(), contexts


attempt_ids = st.sampled_from(["a", "b", "c", "d"])
numbers = st.integers(1, 3)
histories = st.lists(
    st.tuples(
        st.sampled_from(["repository:o/r", "repository:o/q"]),
        st.lists(
            st.one_of(
                st.builds(
                    lambda number, ratio: admitted(number, rules=VerificationRules(min_pass_ratio=ratio)),
                    numbers,
                    st.sampled_from([0.5, 0.9]),
                ),
                st.builds(started, attempt_ids, numbers),
                st.builds(session, attempt_ids, numbers),
                st.builds(
                    session_end,
                    attempt_ids,
                    numbers,
                    st.sampled_from(["succeeded", "failed", "limited", "interrupted"]),
                ),
                st.builds(
                    AttemptSucceeded,
                    attempt_id=attempt_ids,
                    issue_number=numbers,
                    context=st.sampled_from(["c1", "c2"]),
                    outcome=st.just(OUTCOME),
                ),
                st.builds(AttemptFailed, attempt_id=attempt_ids, issue_number=numbers, outcome=st.just(FAILURE)),
                st.builds(
                    lambda context, why: ContextRevoked(context=context, why=why, contexts=[context]),
                    st.sampled_from(["c1", "c2"]),
                    st.text(),
                ),
                st.builds(AttemptInterrupted, attempt_id=attempt_ids, issue_number=numbers, reason=st.text()),
                st.builds(
                    AttemptRateLimited,
                    attempt_id=attempt_ids,
                    issue_number=numbers,
                    account=st.just("claude"),
                    message=st.text(),
                    reset_at=st.none() | st.floats(0, 1e9),
                ),
            ),
            min_size=1,
            max_size=6,
        ),
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories=histories, group=st.integers(1, 4))
def test_live_rebuilt_and_both_backends_are_equal(
    histories: list[tuple[str, list[Event]]], group: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("log") / "log.db"
    with open_store(f"sqlite:///{path}", write=True) as sqlite, open_store("memory:", write=True) as memory:
        heads: dict[str, int] = {}
        batches = []
        for n, (stream, events) in enumerate(histories):
            new = [
                NewEvent(f"{n}-{part}", type(event).__name__, codec.schema_of(event), codec.encode(event))
                for part, event in enumerate(events)
            ]
            batches.append(Append(stream, heads.get(stream, 0), new, AT + n))
            heads[stream] = heads.get(stream, 0) + len(new)
        for start in range(0, len(batches), group):
            part = batches[start : start + group]
            assert sqlite.log.append_many(part) == memory.log.append_many(part)
        live = everything(sqlite.models)
        assert live == everything(memory.models)
        assert list(sqlite.log.read_all()) == list(memory.log.read_all())
        with open_store(f"sqlite:///{path}", write=False) as reader:
            assert everything(reader.models) == live
        for store in (sqlite, memory):
            store.models.rebuild()
            assert everything(store.models) == live
    assert msgspec.json.decode(msgspec.json.encode(live[0]), type=list[AttemptRow]) == live[0]
