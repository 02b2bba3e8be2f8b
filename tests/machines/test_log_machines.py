"""The log machine on both backends; SQLite's also loses its process at any byte of any transaction."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from events.errors import LogUnavailable, VersionConflict
from store.log import Append, EventLog, NewEvent
from store.memory import MemoryLog
from store.opening import Store, open_store
from store.sqlite import SqliteLog
from tests.machines.budget import budget
from tests.machines.log_machine import LogMachine, streams
from tests.machines.log_model import written


class MemoryMachine(LogMachine):
    """The log in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.log = MemoryLog(log_id="machine")


class SqliteMachine(LogMachine):
    """The log in a file, read through connections of its own, opened again and again, and torn in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-machine-"))
        self.path = self.folder / "log-0.db"
        self._stores: list[Store] = []
        self._open()

    def _open(self) -> None:
        self._stores = [open_store(f"sqlite:///{self.path}", write=write) for write in (True, False)]
        self.log = self._stores[0].log

    def _close(self) -> None:
        for store in reversed(self._stores):
            store.close()
        self._stores = []

    def teardown(self) -> None:
        self._close()
        shutil.rmtree(self.folder)
        super().teardown()

    def reader(self) -> EventLog:
        return self._stores[1].log

    @rule()
    def open_again(self) -> None:
        log_id = self.log.log_id
        self._close()
        self._open()
        assert self.log.log_id == log_id

    def torn(self, part: float, transaction: Callable[[], object]) -> None:
        """``transaction``, by a process that is gone when ``part`` of what it writes is on the disk.

        What SQLite adds to its write-ahead log it writes from one place on, in order: the files that a process leaves
        which dies at byte K of it are the files before, with the first K bytes of what came. They are opened elsewhere.
        """
        wal = self.path.with_name(self.path.name + "-wal")
        before, old = (wal.read_bytes() if wal.exists() else b""), self.path.read_bytes()
        model = copy.deepcopy(self.model)
        transaction()
        after = wal.read_bytes()
        assert self.path.read_bytes() == old, "a transaction of this size leaves the main file alone"
        begins = next((at for at, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), None)
        if begins is None:
            begins = min(len(before), len(after))
        cut = begins + round(part * (len(after) - begins))
        self._close()
        self.path = self.folder / f"log-{next(self._numbers)}.db"
        self.path.write_bytes(old)
        self.path.with_name(self.path.name + "-wal").write_bytes(after[:cut] + before[cut:])
        self._open()
        if [written(event) for event in self.log.read_all()] != self.model.left_of_all():
            assert part < 1, "what was acknowledged is there"
            self.model = model  # none of it: the invariants compare the rest

    @rule(stream=streams, size=st.integers(1, 30), part=st.floats(0, 1))
    def die_while_appending(self, stream: str, size: int, part: float) -> None:
        self.torn(part, lambda: self.write(self.fresh(stream, size)))

    @precondition(lambda self: not self.useless)
    @rule(stream=streams, part=st.floats(0, 1))
    def die_while_pruning(self, stream: str, part: float) -> None:
        if self.log.snapshot(stream) is not None:
            self.torn(part, lambda: self.prune(stream, fresh=False))

    @precondition(lambda self: not self.useless)
    @rule(stream=streams, part=st.floats(0, 1))
    def die_while_keeping_a_snapshot(self, stream: str, part: float) -> None:
        if self.model.head(stream) > self.model.pruned.get(stream, 0):
            self.torn(part, lambda: self.take_snapshot(stream, 0))

    @rule(stream=streams, size=st.integers(1, 3))
    def append_to_a_full_disk(self, stream: str, size: int) -> None:
        """Refused as a whole; the same batch is taken when there is room again."""
        assert isinstance(self.log, SqliteLog)
        pages = self.log._file.rows("PRAGMA page_count")[0][0]
        self.log._file.rows(f"PRAGMA max_page_count = {pages}")
        batch = self.fresh(stream, size)
        filler = Append("filler", 0, [NewEvent("filler", "Happened", 1, b'{"pad":"' + b"x" * 90_000 + b'"}')], 0.0)
        with pytest.raises(LogUnavailable, match=r"its disk is full.*what was acknowledged stays"):
            self.log.append_many([batch, filler])
        self.log._file.rows(f"PRAGMA max_page_count = {2**30}")
        self.write(batch)

    @precondition(lambda self: self.model.head("governor"))
    @rule()
    def a_second_writer_of_an_old_time_is_refused(self) -> None:
        stale = self.fresh("governor", 1, -1)
        (refused,) = self.log.append_many([stale])
        assert isinstance(refused, VersionConflict)


@pytest.mark.parametrize(
    ("machine", "examples", "steps"), [(MemoryMachine, 120, 40), (SqliteMachine, 60, 30)], ids=["memory", "sqlite"]
)
def test_a_log_answers_as_its_model_whatever_is_done_to_it(
    machine: type[LogMachine], examples: int, steps: int
) -> None:
    run_state_machine_as_test(machine, settings=budget(examples, steps=steps))
