"""Snapshots: the same state from any cut, fallback when one is of no use, and none of it in the events."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger

from events import codec
from events.errors import LogCorrupt, ReplayDivergence
from events.replay import StreamFold, replay
from events.streams import State, first_difference, machine_of
from events.types import AttemptStarted, GovernorClaimed, RepositoryClaimed, RepositoryEvent
from events.work import FailureClass
from scripts.reading import read_repository
from store.log import Append, EventLog, NewEvent, Snapshot, snapshot_digest
from store.memory import MemoryLog
from store.opening import open_store
from store.replay import check
from store.snapshots import load, save_snapshot, state_of
from store.sqlite_schema import STEPS
from tests.events.history import REPOSITORY, START, history, record
from tests.events.worlds import Repository
from tests.store.backends import BACKENDS, opened


def stored(events: list[RepositoryEvent]) -> list[tuple[int, str, int, bytes]]:
    return [
        (version, type(one).__name__, codec.schema_of(one), codec.encode(one))
        for version, one in enumerate(events, start=1)
    ]


def through_bytes(stream: str, state: State) -> State:
    found = machine_of(stream)
    assert found is not None
    again: State = found[0].unpack(found[0].pack(state))
    return again


steps = st.lists(
    st.tuples(st.sampled_from(["fill", "good", "bad", "infra", "join", "claim"]), st.integers(0, 5)), max_size=25
)


def lived(script: list[tuple[str, int]]) -> list[RepositoryEvent]:
    """The events of a repository that is driven by ``script``."""
    world = Repository(1, 2, 3, 4)
    running: list[AttemptStarted] = []
    for step, number in script:
        match step:
            case "fill":
                running += world.fill(1 + number % 3)
            case "join":
                world.join(5 + number)
            case "claim":
                claimed = RepositoryClaimed(incarnation=f"i{number}", sweep="s" if number % 2 else "t")
                world.events.append(claimed)
                world.state = replay("repository:o/r", stored(world.events))
            case _ if running:
                attempt = running.pop(number % len(running))
                how = {"good": None, "bad": FailureClass.RECIPE, "infra": FailureClass.INFRA}[step]
                world.end(attempt, verified=how is None, cls=how, context=attempt.context or "c" * 64)
            case _:
                continue
    return world.events


@settings(deadline=None)
@given(steps, st.data())
def test_for_every_cut_a_snapshot_and_its_tail_give_what_all_events_give(
    script: list[tuple[str, int]], data: st.DataObject
) -> None:
    given_events = stored(lived(script))
    whole = replay("repository:o/r", given_events)
    cuts = data.draw(st.sets(st.integers(0, len(given_events)), max_size=4))
    for cut in sorted(cuts | {len(given_events) // 2}):
        state = through_bytes("repository:o/r", replay("repository:o/r", given_events[:cut]))
        assert first_difference(replay("repository:o/r", given_events[cut:], state=state), whole) is None


def test_for_every_cut_of_every_kind_of_stream() -> None:
    for stream in dict.fromkeys(stream for stream, _ in history()):
        events = stored([event for one, event in history() if one == stream])  # type: ignore[misc]
        whole = replay(stream, events)
        for cut in range(len(events) + 1):
            state = through_bytes(stream, replay(stream, events[:cut]))
            assert first_difference(replay(stream, events[cut:], state=state), whole) is None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture(params=BACKENDS)
def log(request: pytest.FixtureRequest, path: Path) -> Iterator[EventLog]:
    with opened(request, path) as store:
        record(store.log)
        yield store.log


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    heard: list[str] = []
    sink = logger.add(lambda message: heard.append(str(message)), level="WARNING", format="{message}")
    yield heard
    logger.remove(sink)


def take(log: EventLog, stream: str, *, version: int) -> Snapshot:
    """Stores the snapshot of a version, as its actor would have."""
    fold = StreamFold(stream)
    fold.take_all(one for one in log.payloads(stream) if one[0] <= version)
    machine = fold.machine
    save_snapshot(log, stream, version=version, shape=machine.shape, state=machine.pack(fold.state))
    snapshot = log.snapshot(stream)
    assert snapshot is not None
    return snapshot


def test_a_snapshot_is_read_back_and_replaced_by_the_next(log: EventLog) -> None:
    assert log.snapshot(REPOSITORY) is None
    take(log, REPOSITORY, version=5)
    second = take(log, REPOSITORY, version=9)
    assert (second.version, second.digest) == (9, snapshot_digest(second))
    assert log.snapshot("governor") is None
    check(log)


def test_opening_reads_only_what_came_after_the_snapshot(log: EventLog, warnings: list[str]) -> None:
    whole = load(log, REPOSITORY).state
    take(log, REPOSITORY, version=20)
    asked: list[int] = []
    ordinary = log.payloads

    def watched(stream: str, *, after: int = 0) -> Iterator[tuple[int, str, int, bytes | str]]:
        asked.append(after)
        return ordinary(stream, after=after)

    log.payloads = watched  # type: ignore[method-assign]
    assert first_difference(load(log, REPOSITORY).state, whole) is None
    assert first_difference(read_repository(log, "o/r"), whole) is None
    assert asked == [20, 20]
    assert warnings == []


def damaged(snapshot: Snapshot, *, before: str) -> dict[str, Snapshot]:
    """A snapshot in every way in which it can be of no use, by a part of the warning."""
    replace = msgspec.structs.replace

    def signed(one: Snapshot) -> Snapshot:
        return replace(one, digest=snapshot_digest(one))

    flipped = bytearray(snapshot.state)
    flipped[len(flipped) // 2] ^= 4
    return {
        "does not match its digest": replace(snapshot, state=bytes(flipped)),
        "truncated": signed(replace(snapshot, state=snapshot.state[:-9])),
        "of another version of Headrace": signed(replace(snapshot, shape="0" * 16)),
        "is not of this history": signed(replace(snapshot, hash="0" * 64)),
        "at version 99 is not of this history": signed(replace(snapshot, version=99)),
        "its state is of version 20": signed(replace(snapshot, version=19, hash=before)),
    }


@pytest.mark.parametrize("what", range(6))
def test_a_snapshot_of_no_use_is_passed_over_with_a_warning(log: EventLog, what: int, warnings: list[str]) -> None:
    whole = load(log, REPOSITORY).state
    ways = damaged(take(log, REPOSITORY, version=20), before=log.hash_at(REPOSITORY, 19) or "")
    why, bad = list(ways.items())[what]
    log.put_snapshot(bad)
    assert first_difference(load(log, REPOSITORY).state, whole) is None
    (warning,) = warnings
    assert why in warning
    assert "read from its start" in warning


def test_the_check_names_a_snapshot_that_is_damaged(log: EventLog) -> None:
    good = take(log, REPOSITORY, version=20)
    log.put_snapshot(msgspec.structs.replace(good, state=b"\x80"))
    with pytest.raises(LogCorrupt, match=f"the snapshot of stream {REPOSITORY} at version 20 is damaged"):
        check(log)


def test_the_check_reports_a_snapshot_that_replay_does_not_give(log: EventLog) -> None:
    """What transition code of another day recorded differs from what today's gives, in one field of one PR."""
    good = take(log, REPOSITORY, version=20)
    state = state_of(good)
    assert state is not None
    state.prs[2].generations += 1  # type: ignore[union-attr]
    found = machine_of(REPOSITORY)
    assert found is not None
    save_snapshot(log, REPOSITORY, version=20, shape=good.shape, state=found[0].pack(state))
    with pytest.raises(ReplayDivergence) as report:
        check(log)
    assert (report.value.stream, report.value.version) == (REPOSITORY, 20)
    assert report.value.field == "prs[2].generations"


def test_there_is_no_snapshot_of_a_version_that_is_not_there(log: EventLog) -> None:
    with pytest.raises(ValueError, match="has no version 99"):
        save_snapshot(log, REPOSITORY, version=99, shape="", state=b"")


def test_a_log_of_the_first_schema_is_read_as_it_is_and_lifted_when_written(path: Path, tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/new.db", write=True) as store:
        record(store.log)
    raw = sqlite3.connect(path)
    for statement in STEPS[0]:
        raw.execute(statement)
    raw.execute("PRAGMA user_version = 1")
    raw.execute("ATTACH ? AS new", (f"{tmp_path}/new.db",))
    for table in ("meta", "events"):
        raw.execute(f"INSERT INTO {table} SELECT * FROM new.{table}")  # noqa: S608
    raw.commit()
    raw.close()
    with open_store(f"sqlite:///{path}", write=False) as store:
        assert (store.log.snapshot(REPOSITORY), store.log.pruned()) == (None, {})
        head = check(store.log).states[REPOSITORY].version
    with open_store(f"sqlite:///{path}", write=True) as store:
        take(store.log, REPOSITORY, version=head)
        new = NewEvent("again", "GovernorClaimed", 1, codec.encode(GovernorClaimed(incarnation="g2")))
        store.log.append(Append("governor", store.log.head("governor"), [new], START))
        check(store.log)
    with open_store(f"sqlite:///{path}", write=False) as store:
        assert store.log.snapshot(REPOSITORY) is not None


def test_snapshots_lie_outside_of_the_events() -> None:
    log = MemoryLog(log_id="x")
    record(log)
    before = list(log.read_all())
    take(log, REPOSITORY, version=20)
    assert list(log.read_all()) == before
