"""Migrations: from any earlier schema, again, by every way that there is, and never over somebody else's tables."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest

from events.errors import EnvironmentNotReady, LogTooNew
from scripts.cli import main
from store.log import Append, NewEvent
from store.supabase.migrating import MIGRATIONS, SCHEMA, apply, as_one_file
from tests.supabase.postgres import program
from tests.supabase.project import Project, Projects

AT_US = 1_700_000_000_000_000


@pytest.fixture
def empty(projects: Projects) -> Iterator[Project]:
    made = projects.new(empty=True)
    yield made
    projects.remove(made)


def schema_of(project: Project) -> str:
    """All that there is in the database but rows, as text."""
    done = subprocess.run(
        [program("pg_dump"), "--schema-only", project.database_url], capture_output=True, text=True, check=True
    )
    return "\n".join(line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


@pytest.mark.parametrize("earlier", range(SCHEMA))
def test_every_earlier_schema_is_lifted_to_what_a_new_one_is(empty: Project, project: Project, earlier: int) -> None:
    assert [one.number for one in apply(empty.database_url, up_to=earlier)] == list(range(1, earlier + 1))
    with pytest.raises(EnvironmentNotReady, match="run `headrace store migrate"):
        empty.open()
    assert [one.number for one in apply(empty.database_url)] == list(range(earlier + 1, SCHEMA + 1))
    assert schema_of(empty) == schema_of(project)
    empty.open().close()
    assert apply(empty.database_url) == []


def test_events_of_an_earlier_schema_are_kept_and_chained_on(empty: Project) -> None:
    apply(empty.database_url, up_to=3)
    request = (
        '{"batches": [{"stream": "s", "expected": 0, "at_us": %d, "ids": ["a"], "types": ["T"], "schemas": [1],'
        ' "data": ["{}"], "unreadable": false, "reads": {}, "sets": [], "rows": {}}]}'
    )
    with empty.raw() as raw:
        assert raw.execute("SELECT headrace_append(%s::json)::text", (request % AT_US,)).fetchone() == (
            '{"status" : "done", "results" : [["appended", 1, 1]]}',
        )
    apply(empty.database_url)
    with empty.open() as store:
        store.log.append(Append("s", 1, [NewEvent("b", "T", 1, b"{}")], AT_US / 1e6))
        assert [event.event_id for event in store.log.read_stream("s")] == ["a", "b"]
        store.log.verify()


@pytest.mark.parametrize("migration", MIGRATIONS, ids=lambda one: one.name)
def test_a_migration_applied_again_changes_nothing(project: Project, migration: object) -> None:
    before = schema_of(project)
    with project.open() as store:
        store.log.append(Append("s", 0, [NewEvent("a", "T", 1, b"{}")], 1.0))
    with project.raw() as raw:
        raw.execute(migration.sql.encode())  # type: ignore[attr-defined]
    assert schema_of(project) == before
    with project.open() as store:
        assert store.log.head("s") == 1


def test_the_printed_file_does_the_same_and_may_be_run_twice(
    empty: Project, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", "migrate", "--print"]) == 0
    text = capsys.readouterr().out
    assert text == as_one_file()
    for _ in range(2):
        with empty.raw() as raw:
            raw.execute(text.encode())
        assert schema_of(empty) == schema_of(project)


def test_the_command_says_what_it_applied(empty: Project, capsys: pytest.CaptureFixture[str]) -> None:
    for said in ("applied 20261101000001_event_log.sql\n", f"schema {SCHEMA}; nothing was to be applied\n"):
        assert main(["store", "migrate", "--database-url", empty.database_url]) == 0
        assert said in capsys.readouterr().out


def test_the_command_says_what_is_wrong(
    empty: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUPABASE_DB_URL", raising=False)
    assert main(["store", "migrate"]) == 2
    assert "name the database with --database-url" in capsys.readouterr().err
    wrong = empty.database_url.replace("scratch", "not-the-password")
    assert main(["store", "migrate", "--database-url", wrong]) == 3
    said = capsys.readouterr().err
    assert "the database does not connect" in said
    assert "not-the-password" not in said


def test_the_files_are_named_as_the_supabase_command_wants_them() -> None:
    for one in MIGRATIONS:
        assert re.fullmatch(r"\d{14}_[a-z_]+\.sql", one.path.name)
        assert one.path.parent.name == "migrations"
        assert one.path.parent.with_name("config.toml").is_file()


def test_the_tables_of_another_program_are_left_alone(empty: Project) -> None:
    with empty.raw() as raw:
        raw.execute("CREATE TABLE public.events (id int)")
        with pytest.raises(
            EnvironmentNotReady, match=r"public\.events belongs to another program.*nothing .* was kept"
        ):
            apply(empty.database_url)
        assert raw.execute("SELECT to_regclass('public.headrace_meta')").fetchone() == (None,)


def test_a_newer_database_is_not_touched_and_not_used(project: Project) -> None:
    with project.raw() as raw:
        raw.execute("INSERT INTO headrace_migrations (number, name) VALUES (%s, 'later')", (SCHEMA + 1,))
    with pytest.raises(LogTooNew, match="upgrade Headrace"):
        apply(project.database_url)
    with pytest.raises(LogTooNew, match="upgrade Headrace"):
        project.open()


def test_no_statement_asks_for_more_than_read_committed_or_fails_in_a_way_that_is_repeated_for_ever() -> None:
    text = as_one_file().upper()
    assert "SERIALIZABLE" not in text
    assert "40001" not in text
    assert "REPEATABLE READ" not in text
