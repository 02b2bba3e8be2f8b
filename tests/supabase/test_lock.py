"""Who drives a log: one at a time, the same scope takes over at once, and who lost the lock records nothing more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from events.errors import LogLocked
from store.log import Append, NewEvent
from store.supabase import log as supabase_log
from tests.actors.harness import wait_for
from tests.supabase.project import Project

ROOT = Path(__file__).resolve().parents[2]


def batch(expected: int, event_id: str) -> Append:
    return Append("s", expected, [NewEvent(event_id, "Happened", 1, b"{}")], 1.0)


def test_the_same_scope_takes_over_at_once_and_the_one_before_records_nothing_more(project: Project) -> None:
    with project.open(holder="sweep demo") as cut_off:
        cut_off.log.append(batch(0, "a"))
        with project.open(holder="sweep demo") as replacement:
            replacement.log.append(batch(1, "b"))
            for expected in (1, 2):  # even one that knows the stream
                with pytest.raises(LogLocked, match=r"is being written by process \d+ on .* \(sweep demo\)"):
                    cut_off.log.append(batch(expected, "c"))
            assert [event.event_id for event in replacement.log.read_all()] == ["a", "b"]


def test_something_else_is_refused_while_the_holder_lives_and_not_when_it_is_done(project: Project) -> None:
    with project.open(holder="sweep demo") as holder:
        with pytest.raises(LogLocked, match=r"\(sweep demo\), last heard of \d s ago"):
            project.open(holder="revoke")
        assert holder.log.append(batch(0, "a")).version == 1
    with project.open(holder="revoke") as other:
        assert other.log.append(batch(1, "b")).version == 2


def test_the_lock_of_a_killed_process_lapses_and_that_of_a_living_one_does_not(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supabase_log, "LOCK_TTL_S", 2.0)
    program = (
        "import store.supabase.log as module; module.BEAT_S = 0.5\n"
        "from store.opening import open_store\n"
        "store = open_store('supabase', write=True, holder='sweep demo')\n"
        "print('held', flush=True)\n"
        "import time; time.sleep(600)\n"
    )
    with (
        project.in_environment(PYTHONPATH=str(ROOT)),
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as holder,
    ):
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with project.raw() as raw:

            def seen() -> object:
                return raw.execute("SELECT seen_at FROM headrace_lock").fetchone()

            for _ in range(6):  # longer than a lock without signs of life would last
                before = seen()
                wait_for("another sign of life", lambda before=before: seen() != before, deadline_s=20)  # type: ignore[misc]
        with pytest.raises(LogLocked):
            project.open(holder="revoke")
        holder.kill()

    def taken() -> bool:
        try:
            project.open(holder="revoke").close()
        except LogLocked:
            return False
        return True

    wait_for("the lock has lapsed", taken, deadline_s=20)


def test_who_drives_nothing_writes_beside_the_holder(project: Project) -> None:
    with project.open(holder="sweep demo") as driver, project.open() as beside:
        assert driver.log.append(batch(0, "a")).version == 1
        assert beside.log.append(batch(1, "b")).version == 2
        assert driver.log.append(batch(2, "c")).version == 3


def test_a_lock_that_was_lost_is_not_given_back_by_who_had_it(project: Project) -> None:
    first = project.open(holder="sweep demo")
    with project.open(holder="sweep demo"):
        first.close()
        with pytest.raises(LogLocked):
            project.open(holder="revoke")
