"""What the read models know of trust: classes of failure, flaky and known tests, lineage, revocation; older logs."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from events.types import AttemptFailed, AttemptSucceeded, ContextRevoked
from events.work import FailureClass, Stage, TestCounts
from store.opening import Store, open_store
from store.sqlite_models import TABLES
from store.sqlite_schema import STEPS
from tests.store.test_read_models import AT, FAILURE, OUTCOME, admitted, append, everything, started, store

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


def test_a_log_of_the_second_schema_is_read_as_it_is_and_lifted_to_what_a_rebuild_gives(tmp_path: Path) -> None:
    path, url = tmp_path / "log.db", f"sqlite:///{tmp_path}/log.db"
    with open_store(f"sqlite:///{tmp_path}/new.db", write=True) as new:
        append(new, admitted(1, 2), started("a", 1), started("b", 2))
        plain = msgspec.structs.replace(OUTCOME, tests=TestCounts(passed=9))
        append(new, AttemptSucceeded(attempt_id="a", issue_number=1, context="c", outcome=plain))
        append(new, AttemptFailed(attempt_id="b", issue_number=2, outcome=FAILURE))
        whole = everything(new.models)
    raw = sqlite3.connect(path)
    for statement in (*STEPS[0], *STEPS[1]):
        raw.execute(statement)
    raw.execute("PRAGMA user_version = 2")
    raw.execute("ATTACH ? AS new", (f"{tmp_path}/new.db",))
    for table in ("meta", "events", *(one.name for one in TABLES)):
        columns = ", ".join(f'"{name}"' for _, name, *_ in raw.execute(f"PRAGMA main.table_info({table})"))
        raw.execute(f"INSERT INTO {table} SELECT {columns} FROM new.{table}")  # noqa: S608
    raw.commit()
    raw.close()
    with open_store(url, write=False) as old:
        assert [row.tests_passed for row in old.models.attempts()] == [9, None]
        assert [(row.context, row.tests) for row in old.models.contexts_of("o", "r")] == [("c", None)]
    with open_store(url, write=True) as lifted:
        assert everything(lifted.models) == whole
        append(lifted, ContextRevoked(context="c", why="poisoned", contexts=["c"], issue_numbers=[1]))
        before = everything(lifted.models)
        lifted.models.rebuild()
        assert everything(lifted.models) == before
