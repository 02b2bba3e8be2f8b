"""Read models on Supabase: written with the events, whoever writes; equal to memory's and to what a rebuild gives."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from events import codec
from events.errors import EnvironmentNotReady, LogUnavailable
from events.types import (
    AttemptFailed,
    AttemptInterrupted,
    AttemptRateLimited,
    AttemptSucceeded,
    ContextRevoked,
    Event,
)
from events.work import Stage
from store.log import Append, NewEvent
from store.opening import Store, open_store
from store.supabase.models import PAGE_ROWS, SupabaseModels
from store.supabase.rest import Rest
from store.supabase.rows import MODELS
from tests.store.test_read_models import AT, FAILURE, OUTCOME, admitted, append, everything, histories, started
from tests.supabase.project import Project, Projects


def tables(project: Project) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all read models as the database has them, with the events that made them."""
    with project.raw() as raw:
        return {
            model: raw.execute(f"SELECT m::text FROM public.{model} AS m ORDER BY row_key").fetchall()  # noqa: S608
            for model in MODELS
        }


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=histories, group=st.integers(1, 4))
def test_two_writers_a_rebuild_and_the_log_in_memory_give_the_same_rows(
    history: list[tuple[str, list[Event]]], group: int, projects: Projects
) -> None:
    project = projects.new()
    with project.open() as one, project.open() as other, open_store("memory:", write=True) as memory:
        heads: dict[str, int] = {}
        batches = []
        for n, (stream, events) in enumerate(history):
            new = [
                NewEvent(f"{n}-{part}", type(event).__name__, codec.schema_of(event), codec.encode(event))
                for part, event in enumerate(events)
            ]
            batches.append(Append(stream, heads.get(stream, 0), new, AT + n))
            heads[stream] = heads.get(stream, 0) + len(new)
        for turn, start in enumerate(range(0, len(batches), group)):
            part = batches[start : start + group]
            writer = one if turn % 3 else other
            assert writer.log.append_many(part) == memory.log.append_many(part)
            if turn % 2:  # what is repeated, and what is refused, changes no row
                assert other.log.append_many(part) == memory.log.append_many(part)
                late = [Append(batch.stream, 0, [NewEvent(f"late-{turn}", *_rest(batch))], AT) for batch in part]
                refused = [type(one) for one in memory.log.append_many(late)]
                assert [type(one) for one in one.log.append_many(late)] == refused
        assert everything(one.models) == everything(memory.models)
        live = tables(project)
        one.models.rebuild()
        assert tables(project) == live
        assert one.log.verify() == memory.log.verify()
    projects.remove(project)


def _rest(batch: Append) -> tuple[str, int, bytes]:
    event = batch.events[-1]
    return event.type, event.schema, event.data


def test_text_with_any_character_comes_back_as_it_was(store: Store) -> None:
    message = "a\0b\x1a0\x1a1 \x1a \U0001f30a \ufffd \\u0000"
    append(store, admitted(1), started("a\0", 1))
    append(store, AttemptInterrupted(attempt_id="a\0", issue_number=1, reason=message, blobs={"k\0": message}))
    (row,) = store.models.attempts()
    assert (row.attempt_id, row.message, row.blobs) == ("a\0", message, {"k\0": message})


def test_a_row_that_another_process_made_is_known_to_the_event_that_ends_it(project: Project) -> None:
    with project.open() as one, project.open() as other:
        append(one, admitted(1), started("a", 1))
        append(other, AttemptSucceeded(attempt_id="a", issue_number=1, context="c", outcome=OUTCOME))
        append(one, started("b", 1))
        append(other, AttemptFailed(attempt_id="b", issue_number=1, outcome=FAILURE))
        assert [row.state for row in one.models.attempts()] == ["succeeded", "failed"]
        assert [row.attempt_id for row in other.models.errors()] == ["b"]
        assert [row.context for row in one.models.contexts_of("o", "r")] == ["c"]


def test_a_row_that_was_learned_from_the_database_is_put_back_letter_by_letter(project: Project) -> None:
    outcome = msgspec.structs.replace(OUTCOME, blobs={"z": "1", "build_log": "2", "a": "3"}, log_tail="1e5 \u00e9 \\")
    with project.open() as one, project.open() as other:
        append(one, admitted(1), started("a", 1))
        append(one, AttemptSucceeded(attempt_id="a", issue_number=1, context="c", outcome=outcome))
        limited = AttemptRateLimited(attempt_id="a", issue_number=1, account="claude", message="late", reset_at=1e-7)
        append(other, ContextRevoked(context="c", why="poisoned", contexts=["c"]), limited)
        live = tables(project)
        one.models.rebuild()
        assert tables(project) == live


def test_what_a_process_knew_and_others_changed_costs_one_more_call_and_nothing_else(project: Project) -> None:
    with project.open() as one, project.open() as other:
        append(one, admitted(1), started("a", 1))
        before = project.calls()["headrace_append"]
        append(one, AttemptInterrupted(attempt_id="a", issue_number=1, reason="known here"))
        assert project.calls()["headrace_append"] == before + 1
        append(one, started("b", 1))
        before = project.calls()["headrace_append"]
        append(other, AttemptInterrupted(attempt_id="b", issue_number=1, reason="not known here"))
        assert project.calls()["headrace_append"] == before + 2
        assert [row.message for row in one.models.attempts()] == ["known here", "not known here"]


def test_a_batch_behind_a_refused_one_is_folded_without_it(project: Project) -> None:
    def event(one: Event, event_id: str) -> NewEvent:
        return NewEvent(event_id, type(one).__name__, codec.schema_of(one), codec.encode(one))

    with project.open() as store:
        append(store, admitted(1), started("a", 1))
        stale = AttemptFailed(attempt_id="a", issue_number=1, outcome=FAILURE)
        done = AttemptSucceeded(attempt_id="a", issue_number=1, context="c", outcome=OUTCOME)
        conflict, appended = store.log.append_many(
            [
                Append("repository:o/r", 7, [event(stale, "x")], AT),
                Append("repository:o/r", 2, [event(done, "y")], AT + 1),
            ]
        )
        assert isinstance(conflict, Exception)
        assert not isinstance(appended, Exception)
        assert [row.state for row in store.models.attempts()] == ["succeeded"]
        assert store.models.errors() == []


def test_the_cache_is_shared_by_sweeps_with_provenance_and_revocation(project: Project) -> None:
    with project.open() as first:
        append(first, admitted(1), started("a", 1, stage=Stage.LLM_GENERATE))
        append(first, AttemptSucceeded(attempt_id="a", issue_number=1, context="made", outcome=OUTCOME))
    with project.open() as second:
        (cached,) = second.models.contexts_of("o", "r")
        assert (cached.context, cached.parent, cached.stage, cached.attempt_id) == (
            "made",
            "ctx",
            Stage.LLM_GENERATE,
            "a",
        )
        assert (cached.source, cached.tests, cached.revoked_at) == (7, "t" * 64, None)
        append(second, ContextRevoked(context="made", why="poisoned", contexts=["made"]), at=AT + 5)
    with project.open(write=False) as third:
        (cached,) = third.models.contexts_of("o", "r")
        assert (cached.revoked_at, cached.revoked_why) == (AT + 5, "poisoned")


def test_answers_longer_than_a_page_are_complete(project: Project) -> None:
    with project.open() as store:
        project.faults(row_cap=100)
        count = PAGE_ROWS + 200
        events = [started(f"a{n:05d}", 1) for n in range(count)]
        new = [NewEvent(f"e{n}", "AttemptStarted", 1, codec.encode(event)) for n, event in enumerate(events)]
        store.log.append_many(
            [Append("repository:o/r", start, new[start : start + 100], AT) for start in range(0, count, 100)]
        )
        assert [row.attempt_id for row in store.models.attempts()] == [f"a{n:05d}" for n in range(count)]


def test_a_rebuild_mends_tables_that_were_tampered_with(project: Project) -> None:
    with project.open() as store:
        append(store, admitted(1), started("a", 1))
        before = tables(project)
        with project.raw() as raw:
            raw.execute("UPDATE build_attempts SET state = 'succeeded'")
            raw.execute("DELETE FROM admissions")
        assert tables(project) != before
        store.models.rebuild()
        assert tables(project) == before
        append(store, AttemptSucceeded(attempt_id="a", issue_number=1, context="c", outcome=OUTCOME))
        assert len(store.models.contexts_of("o", "r")) == 1


def test_a_rebuild_goes_on_when_events_come_meanwhile(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with project.open() as store, project.open() as other:
        append(store, admitted(1), started("a", 1))
        asked: list[bool] = []
        rpc = Rest.rpc

        def meanwhile(rest: Rest, function: str, arguments: Any, **options: Any) -> Any:
            if function == "headrace_rebuild":
                if not asked:
                    append(other, AttemptInterrupted(attempt_id="a", issue_number=1, reason="meanwhile"))
                answer = rpc(rest, function, arguments, **options)
                asked.append(answer)
                return answer
            return rpc(rest, function, arguments, **options)

        monkeypatch.setattr(Rest, "rpc", meanwhile)
        store.models.rebuild()
        assert asked == [False, True]
        assert [row.message for row in store.models.attempts()] == ["meanwhile"]
        with project.raw() as raw:
            assert raw.execute("SELECT count(*) FROM headrace_staged").fetchone() == (0,)


def test_the_tables_have_the_columns_of_their_rows(project: Project) -> None:
    with project.raw() as raw:
        for model, row in MODELS.items():
            found = raw.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s",
                (model,),
            )
            assert {str(name) for (name,) in found} == {"row_key", "changed_by", *row.__struct_fields__}, model
        registered = raw.execute("SELECT name FROM headrace_models").fetchall()
        assert {str(name) for (name,) in registered} == set(MODELS)


def test_a_reader_does_not_rebuild(project: Project) -> None:
    with project.open(write=False) as reader, pytest.raises(LogUnavailable, match="open for reading only"):
        reader.models.rebuild()


def test_no_other_table_is_reached_by_the_name_of_a_read_model(project: Project) -> None:
    with project.open() as store:
        assert isinstance(store.models, SupabaseModels)
        for name in ("events", "pg_authid", "blobs"):
            with pytest.raises(EnvironmentNotReady, match="there is no read model"):
                store.models._rest.rpc(
                    "headrace_rows", {"model": name, "filters": {}, "after": "", "size": 1}, patience_s=0
                )
