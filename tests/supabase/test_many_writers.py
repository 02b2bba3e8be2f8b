"""Sixteen writers in four processes: versions and seqs without gaps, no event lost, none twice, whatever is cut off."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from events.errors import VersionConflict
from scripts.bench import shared_store
from scripts.bench.shared_store import write_in_processes
from store.log import Append, EventLog, NewEvent
from store.opening import open_store
from tests.supabase.project import Project

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 4.0
STREAMS = 3


def test_writers_of_their_own_streams_lose_and_double_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_store, "START_S", 5.0)
    project.faults(cut_every=50)
    with project.in_environment():
        produced = write_in_processes("load", seconds=SECONDS, together=2)
    assert len(produced) == 16
    assert all(one.ids for one in produced)


def test_writers_of_the_same_streams_leave_them_gapless(project: Project) -> None:
    project.faults(cut_every=50)
    until = time.time() + 5.0 + SECONDS
    with (
        project.in_environment(),
        ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        found = list(pool.map(contend, range(4), [until] * 4))
    ids = [event_id for process in found for event_id in process]
    with project.open(write=False) as store:
        events = list(store.log.read_all())
        heads = store.log.verify()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert sorted(event.event_id for event in events) == sorted(ids)
    assert sum(info.version for info in heads) == len(ids) > 200
    assert {event_id.split("-")[0] for event_id in ids} == {f"p{n}" for n in range(4)}


def test_a_writer_that_is_killed_leaves_whole_batches_and_everything_acknowledged(project: Project) -> None:
    """SIGKILL at any moment: the batch that was on its way is there whole or not at all."""
    with project.in_environment(PYTHONPATH=str(ROOT)):
        for turn in range(6):
            acknowledged = 0
            with subprocess.Popen([sys.executable, "-c", WRITER, f"s{turn}"], stdout=subprocess.PIPE, text=True) as one:
                assert one.stdout is not None
                for _ in range(2 + turn):
                    acknowledged = int(one.stdout.readline())
                one.kill()
            with project.open(write=False) as store:
                head = store.log.head(f"s{turn}")
                assert head % BATCH == 0
                assert head >= acknowledged > 0
                store.log.verify()


BATCH = 80
WRITER = f"""
import sys
from store.log import Append, NewEvent
from store.opening import open_store
stream, version = sys.argv[1], 0
with open_store("supabase", write=True) as store:
    while True:
        new = [NewEvent(f"{{stream}}-{{version + n}}", "Happened", 1, b"{{}}") for n in range({BATCH})]
        version = store.log.append(Append(stream, version, new, 1.0)).version
        print(version, flush=True)
"""


def contend(process: int, until: float) -> Sequence[str]:
    """Four threads append to the same few streams, and try again when another was first; the ids acknowledged."""
    with open_store("supabase", write=True) as store, ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda thread: _contend(store.log, f"p{process}-{thread}", until), range(4))
        return [event_id for ids in found for event_id in ids]


def _contend(log: EventLog, name: str, until: float) -> list[str]:
    acknowledged: list[str] = []
    heads = [0] * STREAMS
    while time.time() < until:
        number = len(acknowledged)
        which = number % STREAMS
        ids = [f"{name}-{number}", f"{name}-{number + 1}"]
        new = [NewEvent(one, "Happened", 1, b"{}") for one in ids]
        try:
            heads[which] = log.append(Append(f"s{which}", heads[which], new, time.time())).version
        except VersionConflict as conflict:
            heads[which] = conflict.actual
            continue
        acknowledged += ids
    return acknowledged
