"""Taking a stream over while the one who had it still writes, and asking runners that are away."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from actors import supervisor
from actors.gateway import ActorGone, Ref
from actors.governor import GOVERNOR, RUNNERS, RateLimitGovernor, Wish
from actors.log_client import LogClient, new_event
from actors.log_writer import LogWriter
from actors.repository import Means, RepositoryActor, RepositoryConfig
from events.errors import VersionConflict
from events.types import Account, AccountsConfigured, ContextsImported, Event, GovernorClaimed, RepositoryRows
from events.work import CascadePolicy, VerificationRules
from tests.actors.local import LocalRef
from tests.events.worlds import STOCK


class BusyWriter(LocalRef):
    """A log in which an earlier incarnation appends ``event`` once, just before the first append of the next one."""

    def __init__(self, stream: str, event: Event) -> None:
        super().__init__("log", LogWriter("memory:", "test"))
        self._stream, self._event = stream, event
        self._busy = True

    async def call(self, method: str, *args: object) -> Any:
        if method == "append" and self._busy:
            self._busy = False
            old = LogClient(LocalRef("log", self.target))
            await old.append(self._stream, 0, [new_event(self._event, "old")], at=0.0)
        return await super().call(method, *args)


def test_a_repository_is_taken_over_although_its_earlier_actor_appends_during_the_loading() -> None:
    async def run() -> None:
        writer = BusyWriter("repository:o/r0", ContextsImported(contexts=[]))
        config = RepositoryConfig(
            log_id="l",
            sweep="s",
            rules=VerificationRules(),
            policy=CascadePolicy(stock_context=STOCK),
            writer=writer,
            governor=LocalRef(GOVERNOR, RateLimitGovernor(writer, [Account(name=RUNNERS, slots=1)])),
            runners=[],
        )
        digest = await LogClient(writer).put_blob(b"")
        rows = RepositoryRows(repository="o/r0", rows=digest, pull_requests=0)
        found = await RepositoryActor(rows, config, Means(config), time.time).live()
        assert found.drained, found.failure

    asyncio.run(asyncio.wait_for(run(), 30))


def test_the_governor_takes_over_although_its_predecessor_appends_during_the_loading() -> None:
    async def run() -> None:
        slots = [Account(name=RUNNERS, slots=1)]
        writer = BusyWriter(GOVERNOR, AccountsConfigured(accounts=slots))
        governor = RateLimitGovernor(writer, slots)
        wish = Wish(number=1, holder="repository:o/r0", account=RUNNERS, count=2)
        assert len(await governor.exchange("desk", 1, [wish], [])) == 1

    asyncio.run(asyncio.wait_for(run(), 30))


def test_an_actor_that_is_still_loading_does_not_take_the_stream_from_its_successor() -> None:
    async def run() -> None:
        slots = [Account(name=RUNNERS, slots=1)]
        writer = BusyWriter(GOVERNOR, GovernorClaimed(incarnation="f" * 32))
        with pytest.raises(VersionConflict):
            await RateLimitGovernor(writer, slots).held()

    asyncio.run(asyncio.wait_for(run(), 30))


class AwayAtFirst(Ref):
    """A runner whose process dies twice before it answers."""

    def __init__(self) -> None:
        super().__init__("runner:0", object())
        self.calls = 0

    async def call(self, method: str, *args: object) -> Any:
        self.calls += 1
        if self.calls <= 2:
            raise ActorGone("runner:0: its process ended")
        return [method, *args]


def test_a_runner_that_dies_while_it_is_asked_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "POLL_S", 0.001)
    assert asyncio.run(supervisor._insist(AwayAtFirst(), "ready", 60.0)) == ["ready", 60.0]
