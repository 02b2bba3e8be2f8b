"""``headrace doctor --store supabase``: what it sees of a project, and what it says of one that cannot be used."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from scripts import doctor_supabase
from scripts.doctor import command
from scripts.doctor_supabase import look_at_supabase
from scripts.findings import Finding, Status
from store.log import Append, NewEvent
from store.supabase.migrating import SCHEMA
from tests.supabase.gateway import key_of
from tests.supabase.project import Project


@pytest.fixture
def here(project: Project) -> Iterator[Project]:
    with project.in_environment():
        yield project


def look() -> dict[str, Finding]:
    found = [check() for check in look_at_supabase()]
    return {one.name: one for one in found if one is not None}


def test_a_project_that_can_be_used_is_described(here: Project) -> None:
    with here.open(holder="sweep demo") as store:
        store.log.append(Append("s", 0, [NewEvent(f"e{n}", "T", 1, b"{}") for n in range(150)], 1.0))
        found = look()
    assert {one.status for one in found.values()} == {Status.OK}
    assert f"schema {SCHEMA}, 150 events" in found["store"].seen
    assert "ms (median of 7)" in found["store latency"].seen
    assert "not met by 150 rows" in found["store row cap"].seen
    assert "(sweep demo), a sign of life at" in found["store lock"].seen
    assert look()["store lock"].seen == "nothing drives this log"


def test_a_row_cap_is_found_and_a_small_one_is_warned_of(here: Project) -> None:
    with here.open() as store:
        store.log.append(Append("s", 0, [NewEvent(f"e{n}", "T", 1, b"{}") for n in range(150)], 1.0))
    here.faults(row_cap=100)
    assert look()["store row cap"] == Finding(
        name="store row cap", status=Status.OK, seen="100 rows an answer; reads go on until they are complete"
    )
    here.faults(row_cap=10)
    found = look()["store row cap"]
    assert (found.status, found.seen) == (Status.WARN, "an answer has 10 rows at most")
    assert "raise max rows" in found.mend


def test_a_clock_that_is_wrong_is_warned_of(here: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    monkeypatch.setattr("scripts.doctor_supabase.time.time", lambda: now() - 60)
    found = look()["store clock"]
    assert found.status is Status.WARN
    assert found.seen.startswith(("this machine is 60.", "this machine is 59."))
    assert "behind the project" in found.seen


def test_a_slow_project_is_warned_of(here: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_supabase, "SLOW_MS", 0.001)
    assert look()["store latency"].status is Status.WARN


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"SUPABASE_KEY": key_of("anon")}, "SUPABASE_KEY is a key of the role anon"),
        ({"SUPABASE_KEY": key_of("service_role", secret="x" * 40)}, "refuses SUPABASE_KEY"),
        ({"SUPABASE_URL": ""}, "SUPABASE_URL is not set"),
    ],
)
def test_what_cannot_be_used_fails_with_its_reason(here: Project, changes: dict[str, str], seen: str) -> None:
    with here.in_environment(**changes):
        assert seen in look()["store"].seen
        result = CliRunner().invoke(command, ["--store", "supabase", "--json"])
    (store,) = (one for one in json.loads(result.output)["checks"] if one["name"] == "store")
    assert (store["status"], result.exit_code) == ("fail", 3)
    assert here.key not in result.output
