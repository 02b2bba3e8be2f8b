"""Appends over the log writer's lane: durable when answered, and no answer at all where something is amiss."""

from __future__ import annotations

import asyncio
import stat
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from actors.gateway import ActorGone
from actors.log_client import LogClient
from actors.log_lane import LaneClient
from actors.log_writer import LogWriter, pack
from events.errors import EventIdReused, VersionConflict
from store.log import Append, Appended, NewEvent
from store.opening import open_store
from tests.actors.local import LocalRef


class CountingRef(LocalRef):
    """Counts calls by method; ``away`` makes them fail as those of a dead actor do."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__("log", writer)
        self.calls: list[str] = []
        self.away = 0

    async def call(self, method: str, *args: object) -> Any:
        self.calls.append(method)
        if self.away:
            self.away -= 1
            raise ActorGone("away")
        return await super().call(method, *args)


def _event(name: str, data: bytes = b"{}") -> NewEvent:
    return NewEvent(name, "RepositoryActivated", 1, data)


def _run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60.0))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.db"


def test_an_append_that_returned_is_in_the_log_and_made_no_call(url: str) -> None:
    async def work() -> None:
        ref = CountingRef(LogWriter(url, "test", open_store, True))
        log = LogClient(ref)
        for number in range(3):
            appended = await log.append("s", number, [_event(f"e{number}")], at=1.0)
            assert appended == Appended("s", number + 1, number + 1)
        with open_store(url, write=False) as reader:
            assert [one.event_id for one in reader.log.read_stream("s")] == ["e0", "e1", "e2"]
        assert ref.calls == ["lane"]
        await ref.target.close()  # type: ignore[attr-defined]

    _run(work())


def test_a_refusal_arrives_as_itself(url: str) -> None:
    async def work() -> None:
        writer = LogWriter(url, "test", open_store, True)
        log = LogClient(LocalRef("log", writer))
        await log.append("s", 0, [_event("a")], at=1.0)
        with pytest.raises(VersionConflict) as conflict:
            await log.append("s", 0, [_event("b")], at=1.0)
        assert (conflict.value.expected, conflict.value.actual) == (0, 1)
        with pytest.raises(EventIdReused):
            await log.append("s", 1, [_event("a", b'{"other": 1}')], at=1.0)
        assert (await log.append("s", 0, [_event("a")], at=1.0)).duplicate
        assert (await log.append("s", 1, [_event("b")], at=1.0)).version == 2
        await writer.close()

    _run(work())


def test_appends_of_many_callers_at_once_are_all_answered_with_their_own_positions(url: str) -> None:
    async def work() -> None:
        writer = LogWriter(url, "test", open_store, True)
        logs = [LogClient(LocalRef("log", writer)) for _ in range(4)]
        found = await asyncio.gather(
            *(
                logs[number % 4].append(f"s{number}", 0, [_event(f"{number}-{i}") for i in range(number + 1)], at=1.0)
                for number in range(40)
            )
        )
        assert [(one.stream, one.version) for one in found] == [(f"s{n}", n + 1) for n in range(40)]
        await writer.close()
        with open_store(url, write=False) as reader:
            assert sum(info.version for info in reader.log.verify()) == sum(range(1, 41))

    _run(work())


def test_without_a_lane_appends_are_calls_and_it_is_asked_for_once(url: str) -> None:
    async def work() -> None:
        writer = LogWriter(url, "test")
        ref = CountingRef(writer)
        log = LogClient(ref)
        await log.append("s", 0, [_event("a")], at=1.0)
        await log.append("s", 1, [_event("b")], at=1.0)
        assert ref.calls == ["lane", "append", "append"]
        await writer.close()

    _run(work())


def test_a_caller_on_another_node_finds_no_lane_there_and_appends_by_calls(url: str) -> None:
    class Elsewhere(LogWriter):
        async def lane(self) -> str:
            return "/nowhere/lane"

    async def work() -> None:
        writer = Elsewhere(url, "test", open_store, True)
        ref = CountingRef(writer)
        log = LogClient(ref)
        for number in range(2):
            await log.append("s", number, [_event(f"e{number}")], at=1.0)
        assert ref.calls == ["lane", "append", "append"]
        await writer.close()

    _run(work())


def test_when_the_writer_dies_with_an_append_under_way_it_is_repeated_and_recorded_once(url: str) -> None:
    async def work() -> None:
        first = LogWriter(url, "first", open_store, True)
        ref = CountingRef(first)
        log = LogClient(ref)
        await log.append("s", 0, [_event("a")], at=1.0)
        lane = log._lane
        assert lane is not None
        assert lane._transport is not None
        under_way = asyncio.create_task(log.append("s", 1, [_event("b")], at=1.0))
        await asyncio.sleep(0)
        lane._transport.abort()  # what the kernel does when its peer's process ends
        ref.away = 1
        assert (await under_way).version == 2
        assert lane.lost
        assert (await log.append("s", 2, [_event("c")], at=1.0)).version == 3
        assert log._lane is not lane
        await first.close()
        with open_store(url, write=False) as reader:
            assert [one.event_id for one in reader.log.read_stream("s")] == ["a", "b", "c"]

    _run(work())


def test_frames_that_arrive_in_pieces_are_put_together_and_what_is_no_batch_has_no_answer(url: str) -> None:
    async def work() -> None:
        writer = LogWriter(url, "test", open_store, True)
        path = await writer.lane()
        reader, sender = await asyncio.open_unix_connection(path)
        batch = pack([Append("s", 0, [_event("a")], 1.0)])
        for byte in len(batch).to_bytes(4, "big") + (7).to_bytes(4, "big") + batch:
            sender.write(bytes([byte]))
            await sender.drain()
        length = int.from_bytes(await reader.readexactly(4), "big")
        assert int.from_bytes(await reader.readexactly(4), "big") == 7
        assert b"s" in await reader.readexactly(length)
        sender.write((3).to_bytes(4, "big") + (8).to_bytes(4, "big") + b"???")
        assert await reader.readexactly(8) == bytes(4) + (8).to_bytes(4, "big")
        sender.close()
        await writer.close()

    _run(work())


def test_callers_that_ask_at_once_are_all_told_the_same_lane(url: str) -> None:
    async def work() -> None:
        writer = LogWriter(url, "test", open_store, True)
        paths = await asyncio.gather(*(writer.lane() for _ in range(8)))
        assert len(set(paths)) == 1
        assert paths[0]
        await writer.close()

    _run(work())


def test_where_no_socket_can_be_made_appends_are_calls(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
        ref = CountingRef(LogWriter(url, "test", open_store, True))
        await LogClient(ref).append("s", 0, [_event("a")], at=1.0)
        assert ref.calls == ["lane", "append"]

    _run(work())


def test_the_socket_is_for_the_writers_user_only_and_goes_with_it(url: str) -> None:
    async def work() -> None:
        writer = LogWriter(url, "test", open_store, True)
        path = Path(await writer.lane())
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert await writer.lane() == str(path)
        await writer.close()
        assert not path.parent.exists()
        assert await LaneClient.connect(str(path)) is None

    _run(work())
