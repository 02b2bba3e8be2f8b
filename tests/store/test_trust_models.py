"""What the read models know of trust: classes of failure, flaky and known tests, lineage, revocation; older logs."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from events.types import AttemptFailed, AttemptInterrupted, AttemptSucceeded, ContextRevoked
from events.work import FailureClass, SessionReport, Stage, TestCounts
from store.opening import Store, open_store
from store.sqlite_models import TABLES
from store.sqlite_schema import STEPS
from tests.store.test_read_models import (
    AT,
    FAILURE,
    OUTCOME,
    REPORT,
    admitted,
    append,
    everything,
    limited,
    session,
    started,
    store,
)

__all__ = ["store"]


@pytest.mark.parametrize("cls", FailureClass)
def test_each_class_of_failure_is_told_apart_in_attempts_and_errors(store: Store, cls: FailureClass) -> None:
    outcome = msgspec.structs.replace(FAILURE, failure_class=cls, stage="tests", message=f"tree: seen as {cls}")
    append(store, admitted(1), started("a", 1), AttemptFailed(attempt_id="a", issue_number=1, outcome=outcome))
    (attempt,), (error,) = store.models.attempts(), store.models.errors()
    assert (attempt.ended_stage, attempt.failure_class, attempt.message) == ("tests", cls, f"tree: seen as {cls}")
    assert (error.stage, error.failure_class, error.message) == ("tests", cls, f"tree: seen as {cls}")


def test_a_context_that_a_session_made_has_what_it_started_from_as_its_parent(store: Store) -> None:
    append(store, admitted(1), started("a", 1, stage=Stage.LLM_GENERATE))
    append(store, AttemptSucceeded(attempt_id="a", issue_number=1, context="made", outcome=OUTCOME))
    (cached,) = store.models.contexts_of("o", "r")
    assert (cached.context, cached.parent, cached.stage) == ("made", "ctx", Stage.LLM_GENERATE)


def test_a_revoked_context_stays_in_the_cache_and_is_marked_on_every_pull_request_of_its_repository(
    store: Store,
) -> None:
    for stream in ("repository:o/r", "repository:o/q"):
        append(store, admitted(1, 2), started("a" + stream, 1), started("b" + stream, 2), stream=stream)
        for attempt, number in (("a", 1), ("b", 2)):
            ended = AttemptSucceeded(attempt_id=attempt + stream, issue_number=number, context="c", outcome=OUTCOME)
            append(store, ended, stream=stream)
    append(store, started("other", 1))
    append(store, AttemptSucceeded(attempt_id="other", issue_number=1, context="d", outcome=OUTCOME))
    append(store, ContextRevoked(context="c", why="poisoned", contexts=["c", "unknown"], issue_numbers=[2]), at=AT + 9)
    rows = {(row.context, row.issue_number): row for row in store.models.contexts_of("o", "r")}
    assert {key: (row.revoked_at, row.revoked_why) for key, row in rows.items()} == {
        ("c", 1): (AT + 9, "poisoned"),
        ("c", 2): (AT + 9, "poisoned"),
        ("d", 1): (None, None),
    }
    assert all(row.revoked_at is None for row in store.models.contexts_of("o", "q"))


def made_anew(folder: Path) -> Store:
    """A log of today, with attempts of every kind and of every end."""
    made = open_store(f"sqlite:///{folder}/new.db", write=True)
    append(made, admitted(1, 2), started("a", 1), started("b", 2), session("c", 2), session("d", 2), session("e", 2))
    plain = msgspec.structs.replace(OUTCOME, tests=TestCounts(passed=9))
    append(made, AttemptSucceeded(attempt_id="a", issue_number=1, context="c", outcome=plain))
    before = msgspec.structs.replace(FAILURE, exit_code=None)
    append(made, AttemptFailed(attempt_id="b", issue_number=2, outcome=before))
    report = msgspec.structs.replace(REPORT, exit_code=None, ended="completed", reset_at=None)
    told = msgspec.structs.replace(before, session=report)
    cut = msgspec.structs.replace(limited("d", 2), session=msgspec.structs.replace(REPORT, exit_code=None))
    bare = SessionReport(account="claude:work", agent="claude", ended="lost")
    append(made, AttemptFailed(attempt_id="c", issue_number=2, outcome=told), cut)
    append(made, AttemptInterrupted(attempt_id="e", issue_number=2, reason="its runner died", session=bare))
    return made


def made_of_old(folder: Path, schema: int) -> str:
    """The same log as a program of that schema left it; its URL."""
    raw = sqlite3.connect(folder / "log.db")
    for step in STEPS[:schema]:
        for statement in step:
            raw.execute(statement)
    raw.execute(f"PRAGMA user_version = {schema}")
    raw.execute("ATTACH ? AS new", (f"{folder}/new.db",))
    for table in ("meta", "events", *(one.name for one in TABLES)):
        columns = ", ".join(f'"{name}"' for _, name, *_ in raw.execute(f"PRAGMA main.table_info({table})"))
        failed = "WHERE state = 'failed'" if table == "error_logs" else ""
        raw.execute(f"INSERT INTO {table} SELECT {columns} FROM new.{table} {failed}")  # noqa: S608
    # What the older ones did not take in of a session that met a limit.
    raw.execute("UPDATE build_attempts SET blobs = '{}', context = 'ctx' WHERE state = 'rate_limited'")
    raw.commit()
    raw.close()
    return f"sqlite:///{folder}/log.db"


@pytest.mark.parametrize("schema", [2, 3])
def test_a_log_of_an_older_schema_is_read_as_it_is_and_lifted_to_what_a_rebuild_gives(
    tmp_path: Path, schema: int
) -> None:
    with made_anew(tmp_path) as new:
        whole = everything(new.models)
    url = made_of_old(tmp_path, schema)
    with open_store(url, write=False) as old:
        assert [row.tests_passed for row in old.models.attempts()] == [9, None, None, None, None]
        assert [row.usd for row in old.models.attempts()] == [None] * 5
        known = "t" * 64 if schema > 2 else None
        assert [(row.context, row.tests) for row in old.models.contexts_of("o", "r")] == [("c", known)]
        assert [row.attempt_id for row in old.models.errors()] == ["b", "c"]
    with open_store(url, write=True) as lifted:
        assert everything(lifted.models) == whole
        append(lifted, ContextRevoked(context="c", why="poisoned", contexts=["c"], issue_numbers=[1]))
        before = everything(lifted.models)
        lifted.models.rebuild()
        assert everything(lifted.models) == before
