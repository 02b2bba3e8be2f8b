"""The runner without Ray: what its calls promise when an order and its end cross on the way."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from actors.log_writer import LogWriter
from actors.runner import AgentRunner, RunnerConfig
from actors.settings import Settings
from events.types import OutcomeReported
from events.work import Outcome, Stage, VerificationRules, WorkOrder
from store.blobs import MemoryBlobs
from tests.actors.harness import read_events, rows
from tests.actors.local import LocalRef
from tests.events.worlds import STOCK
from tests.scripted import Script, ScriptedWorkbench, journal, scripted


class LoopRef(LocalRef):
    """Answers calls from threads, too, in the loop that it was made in."""

    def __init__(self, name: str, target: object) -> None:
        super().__init__(name, target)
        self._loop = asyncio.get_running_loop()

    def ask(self, method: str, *args: object, timeout_s: float | None = None) -> object:
        return asyncio.run_coroutine_threadsafe(self.call(method, *args), self._loop).result(timeout_s)


def runner_in(folder: Path, script: Script) -> AgentRunner:
    config = RunnerConfig(
        log_id="l",
        settings=Settings(),
        writer=LoopRef("log", LogWriter(f"sqlite:///{folder}/log.db", "test")),
        log_node="",
        blob_root="",
        workbench=scripted(folder, script),
    )
    runner = AgentRunner("runner:0", config)
    runner._bench = ScriptedWorkbench(folder, MemoryBlobs())
    return runner


def order() -> WorkOrder:
    return WorkOrder(
        attempt_id="a1",
        log_id="l",
        sweep="s",
        stage=Stage.TRY_DEFAULT,
        pull_request=rows(1, 1)[0],
        rules=VerificationRules(),
        anchor="a" * 40,
        context=STOCK,
    )


def test_ending_an_attempt_that_is_under_way_after_all_leaves_its_outcome_in_the_mailbox_first(tmp_path: Path) -> None:
    async def run() -> Outcome:
        runner = runner_in(tmp_path, Script(seconds=60.0))
        working = asyncio.create_task(asyncio.to_thread(runner.perform, order()))
        deadline = time.monotonic() + 30
        while not journal(tmp_path):
            assert time.monotonic() < deadline, "the order never began"
            await asyncio.sleep(0.01)
        await asyncio.to_thread(runner.end_attempt, "a1")
        reported = [one for _, one in read_events(f"sqlite:///{tmp_path}/log.db") if isinstance(one, OutcomeReported)]
        assert [one.outcome.cancelled for one in reported] == [True]
        return await working

    assert asyncio.run(run()).cancelled


def test_an_order_that_comes_after_the_end_of_its_attempt_does_not_begin(tmp_path: Path) -> None:
    async def run() -> Outcome:
        runner = runner_in(tmp_path, Script(seconds=0.0))
        await asyncio.to_thread(runner.end_attempt, "a1")
        return await asyncio.to_thread(runner.perform, order(), ["a1"])

    assert asyncio.run(run()).cancelled
    assert journal(tmp_path) == []
