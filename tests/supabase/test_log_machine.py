"""The log machine on a project: read through a connection of its own, opened again, with answers that are lost."""

from __future__ import annotations

from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule, run_state_machine_as_test

from store.log import Append, Appended, EventLog, Refused
from store.opening import Store
from tests.machines.budget import budget
from tests.machines.log_machine import LogMachine, streams
from tests.supabase.project import Projects

EXAMPLES, STEPS = 8, 25


class SupabaseMachine(LogMachine):
    """The log in a project of its own, behind an API that caps answers at 5 rows."""

    projects: ClassVar[Projects]

    def __init__(self) -> None:
        super().__init__()
        self.project = self.projects.new()
        self.project.faults(row_cap=5)
        self._stores: list[Store] = []
        self._open()

    def _open(self) -> None:
        self._stores = [self.project.open(write=write) for write in (True, False)]
        self.log = self._stores[0].log

    def _close(self) -> None:
        for store in reversed(self._stores):
            store.close()

    def teardown(self) -> None:
        self._close()
        self.projects.remove(self.project)
        super().teardown()

    def reader(self) -> EventLog:
        return self._stores[1].log

    @rule()
    def open_again(self) -> None:
        log_id = self.log.log_id
        self._close()
        self._open()
        assert self.log.log_id == log_id

    @rule(stream=streams, size=st.integers(1, 6), lost=st.integers(1, 2))
    def lose_answers_while_appending(self, stream: str, size: int, lost: int) -> None:
        batch = self.fresh(stream, size)
        first = self.model.take(batch)
        assert isinstance(first, Appended)
        self.project.faults(row_cap=5, cut_after=lost)
        (answer,) = self.log.append_many([batch])
        assert answer == Appended(stream, first.version, first.seq, duplicate=True)

    @rule(stream=streams, size=st.integers(1, 6))
    def append_when_calls_do_not_arrive(self, stream: str, size: int) -> None:
        self.project.faults(row_cap=5, cut_before=1, unavailable=1)
        self.write(self.fresh(stream, size))

    @rule(stream=streams)
    def write_through_another_process(self, stream: str) -> None:
        """What another one appended is a conflict for those who do not know it, and nothing else."""
        batch: Append = self.fresh(stream, 2)
        expected = self.model.take(batch)
        with self.project.open() as other:
            found: list[Appended | Refused] = other.log.append_many([batch])
        assert found == [expected]


@pytest.mark.slow
def test_a_log_in_a_project_answers_as_its_model_whatever_is_done_to_it(
    projects: Projects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SupabaseMachine, "projects", projects, raising=False)
    monkeypatch.setattr("store.supabase.rest.FIRST_PAUSE_S", 0.01)
    run_state_machine_as_test(SupabaseMachine, settings=budget(EXAMPLES, steps=STEPS))
