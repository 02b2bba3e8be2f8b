"""Pruning: only what a snapshot covers, versions and seqs never again, and a chain that still proves itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events import codec
from events.errors import InputError, LogCorrupt, ReplayDivergence, VersionConflict
from events.replay import StreamFold
from events.streams import first_difference
from events.types import GovernorClaimed
from store.log import Append, EventLog, NewEvent, StreamInfo, snapshot_digest
from store.memory import MemoryLog
from store.opening import Store, open_store
from store.pruning import Cut, cut_of, prune
from store.replay import Moment, check, states_at
from store.snapshots import load, save_snapshot, state_of
from tests.events.history import REPOSITORY, START, history, record
from tests.store.backends import BACKENDS, opened
from tests.store.test_snapshots import take


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture(params=BACKENDS)
def store(request: pytest.FixtureRequest, path: Path) -> Iterator[Store]:
    with opened(request, path) as store:
        record(store.log)
        yield store


@pytest.fixture
def log(store: Store) -> EventLog:
    return store.log


def claim(log: EventLog, expected: int, event_id: str = "again") -> int:
    new = NewEvent(event_id, "GovernorClaimed", 1, codec.encode(GovernorClaimed(incarnation=event_id)))
    return log.append(Append("governor", expected, [new], START)).seq


def advance(log: EventLog, stream: str, *, version: int) -> None:
    """Stores the snapshot of a later version of a stream that is perhaps pruned, as its actor would."""
    known = log.snapshot(stream)
    fold = StreamFold(stream, state=state_of(known) if known else None)
    fold.take_all(one for one in log.payloads(stream, after=fold.state.version) if one[0] <= version)
    machine = fold.machine
    save_snapshot(log, stream, version=version, shape=machine.shape, state=machine.pack(fold.state))


def test_only_what_lies_below_the_snapshot_is_removed(log: EventLog) -> None:
    before = list(log.read_all())
    state = load(log, REPOSITORY).state
    take(log, REPOSITORY, version=20)
    assert prune(log, REPOSITORY) == 19
    assert list(log.read_all()) == [one for one in before if one.stream != REPOSITORY or one.version >= 20]
    assert first_difference(load(log, REPOSITORY).state, state) is None
    assert prune(log, REPOSITORY) == 0
    check(log)


def test_without_a_snapshot_nothing_is_removed(log: EventLog) -> None:
    before = list(log.read_all())
    assert prune(log, REPOSITORY) == 0
    with pytest.raises(ValueError, match="no snapshot covers what is below version 20"):
        log.remove_below(REPOSITORY, 20)
    take(log, REPOSITORY, version=10)
    with pytest.raises(ValueError, match="no snapshot covers what is below version 20"):
        log.remove_below(REPOSITORY, 20)
    assert list(log.read_all()) == before


def test_what_pruning_comes_to_is_known_before(log: EventLog) -> None:
    head = log.head(REPOSITORY)
    assert cut_of(log, REPOSITORY) == Cut(stream=REPOSITORY, first=1, last=0, head=head, why_kept="it has no snapshot")
    take(log, REPOSITORY, version=20)
    cut = cut_of(log, REPOSITORY)
    assert (cut.removed, cut.kept, cut.why_kept) == (19, head - 19, "")
    before = log.last_seq()
    assert prune(log, REPOSITORY) == cut.removed
    assert len(list(log.read_stream(REPOSITORY))) == cut.kept
    again = cut_of(log, REPOSITORY)
    assert (again.removed, again.kept, again.why_kept) == (0, cut.kept, "its snapshot covers nothing that is left")
    assert log.last_seq() == before


def test_a_snapshot_that_does_not_reach_what_was_pruned_is_not_stored(log: EventLog) -> None:
    early = take(log, REPOSITORY, version=5)
    covering = take(log, REPOSITORY, version=20)
    prune(log, REPOSITORY)
    with pytest.raises(ValueError, match=f"stream {REPOSITORY} is pruned beyond version 5"):
        log.put_snapshot(early)
    assert log.snapshot(REPOSITORY) == covering


def test_a_pruned_stream_whose_snapshot_is_lost_says_what_is_gone(log: EventLog) -> None:
    snapshot = take(log, REPOSITORY, version=20)
    prune(log, REPOSITORY)
    other = msgspec.structs.replace(snapshot, shape="0" * 16)
    log.put_snapshot(msgspec.structs.replace(other, digest=snapshot_digest(other)))
    gone = f"stream {REPOSITORY} is damaged: its versions 1 to 19 were pruned and the snapshot that covers them"
    with pytest.raises(LogCorrupt, match=gone):
        load(log, REPOSITORY)
    with pytest.raises(LogCorrupt, match=gone):
        check(log)
    assert cut_of(log, REPOSITORY).why_kept == "its snapshot cannot be used"


def test_versions_and_seqs_are_never_used_again(log: EventLog) -> None:
    head, last = log.head("governor"), max(one.seq for one in log.read_all())
    take(log, "governor", version=head)
    assert prune(log, "governor") == head - 1
    assert log.head("governor") == head
    assert claim(log, head) == last + 1
    with pytest.raises(VersionConflict) as stale:
        claim(log, 0, "from the start")
    assert stale.value.actual == head + 1
    assert [one.version for one in log.read_stream("governor")] == [head, head + 1]
    check(log)


def test_the_chain_is_verified_from_the_last_removed_event(log: EventLog) -> None:
    last = list(log.read_stream(REPOSITORY, limit=19))[-1]
    take(log, REPOSITORY, version=20)
    prune(log, REPOSITORY)
    assert log.pruned() == {REPOSITORY: StreamInfo(REPOSITORY, 19, last.hash)}
    log.verify_recent()
    log.verify_recent(5)
    heads = {info.stream: info.version for info in log.verify()}
    assert heads[REPOSITORY] == log.head(REPOSITORY)


def test_a_reader_goes_on_over_what_was_removed(log: EventLog) -> None:
    take(log, REPOSITORY, version=20)
    prune(log, REPOSITORY)
    left = [one.seq for one in log.read_all()]
    seen: list[int] = []
    while page := list(log.read_all(after=seen[-1] if seen else 0, limit=3)):
        seen += [one.seq for one in page]
    assert seen == left


def test_states_before_the_snapshot_are_gone_and_later_ones_are_not(log: EventLog) -> None:
    boundary = next(one.seq for one in log.read_stream(REPOSITORY) if one.version == 20)
    states = {seq: states_at(log, Moment(seq=seq)).states[REPOSITORY] for seq in range(boundary, len(history()) + 1)}
    take(log, REPOSITORY, version=20)
    prune(log, REPOSITORY)
    for seq, state in states.items():
        assert first_difference(states_at(log, Moment(seq=seq)).states[REPOSITORY], state) is None
    for early in (1, boundary - 1):
        with pytest.raises(InputError, match=f"{REPOSITORY} was pruned: versions 1 to 19 are gone.* seq {boundary} or"):
            states_at(log, Moment(seq=early))
        with pytest.raises(InputError, match="states before version 20 with them"):
            states_at(log, Moment(seq=early), stream=REPOSITORY)
    assert set(states_at(log, Moment(seq=1), stream="sweep:demo").states) == {"sweep:demo"}
    advance(log, REPOSITORY, version=23)
    with pytest.raises(InputError, match="versions 1 to 19 are gone, and its states before version 23 with them"):
        states_at(log, Moment(seq=boundary))


def test_a_damaged_stream_or_a_snapshot_that_lies_is_not_pruned(log: EventLog) -> None:
    snapshot = take(log, REPOSITORY, version=20)
    lying = msgspec.structs.replace(snapshot, state=snapshot.state.replace(b"r1", b"r2"))
    log.put_snapshot(msgspec.structs.replace(lying, digest=snapshot_digest(lying)))
    before = list(log.read_all())
    with pytest.raises(ReplayDivergence, match="incarnation"):
        prune(log, REPOSITORY)
    assert list(log.read_all()) == before


def test_read_models_of_a_pruned_log_are_not_rebuilt(store: Store) -> None:
    attempts = store.models.attempts()
    take(store.log, REPOSITORY, version=20)
    prune(store.log, REPOSITORY)
    with pytest.raises(InputError, match=f"events of 1 streams were pruned \\({REPOSITORY}"):
        store.models.rebuild()
    assert store.models.attempts() == attempts


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([REPOSITORY, "governor", "sweep:demo"]), st.integers(1, 40)), max_size=6))
def test_whatever_is_pruned_the_states_stay_and_the_log_proves_itself(where: list[tuple[str, int]]) -> None:
    log = MemoryLog(log_id="x")
    record(log)
    states = {info.stream: load(log, info.stream).state for info in log.streams()}
    heads = log.streams()
    for stream, version in where:
        known = log.snapshot(stream)
        if version <= log.head(stream) and (known is None or version > known.version):
            advance(log, stream, version=version)
            prune(log, stream)
        assert log.streams() == heads
        past = check(log).states
        assert all(first_difference(past[name], state) is None for name, state in states.items())


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM events WHERE version >= 20",
        "DELETE FROM events WHERE stream = 'governor'",
        "UPDATE events SET data = '{}' WHERE stream = 'repository:o/r'",
        "INSERT INTO pruned VALUES ('governor', 2, 'x')",
        "INSERT OR REPLACE INTO pruned VALUES ('repository:o/r', 25, 'x')",
        "UPDATE pruned SET version = 25",
        "DELETE FROM pruned",
        "DELETE FROM snapshots",
        "INSERT OR REPLACE INTO snapshots VALUES ('repository:o/r', 3, 'x', 'x', x'00', 'x')",
    ],
)
def test_the_database_refuses_to_remove_anything_else(path: Path, statement: str) -> None:
    with open_store(f"sqlite:///{path}", write=True) as store:
        record(store.log)
        take(store.log, REPOSITORY, version=20)
        prune(store.log, REPOSITORY)
        before = list(store.log.read_all())
    raw = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError):
        raw.execute(statement)
    raw.close()
    with open_store(f"sqlite:///{path}", write=False) as store:
        assert list(store.log.read_all()) == before
        check(store.log)


def test_events_lost_without_being_pruned_are_found(path: Path) -> None:
    with open_store(f"sqlite:///{path}", write=True) as store:
        record(store.log)
        take(store.log, REPOSITORY, version=20)
        prune(store.log, REPOSITORY)
    raw = sqlite3.connect(path)
    raw.execute("DROP TRIGGER events_are_not_deleted")
    raw.execute("DELETE FROM events WHERE stream = 'repository:o/r' AND version IN (20, 21)")
    raw.commit()
    raw.close()
    with (
        open_store(f"sqlite:///{path}", write=False) as store,
        pytest.raises(LogCorrupt, match="missing"),
    ):
        check(store.log)
