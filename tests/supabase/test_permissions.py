"""What each role may do: one writes through the functions, nobody changes events, the others see nothing."""

from __future__ import annotations

import httpx
import psycopg
import pytest

from store.log import Append, NewEvent
from tests.supabase.gateway import key_of
from tests.supabase.project import Project

API_ROLES = ["anon", "authenticated", "service_role"]
OUTSIDERS = ["anon", "authenticated"]
CALLABLE = {
    "headrace_acquire",
    "headrace_append",
    "headrace_beat",
    "headrace_get_part",
    "headrace_prune",
    "headrace_put_part",
    "headrace_put_snapshot",
    "headrace_rebuild",
    "headrace_rows",
    "headrace_seal",
    "headrace_seal_stored",
    "headrace_stage",
    "headrace_state",
}
CHANGES = [
    "UPDATE public.events SET data = '{}'",
    "UPDATE public.events SET hash = '0' WHERE seq = 1",
    "DELETE FROM public.events",
    "DELETE FROM public.events WHERE seq = 1",
    "TRUNCATE public.events",
    "TRUNCATE public.events, public.streams CASCADE",
]
INSERT = "INSERT INTO public.events VALUES (9, 's', 9, 'x', 'T', 1, 0, '{}', '0')"


@pytest.fixture
def filled(project: Project) -> Project:
    with project.open() as store:
        store.log.append(Append("s", 0, [NewEvent("a", "T", 1, b"{}"), NewEvent("b", "T", 1, b"{}")], 1.0))
        store.blobs.put(b"blob")
    return project


def as_role(project: Project, role: str) -> psycopg.Connection[tuple[object, ...]]:
    """A connection as an API's role has it, or as owner or superuser."""
    if role in API_ROLES:
        connection = project.raw(role="authenticator")
        connection.execute(f"SET ROLE {role}")
        return connection
    return project.raw(role=role)


@pytest.mark.parametrize("role", [*API_ROLES, "owner", "postgres"])
@pytest.mark.parametrize("statement", CHANGES)
def test_no_role_changes_or_removes_events(filled: Project, role: str, statement: str) -> None:
    with as_role(filled, role) as connection, pytest.raises(psycopg.Error) as refused:
        connection.execute(statement)
    assert refused.value.sqlstate == ("42501" if role in API_ROLES else "P0001"), refused.value
    with filled.open(write=False) as store:
        assert [info.version for info in store.log.verify()] == [2]


@pytest.mark.parametrize("role", API_ROLES)
def test_no_role_of_the_api_writes_a_table_directly(filled: Project, role: str) -> None:
    with filled.raw() as raw:
        tables = [row[0] for row in raw.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    assert len(tables) >= 14
    with as_role(filled, role) as connection:
        for statement in (INSERT, *(f"DELETE FROM public.{table}" for table in tables)):  # noqa: S608
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


@pytest.mark.parametrize("role", OUTSIDERS)
def test_outsiders_read_nothing_and_call_nothing(filled: Project, role: str) -> None:
    with filled.raw() as raw, as_role(filled, role) as connection:
        relations = raw.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
        ).fetchall()
        for (name,) in relations:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"SELECT * FROM public.{name}")  # noqa: S608
        for name, arguments in functions(raw):
            found = raw.execute(
                "SELECT has_function_privilege(%s, %s, 'EXECUTE')", (role, f"public.{name}({arguments})")
            ).fetchone()
            assert found == (False,), f"{role} may call {name}"
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT public.headrace_append('{}')")


def test_the_service_role_calls_what_clients_need_and_no_more(project: Project) -> None:
    with project.raw() as raw:
        allowed = {
            name
            for name, arguments in functions(raw)
            if raw.execute(
                "SELECT has_function_privilege('service_role', %s, 'EXECUTE')", (f"public.{name}({arguments})",)
            ).fetchone()
            == (True,)
        }
        public = raw.execute(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace "
            "AND EXISTS (SELECT 1 FROM aclexplode(proacl) AS a WHERE a.grantee = 0)"
        ).fetchall()
    assert allowed == CALLABLE
    assert public == []


def functions(raw: psycopg.Connection[tuple[object, ...]]) -> list[tuple[str, str]]:
    rows = raw.execute(
        "SELECT proname, pg_get_function_identity_arguments(oid), oidvectortypes(proargtypes) "
        "FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    )
    return [(str(name), str(types)) for name, _, types in rows]


def test_row_level_security_is_on_everywhere_and_has_no_policy(project: Project) -> None:
    with project.raw() as raw:
        bare = raw.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND NOT rowsecurity").fetchall()
        policies = raw.execute("SELECT policyname FROM pg_policies WHERE schemaname = 'public'").fetchall()
    assert (bare, policies) == ([], [])


@pytest.mark.parametrize("role", API_ROLES)
def test_over_the_api_nobody_changes_events_either(filled: Project, role: str) -> None:
    headers = {"Authorization": f"Bearer {key_of(role)}", "Content-Type": "application/json"}
    with httpx.Client(base_url=filled.url, headers=headers, timeout=10) as http:
        row = {"seq": 3, "stream": "s", "version": 3, "event_id": "x", "type": "T", "schema": 1, "recorded_us": 0}
        answers = [
            http.patch("/rest/v1/events?seq=eq.1", json={"data": "{}"}),
            http.delete("/rest/v1/events?seq=eq.1"),
            http.post("/rest/v1/events", json={**row, "data": "{}", "hash": "0"}),
            http.patch("/rest/v1/headrace_meta?seq=gt.0", json={"seq": 0}),
            http.delete("/rest/v1/pruned"),
        ]
        assert {answer.status_code for answer in answers} == {401 if role == "anon" else 403}
        assert {answer.json()["code"] for answer in answers} == {"42501"}
        for path in ("/rest/v1/events", "/rest/v1/event_view", "/rest/v1/pr_timelines"):
            assert http.get(path).is_success is (role == "service_role"), path
        called = http.post("/rest/v1/rpc/headrace_append", json={"request": {"batches": []}})
        assert called.is_success is (role == "service_role")
    with filled.open(write=False) as store:
        assert [info.version for info in store.log.verify()] == [2]
