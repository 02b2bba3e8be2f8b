"""The supervisor without Ray: what it does about a repository that another actor has claimed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from actors.gateway import Ref
from actors.log_client import LogClient, new_event
from actors.log_writer import LogWriter
from actors.repository import RepositorySnapshot
from actors.runner import RunnerConfig, docker_workbench
from actors.settings import Settings
from actors.supervisor import SupervisorConfig, SweepProgress, SweepSupervisor
from events.types import RepositoriesAdmitted, RepositoryRows
from events.work import CascadePolicy, VerificationRules
from tests.actors.local import LocalRef
from tests.events.worlds import STOCK


class Spawned(Ref):
    """Answers for a runner or a host; the first ``superseded`` repository actors of the latter lose their stream."""

    def __init__(self, name: str, *, superseded: int, lives: list[list[str]]) -> None:
        super().__init__(name, object())
        self._superseded, self._lives = superseded, lives

    async def call(self, method: str, *args: Any) -> Any:
        if method != "live":
            return [] if method in {"reap", "snapshots"} else None
        _, over = args
        self._lives.append(over)
        superseded = len(self._lives) <= self._superseded
        return RepositorySnapshot(
            repository="o/r0",
            counts={"succeeded": 1},
            running=[],
            drained=not superseded,
            attempts_ended=1,
            infra_streak=0,
            infra_until=0.0,
            failure="another actor took it over" if superseded else "",
            superseded=superseded,
        )


async def progress_of(superseded: int) -> tuple[SweepProgress, list[list[str]]]:
    """The end of a run whose first ``superseded`` repository actors lose their stream, and what each replaced."""
    writer = LocalRef("log", LogWriter("memory:", "test"))
    given = [RepositoryRows(repository="o/r0", rows="r", pull_requests=1)]
    admitted = new_event(RepositoriesAdmitted(repositories=given), "admitted")
    await LogClient(writer).append("sweep:s", 0, [admitted], at=0.0)
    lives: list[list[str]] = []

    def spawn(_: type, *__: object, name: str, **___: object) -> Ref:
        return Spawned(name, superseded=superseded, lives=lives)

    runner = RunnerConfig(
        log_id="l", settings=Settings(), writer=writer, log_node="", blob_root="", workbench=docker_workbench
    )
    config = SupervisorConfig(
        log_id="l",
        sweep="s",
        rules=VerificationRules(),
        policy=CascadePolicy(stock_context=STOCK),
        workers=1,
        max_active=1,
        hosts=1,
        infra_patience_s=60.0,
        writer=writer,
        governor=Ref("governor"),
        runner=runner,
    )
    run = SweepSupervisor(config, spawn=spawn)
    await run.progress()
    assert run._main is not None
    await run._main
    return await run.progress(), lives


@pytest.mark.parametrize(("superseded", "phase", "lived"), [(0, "finished", 1), (2, "finished", 3), (9, "failed", 4)])
def test_a_repository_is_taken_back_a_few_times_from_an_actor_that_claimed_it(
    superseded: int, phase: str, lived: int
) -> None:
    progress, lives = asyncio.run(asyncio.wait_for(progress_of(superseded), 30))
    assert (progress.phase, len(lives)) == (phase, lived)
    assert lives == [[], *[["o/r0"]] * (lived - 1)], "the one that lost its stream is left behind first"
