"""A sweep whose log was pruned goes on where it was: real processes, killed half-way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from events.replay import StreamFold
from scripts.cli import main
from scripts.reading import read_repository
from store.opening import open_store
from store.replay import check
from store.snapshots import load, save_snapshot
from tests.actors.harness import Sweep, rows, wait_for
from tests.scripted import Script, journal

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_a_sweep_that_was_killed_and_pruned_resumes_and_repeats_nothing_that_was_finished(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, pull_requests=rows(2, 6), script=Script(seconds=0.3, refuse=["o/r0#3"]))
    url = f"sqlite:///{tmp_path}/log.db"
    sweep.start()
    wait_for("half of the work is done", lambda: sweep.ended() >= 5)
    sweep.kill_everything()
    with open_store(url, write=True) as store:
        for info in store.log.streams():
            fold: StreamFold = load(store.log, info.stream)
            machine = fold.machine
            save_snapshot(
                store.log, info.stream, version=info.version, shape=machine.shape, state=machine.pack(fold.state)
            )
        before = {one.attempt_id for one in store.models.attempts()}
    assert main(["store", "prune", "--behind-snapshots", "--store", url]) == 0
    with open_store(url, write=False) as store:
        assert all(info.version == 1 or info.stream in store.log.pruned() for info in store.log.streams())
    sweep.start()
    assert sweep.finish() == 0
    with open_store(url, write=False) as store:
        check(store.log)
        counts = {name: read_repository(store.log, name).counts("s") for name in ("o/r0", "o/r1")}
        assert before < {one.attempt_id for one in store.models.attempts()}
    assert counts == {"o/r0": {"succeeded": 5, "failed": 1}, "o/r1": {"succeeded": 6}}
    began = Counter(one.attempt_id for one in journal(tmp_path) if one.what == "began")
    assert not [one for one, times in began.items() if times > 1], "no order is performed twice"
