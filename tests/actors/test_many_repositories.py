"""Many repositories, few of them alive: the cap holds, the retired wake identical, calls under way are bounded."""

from __future__ import annotations

import asyncio
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors import host, repository
from actors.admission import rows_to_bytes
from actors.gateway import Ref
from actors.governor import GOVERNOR, RUNNERS, RateLimitGovernor
from actors.log_client import LogClient, new_event
from actors.log_writer import LogWriter
from actors.repository import RepositoryActor
from actors.runner import AgentRunner, RunnerConfig
from actors.settings import Settings, SweepSettings
from actors.supervisor import SupervisorConfig, SweepProgress, SweepSupervisor
from events.repository_state import RepositoryState
from events.streams import machine_of
from events.types import (
    Account,
    Event,
    RepositoriesAdmitted,
    RepositoryActivated,
    RepositoryRetired,
    RepositoryRows,
)
from events.work import CascadePolicy, VerificationRules
from scripts.bench.instant import InstantWorkbench
from store.blobs import MemoryBlobs
from store.memory import MemoryLog
from store.opening import Store
from tests.actors.drive import Alive
from tests.actors.harness import Sweep, rows
from tests.actors.local import LocalRef
from tests.events.worlds import STOCK
from tests.scripted import Script

REPOSITORIES = 1_000
CAP = 32
WORKERS = 4


BOUNDS = {
    "log": CAP + WORKERS + 6,  # one read or append for each repository and runner; governor, supervisor, both hosts
    "governor": CAP + 2 * 2 + 2,  # one giving back for each repository; two exchanges and a renewal for each host
    "repositories": CAP + 1,  # one for each repository, and the look round
    "runner": 2,
}
"""Calls that may be under way to one actor at once: none grows with the number of repositories."""


class Watch:
    """What a test saw: calls under way by actor, repositories alive, and each repository's state at its ends."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.calls: Counter[str] = Counter()
        self.most_calls: Counter[str] = Counter()
        self.alive: Counter[str] = Counter()
        self.most_alive = 0
        self.left: dict[str, str] = {}
        self.woken: dict[str, str] = {}

    def begin(self, name: str) -> None:
        self.calls[name] += 1
        self.most_calls[name] = max(self.most_calls[name], self.calls[name])


class WatchedRef(LocalRef):
    """Counts the calls that are under way, whichever thread they come from."""

    def __init__(self, name: str, target: object, watch: Watch) -> None:
        super().__init__(name, target)
        self._watch = watch

    async def call(self, method: str, *args: object) -> Any:
        self._watch.begin(self.name)
        try:
            return await super().call(method, *args)
        finally:
            self._watch.calls[self.name] -= 1

    def ask(self, method: str, *args: object, timeout_s: float | None = None) -> Any:
        return asyncio.run_coroutine_threadsafe(self.call(method, *args), self._watch.loop).result(timeout_s)


class LocalRunner(AgentRunner):
    """A runner whose node is this process."""

    def __init__(self, name: str, config: RunnerConfig) -> None:
        super().__init__(name, config)
        self._bench = InstantWorkbench()

    def node(self) -> str:
        return "here"


def digest(state: RepositoryState) -> str:
    """Of the packed state: its sets have one element each here, so that equal states have equal digests."""
    found = machine_of(f"repository:{state.repository}")
    assert found is not None
    return sha256(found[0].pack(state)).hexdigest()


def watched_actor(watch: Watch) -> type[RepositoryActor]:
    class WatchedActor(RepositoryActor):
        """Notes that it lives, the state that it finds and the state that it leaves."""

        async def live(self) -> Any:
            name = self._rows.repository
            watch.alive[name] += 1
            watch.most_alive = max(watch.most_alive, sum(watch.alive.values()))
            try:
                return await super().live()
            finally:
                watch.alive[name] -= 1
                watch.left[name] = digest(self._state)

        async def _adopt(self, state: RepositoryState) -> None:
            watch.woken[state.repository] = digest(state)
            await super()._adopt(state)

    return WatchedActor


async def sweep(name: str, watch: Watch, log: LogClient, spawned: dict[str, object]) -> SweepProgress:
    """Sweeps ``REPOSITORIES`` repositories of one pull request each."""
    given = []
    for number in range(REPOSITORIES):
        (row,) = rows(1, 1)
        blob = await log.put_blob(rows_to_bytes([msgspec.structs.replace(row, repo=f"r{number}")]))
        given.append(RepositoryRows(repository=f"o/r{number}", rows=blob, pull_requests=1))
    admitted: Event = RepositoriesAdmitted(repositories=given)
    await log.append(f"sweep:{name}", 0, [new_event(admitted, f"admitted to {name}")], at=0.0)

    def spawn(cls: type, *args: Any, name: str, **_: object) -> Ref:
        made = LocalRunner if cls is AgentRunner else cls
        return WatchedRef(name, spawned.setdefault(name, made(*args)), watch)

    governor = RateLimitGovernor(log.writer, [Account(name=RUNNERS, slots=WORKERS)], run=name)
    config = SupervisorConfig(
        log_id="l",
        sweep=name,
        rules=VerificationRules(),
        policy=CascadePolicy(stock_context=STOCK),
        workers=WORKERS,
        max_active=CAP,
        hosts=2,
        infra_patience_s=60.0,
        writer=log.writer,
        governor=WatchedRef(GOVERNOR, governor, watch),
        runner=RunnerConfig(
            log_id="l",
            settings=Settings(),
            writer=log.writer,
            log_node="",
            blob_root="",
            workbench=lambda *_: InstantWorkbench(),
        ),
    )
    supervisor = SweepSupervisor(config, spawn=spawn)
    await supervisor.progress()
    assert supervisor._main is not None
    await supervisor._main
    return await supervisor.progress()


@pytest.mark.slow
def test_of_1000_repositories_few_are_alive_the_retired_wake_identical_and_calls_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        watch = Watch()
        monkeypatch.setattr(host, "RepositoryActor", watched_actor(watch))
        monkeypatch.setattr(repository, "KEEP_DRAINED_EVERY", 1)  # they wake from their snapshots
        memory, blobs = MemoryLog(log_id="l"), MemoryBlobs()

        def opened(url: str, **_: object) -> Store:
            return Store(url=url, log=memory, blobs=blobs, models=memory.models)

        writer = WatchedRef("log", LogWriter("memory:", "test", opened), watch)
        log, spawned = LogClient(writer), dict[str, object]()
        for name, succeeded in (("first", REPOSITORIES), ("second", REPOSITORIES)):
            before, watch.left = watch.left, {}
            watch.woken = {}
            progress = await sweep(name, watch, log, spawned)
            assert progress.phase == "finished", progress.message
            assert sum(one.get("succeeded", 0) for one in progress.repositories.values()) == succeeded
            if before:
                assert watch.woken == before, "a retired repository wakes as it was left"
        assert len(watch.left) == REPOSITORIES
        assert watch.most_alive == CAP
        kept = [len(one._actors) for one in spawned.values() if isinstance(one, host.RepositoryHost)]
        assert sum(kept) <= 2 * 2 * CAP, "what is retired does not stay in its host"
        for name, most in watch.most_calls.items():
            assert most <= BOUNDS[name.partition(":")[0]], f"{most} calls to {name} under way"

    asyncio.run(asyncio.wait_for(run(), 300))


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_40_repositories_share_one_process_and_at_most_4_are_alive(tmp_path: Path) -> None:
    settings = SweepSettings(workers=2, max_active_repositories=4)
    sweep = Sweep(tmp_path, pull_requests=rows(40, 3), script=Script(seconds=0.05), sweep=settings)
    sweep.start()
    assert sweep.finish() == 0
    sweep.check()
    assert [one.counts("s") for one in sweep.repositories()] == [{"succeeded": 3}] * 40
    looks = msgspec.json.Decoder(Alive).decode_lines((tmp_path / "alive.jsonl").read_bytes())
    assert max(len(one.repositories) for one in looks) <= 4
    hosts = {name for one in looks for name in one.actors if name.startswith("repositories:")}
    others = {name.partition(":")[0] for one in looks for name in one.actors} - {"repositories"}
    assert (len(hosts), others) == (1, {"log", "governor", "sweep", "runner"}), "no other actor for any repository"
    alive = most = 0
    for _, event in sweep.events():
        alive += isinstance(event, RepositoryActivated) - isinstance(event, RepositoryRetired)
        most = max(most, alive)
    assert (alive, most) == (0, 4)
