"""Who drives a log: one at a time, a dead one is followed at once, and who lost the lock records nothing more."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from events.errors import LogLocked
from store.log import Append, NewEvent
from store.supabase import log as supabase_log
from tests.actors.harness import wait_for
from tests.supabase.project import Project

ROOT = Path(__file__).resolve().parents[2]
HOLDER = """
import sys
from store.opening import open_store
store = open_store('supabase', write=True, holder='sweep demo')
print('held', flush=True)
sys.stdin.read()
"""


def batch(expected: int, event_id: str) -> Append:
    return Append("s", expected, [NewEvent(event_id, "Happened", 1, b"{}")], 1.0)


@contextmanager
def another_process(project: Project, program: str = HOLDER) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock as ``sweep demo`` until it is killed."""
    with (
        project.in_environment(PYTHONPATH=str(ROOT)),
        subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as holder,
    ):
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supabase_log, "LOCK_PATIENCE_S", 0.0)


@pytest.mark.parametrize("holder", ["revoke", "sweep demo"])
def test_while_the_holder_lives_nobody_else_drives_the_log(project: Project, hasty: None, holder: str) -> None:
    with project.open(holder="sweep demo") as first:
        with pytest.raises(
            LogLocked, match=r"is being written by process \d+ on .* \(sweep demo\), last heard of \d s"
        ):
            project.open(holder=holder)
        assert first.log.append(batch(0, "a")).version == 1
    with project.open(holder=holder) as other:
        assert other.log.append(batch(1, "b")).version == 2


def test_a_holder_that_was_killed_on_this_machine_is_followed_at_once(project: Project) -> None:
    with another_process(project) as holder:
        holder.kill()
        holder.wait()
        with project.open(holder="sweep demo") as successor:
            assert successor.log.append(batch(0, "a")).version == 1


def test_one_that_is_being_killed_is_waited_for(project: Project) -> None:
    """It is a zombie for a while, as a worker of Ray is until its raylet has buried it."""
    with another_process(project) as holder:
        holder.kill()  # not waited for
        with project.open(holder="sweep demo") as successor:
            assert successor.log.append(batch(0, "a")).version == 1


def test_the_lock_of_another_machine_lapses_without_signs_of_life_and_only_then(
    project: Project, monkeypatch: pytest.MonkeyPatch, hasty: None
) -> None:
    monkeypatch.setattr(supabase_log, "LOCK_TTL_S", 2.0)
    quick = "import store.supabase.log as module; module.BEAT_S = 0.5\n" + HOLDER
    with another_process(project, quick) as holder, project.raw() as raw:
        monkeypatch.setattr(socket, "gethostname", lambda: "another-machine")

        def seen() -> object:
            return raw.execute("SELECT seen_at FROM headrace_lock").fetchone()

        for _ in range(6):  # longer than a lock without signs of life would last
            before = seen()
            wait_for("another sign of life", lambda before=before: seen() != before, deadline_s=20)  # type: ignore[misc]
        with pytest.raises(LogLocked):
            project.open(holder="revoke")
        holder.kill()
        holder.wait()
        with pytest.raises(LogLocked):
            project.open(holder="revoke")

        def taken() -> bool:
            try:
                project.open(holder="revoke").close()
            except LogLocked:
                return False
            return True

        wait_for("the lock has lapsed", taken, deadline_s=20)


def test_who_lost_the_lock_records_nothing_more(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with project.open(holder="sweep demo") as cut_off:
        cut_off.log.append(batch(0, "a"))
        monkeypatch.setattr(supabase_log, "LOCK_TTL_S", 0.0)  # as if it had not been heard of
        with project.open(holder="sweep demo") as successor:
            successor.log.append(batch(1, "b"))
            for expected in (1, 2):  # even one that knows the stream
                with pytest.raises(LogLocked, match=r"is being written by process \d+ on .* \(sweep demo\)"):
                    cut_off.log.append(batch(expected, "c"))
            assert [event.event_id for event in successor.log.read_all()] == ["a", "b"]
            cut_off.close()  # gives back nothing: it is no longer its own
            monkeypatch.undo()
            monkeypatch.setattr(supabase_log, "LOCK_PATIENCE_S", 0.0)
            with pytest.raises(LogLocked):
                project.open(holder="revoke")


def test_a_lock_that_was_taken_while_the_answer_was_lost_is_had(project: Project) -> None:
    project.faults(cut_after=2)  # of the first call, headrace_state, and of the lock's
    with project.open(holder="sweep demo") as store:
        assert store.log.append(batch(0, "a")).version == 1
    with project.raw() as raw:
        assert raw.execute("SELECT epoch FROM headrace_lock").fetchone() == (1,)


def test_who_drives_nothing_writes_beside_the_holder(project: Project) -> None:
    with project.open(holder="sweep demo") as driver, project.open() as beside:
        assert driver.log.append(batch(0, "a")).version == 1
        assert beside.log.append(batch(1, "b")).version == 2
        assert driver.log.append(batch(2, "c")).version == 3
