"""A repository's report in a sweep: made once, whatever dies between its two events."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from actors import Synthesizer, faults
from actors.gather import result_from_bytes
from actors.gathering import Gatherer, base_image_of
from actors.log_client import LogClient
from actors.log_writer import LogWriter
from actors.settings import BuildSettings, Settings
from events.errors import VersionConflict
from events.gathering import GatherState
from events.types import Event, GatherFinished, GatherPrepared
from store.opening import open_store
from store.replay import check
from store.snapshots import load
from tests.actors.harness import read_events
from tests.actors.local import LocalRef
from tests.api.items import Inventive, Refusing, item


class Killed(BaseException):
    """Stands for the end of the process."""


class World:
    """A log in a folder, worked on by plain calls and gathered by a gatherer as the supervisor has it."""

    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder}/log.db"

    def work(self, *numbers: int, verifier: object = None, **changes: object) -> None:
        given = verifier or Refusing(2)
        synth = Synthesizer(store=self.url, verifier=given, settings=Settings())  # type: ignore[arg-type]
        for number in numbers:
            synth.run(**item(number, **changes))  # type: ignore[arg-type]

    def gather(self, *, times: int = 1) -> None:
        async def run() -> None:
            writer = LogWriter(self.url, "test")
            try:
                clock = lambda: 1_700_000_000.0  # noqa: E731 - a clock that stands
                gatherer = Gatherer(LogClient(LocalRef("log", writer)), build=BuildSettings(), clock=clock)
                for _ in range(times):
                    await gatherer.gather("o/r")
            finally:
                await writer.close()

        asyncio.run(run())

    def events(self) -> list[Event]:
        return [event for stream, event in read_events(self.url) if stream == "gather:o/r"]

    def state(self) -> GatherState:
        with open_store(self.url, write=False) as store:
            check(store.log)
            state: GatherState = load(store.log, "gather:o/r").state
            return state

    def blob(self, digest: str) -> str:
        with open_store(self.url, write=False) as store:
            return store.blobs.get(digest).decode()


def test_what_was_finished_is_reported_once_and_the_report_is_a_blob(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.work(1, 2, 3)
    world.gather(times=2)
    prepared, finished = world.events()
    assert isinstance(prepared, GatherPrepared)
    assert isinstance(finished, GatherFinished)
    assert prepared.issue_numbers == [1, 2, 3]
    assert (finished.status, finished.drifts) == ("done", [])
    assert finished.report is not None
    report = world.blob(finished.report)
    assert report.startswith("# Report of o/r\n\n2 verified, 1 failed\n")
    for line in (
        "PYTHON_VERSION: 3.11",
        "BASE_IMAGE: python:3.11-slim-bookworm",
        "STAGE: try_similar",
        "PINS_DIGEST: ",
    ):
        assert line in report
    result = result_from_bytes(world.blob(finished.result).encode())
    assert result.is_success
    assert list(result.sheet_outputs) == [1, 2, 3]


def test_the_next_report_tells_only_of_what_was_finished_since(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.work(1, 2)
    world.gather()
    world.gather()
    world.work(3)
    world.work(2, verifier=Refusing())
    world.gather()
    waves = [one.issue_numbers for one in world.events() if isinstance(one, GatherPrepared)]
    assert waves == [[1, 2], [2, 3]]
    assert world.state().waves == 2


def test_a_change_between_neighbours_in_time_is_drift(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.work(1)
    world.work(3, verifier=Inventive(), python_version="3.12")
    world.gather()
    (finished,) = [one for one in world.events() if isinstance(one, GatherFinished)]
    assert [(one.key, one.earlier, one.later) for one in finished.drifts] == [
        ("PYTHON_VERSION", 1, 3),
        ("BASE_IMAGE", 1, 3),
        ("CONTEXT", 1, 3),
    ]
    assert finished.report is not None
    assert "- PYTHON_VERSION: #1 '3.11' → #3 '3.12'" in world.blob(finished.report)


def test_a_gather_interrupted_between_its_events_is_finished_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.work(1, 2)

    def die(point: str) -> None:
        if point == faults.GATHER_PREPARED:
            raise Killed

    with faults.installed(die), pytest.raises(Killed):
        world.gather()
    (prepared,) = world.events()
    world.work(3)  # finished meanwhile: not in that report, but in the next one
    world.gather()
    assert isinstance(prepared, GatherPrepared)
    assert world.events()[0] == prepared
    assert [type(one).__name__ for one in world.events()] == ["GatherPrepared", "GatherFinished"]
    world.gather()
    assert [one.issue_numbers for one in world.events() if isinstance(one, GatherPrepared)] == [[1, 2], [3]]


def test_what_is_appended_while_a_report_is_prepared_is_left_to_the_next_one(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.work(1, 2)

    async def read(upto: int) -> int:
        writer = LogWriter(world.url, "test")
        try:
            gatherer = Gatherer(LogClient(LocalRef("log", writer)), build=BuildSettings(), clock=lambda: 1.0)
            return len(await gatherer._events(GatherState(repository="o/r", upto=2), upto=upto))
        finally:
            await writer.close()

    assert asyncio.run(read(5)) == 3


def test_a_repository_without_news_gets_no_report(tmp_path: Path) -> None:
    world = World(tmp_path)
    with open_store(world.url, write=True):
        pass
    world.gather()
    assert world.events() == []


def test_of_two_gatherers_at_once_one_makes_the_report(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.work(1)

    async def both() -> list[object]:
        writer = LogWriter(world.url, "test")
        try:
            log = LocalRef("log", writer)
            gatherers = [Gatherer(LogClient(log), build=BuildSettings(), clock=lambda: 1.0) for _ in range(2)]
            return await asyncio.gather(*(one.gather("o/r") for one in gatherers), return_exceptions=True)
        finally:
            await writer.close()

    found = asyncio.run(both())
    assert sum(isinstance(one, VersionConflict) for one in found) <= 1
    assert all(one is None or isinstance(one, VersionConflict) for one in found)
    assert [type(one).__name__ for one in world.events()] == ["GatherPrepared", "GatherFinished"]


@pytest.mark.parametrize(
    ("settings", "version", "name"),
    [
        (BuildSettings(), "3.11", "python:3.11-slim-bookworm"),
        (BuildSettings(base_image="mine:1"), "3.11", "mine:1"),
        (BuildSettings(provider="debootstrap"), "3.11", "debootstrap:bookworm"),
        (BuildSettings(provider="debootstrap"), "2.7", ""),
    ],
)
def test_a_base_image_is_named_by_what_it_is_made_from(settings: BuildSettings, version: str, name: str) -> None:
    assert base_image_of(settings, version) == name
