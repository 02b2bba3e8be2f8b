"""What every event log guarantees; each backend inherits ``LogContract`` and runs it whole."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import msgspec
import pytest

from events.errors import EventIdReused, LogCorrupt, UnknownEventType, VersionConflict
from store.log import GENESIS, Append, Appended, EventLog, NewEvent, StreamInfo, chain_hash, verify_chain
from store.memory import MemoryLog

AT = 1_700_000_000.123456


def new(event_id: str, data: bytes = b'{"n":1}', *, type_: str = "Happened") -> NewEvent:
    return NewEvent(event_id, type_, 1, data)


def batch(stream: str, expected: int, *ids: str, at: float = AT) -> Append:
    return Append(stream, expected, [new(event_id, f'{{"id":"{event_id}"}}'.encode()) for event_id in ids], at)


@contextmanager
def hurried() -> Iterator[None]:
    """Threads take turns all the time, so that what is not protected against it shows."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class LogContract:
    """Inherited by the tests of each backend, which give ``log``."""

    @pytest.fixture
    def log(self) -> EventLog:
        raise NotImplementedError

    def test_an_appended_event_is_read_back_with_all_it_was_given(self, log: EventLog) -> None:
        data = '{"text":"später 🌊"}'.encode()
        appended = log.append(Append("s", 0, [NewEvent("a", "Happened", 3, data)], AT))
        assert appended == Appended(stream="s", version=1, seq=1, duplicate=False)
        (event,) = log.read_stream("s")
        assert (event.seq, event.stream, event.version, event.event_id) == (1, "s", 1, "a")
        assert (event.type, event.schema, event.recorded_at, event.data) == ("Happened", 3, AT, data)
        assert event.hash == chain_hash(event, previous=GENESIS)

    def test_no_stream_yet_is_an_expectation_like_any_other(self, log: EventLog) -> None:
        with pytest.raises(VersionConflict) as ahead:
            log.append(batch("s", 1, "a"))
        assert (ahead.value.stream, ahead.value.expected, ahead.value.actual) == ("s", 1, 0)
        log.append(batch("s", 0, "a"))
        with pytest.raises(VersionConflict) as behind:
            log.append(batch("s", 0, "b"))
        assert (behind.value.stream, behind.value.expected, behind.value.actual) == ("s", 0, 1)
        assert [event.event_id for event in log.read_all()] == ["a"]

    @pytest.mark.parametrize("size", [1, 15, 16, 63, 64, 65, 150])
    def test_batches_of_every_size_are_kept_in_order_and_repeated_as_one(self, log: EventLog, size: int) -> None:
        log.append(batch("s", 0, "first"))
        ids = [f"{number:03d}" for number in range(size)]
        appended = log.append(batch("s", 1, *ids))
        assert appended == Appended(stream="s", version=size + 1, seq=size + 1)
        assert [event.event_id for event in log.read_stream("s")] == ["first", *ids]
        assert log.append(batch("s", 1, *ids)) == Appended("s", size + 1, size + 1, duplicate=True)
        with pytest.raises(EventIdReused):
            log.append(batch("s", size + 1, *(f"new-{number}" for number in range(size)), ids[-1]))
        assert log.append(batch("s", size + 1, "last")).seq == size + 2
        assert log.verify() == log.streams()

    def test_repeating_an_append_returns_the_original_positions(self, log: EventLog) -> None:
        first = log.append(batch("s", 0, "a", "b"))
        log.append(batch("s", 2, "c"))
        repeated = log.append(batch("s", 0, "a", "b", at=AT + 60))
        assert repeated == Appended(stream="s", version=first.version, seq=first.seq, duplicate=True)
        assert log.head("s") == 3

    def test_a_repetition_is_recognised_whatever_version_it_expects(self, log: EventLog) -> None:
        log.append(batch("s", 0, "a"))
        assert log.append(batch("s", 1, "a")).duplicate
        assert log.head("s") == 1

    @pytest.mark.parametrize(
        "again",
        [
            Append("s", 0, [new("a", b'{"id":"other"}')], AT),
            Append("s", 2, [new("a", b'{"id":"other"}')], AT),
            Append("s", 0, [NewEvent("a", "Other", 1, b'{"id":"a"}')], AT),
            Append("s", 0, [NewEvent("a", "Happened", 2, b'{"id":"a"}')], AT),
            batch("t", 0, "a"),
            batch("s", 2, "b", "a"),
            batch("s", 2, "a", "c"),
            batch("s", 2, "c", "a"),
            batch("s", 2, "c", "c"),
        ],
        ids=[
            "payload",
            "payload-at-head",
            "type",
            "schema",
            "stream",
            "order",
            "partly-known",
            "partly-new",
            "twice-in-one",
        ],
    )
    def test_an_event_id_used_for_something_else_is_refused(self, log: EventLog, again: Append) -> None:
        log.append(batch("s", 0, "a", "b"))
        with pytest.raises(EventIdReused) as refused:
            log.append(again)
        assert refused.value.stream == again.stream
        assert refused.value.event_id in {"a", "b", "c"}
        assert [event.event_id for event in log.read_all()] == ["a", "b"]

    def test_the_payload_that_differs_is_the_one_that_is_named(self, log: EventLog) -> None:
        log.append(batch("s", 0, "a", "b"))
        with pytest.raises(EventIdReused) as refused:
            log.append(Append("s", 0, [new("a", b'{"id":"a"}'), new("b", b"{}")], AT))
        assert refused.value.event_id == "b"

    def test_in_a_group_each_batch_is_recorded_or_refused_alone_and_sees_those_before_it(self, log: EventLog) -> None:
        results = log.append_many(
            [
                batch("s", 0, "a", "b"),
                batch("s", 0, "x"),
                batch("s", 2, "c"),
                batch("t", 0, "d"),
                batch("s", 0, "a", "b"),
                Append("t", 1, [new("a", b"{}")], AT),
                batch("t", 1, "e"),
            ]
        )
        appended, conflict, third, fourth, repeated, reused, last = results
        assert appended == Appended("s", 2, 2)
        assert isinstance(conflict, VersionConflict)
        assert (conflict.expected, conflict.actual) == (0, 2)
        assert (third, fourth) == (Appended("s", 3, 3), Appended("t", 1, 4))
        assert repeated == Appended("s", 2, 2, duplicate=True)
        assert isinstance(reused, EventIdReused)
        assert last == Appended("t", 2, 5)
        assert [event.event_id for event in log.read_all()] == ["a", "b", "c", "d", "e"]

    def test_an_empty_group_is_nothing(self, log: EventLog) -> None:
        assert log.append_many([]) == []

    def test_a_batch_that_cannot_be_stored_refuses_its_whole_group(self, log: EventLog) -> None:
        for unusable in (Append("s", 0, [], AT), Append("s", 0, [new("b", b'{"\xff":1}')], AT)):
            with pytest.raises(ValueError):  # noqa: PT011 - the kind is the contract, not its words
                log.append_many([batch("t", 0, "a"), unusable])
        assert list(log.read_all()) == []

    def test_an_event_that_a_read_model_cannot_read_is_refused_alone(self, log: EventLog) -> None:
        broken = Append("repository:o/r", 0, [new("a", b'{"attempt_id":7}', type_="AttemptStarted")], AT)
        refused, appended = log.append_many([broken, batch("s", 0, "b")])
        assert isinstance(refused, UnknownEventType)
        assert appended == Appended("s", 1, 1)
        assert log.head("repository:o/r") == 0

    def test_reading_goes_on_after_a_position_up_to_a_limit(self, log: EventLog) -> None:
        log.append(batch("s", 0, *(f"s{n}" for n in range(5))))
        log.append(batch("t", 0, *(f"t{n}" for n in range(5))))
        log.append(batch("s", 5, "s5"))
        assert [event.version for event in log.read_stream("s", after=2)] == [3, 4, 5, 6]
        assert [event.version for event in log.read_stream("s", after=2, limit=2)] == [3, 4]
        assert [event.event_id for event in log.read_all(after=4, limit=3)] == ["s4", "t0", "t1"]
        assert list(log.read_all(after=4, limit=0)) == []
        assert list(log.read_stream("s", limit=0)) == []
        assert list(log.read_stream("nobody")) == []
        assert list(log.read_all(after=11)) == []

    def test_a_long_log_is_read_complete_and_in_order(self, log: EventLog) -> None:
        for start in range(0, 2500, 250):
            log.append(batch("s", start, *(f"e{n}" for n in range(start, start + 250))))
        assert [event.version for event in log.read_stream("s")] == list(range(1, 2501))
        assert [event.seq for event in log.read_all()] == list(range(1, 2501))
        assert [event.seq for event in log.read_all(after=7, limit=2100)] == list(range(8, 2108))
        assert [event.version for event in log.read_stream("s", after=7, limit=2100)] == list(range(8, 2108))

    def test_heads_are_listed_by_prefix_and_name(self, log: EventLog) -> None:
        for stream in ("repository:b/b", "sweep:demo", "repository:a/a", "repository", "repository;x", "é"):
            log.append(batch(stream, 0, f"1 {stream}", f"2 {stream}"))
        assert [info.stream for info in log.streams("repository:")] == ["repository:a/a", "repository:b/b"]
        assert [info.stream for info in log.streams()] == [
            "repository",
            "repository:a/a",
            "repository:b/b",
            "repository;x",
            "sweep:demo",
            "é",
        ]
        *_, last = log.read_stream("sweep:demo")
        assert log.streams("sweep:") == [StreamInfo("sweep:demo", 2, last.hash)]
        assert log.streams("nobody") == []
        assert (log.head("sweep:demo"), log.head("nobody")) == (2, 0)

    def test_every_stream_is_a_hash_chain(self, log: EventLog) -> None:
        log.append_many([batch("s", 0, "a", "b"), batch("t", 0, "c"), batch("s", 2, "d")])
        assert list(verify_chain(log.read_all()).values()) == log.streams() == log.verify()

    def test_of_many_writers_with_one_expectation_one_wins(self, log: EventLog) -> None:
        start = threading.Barrier(8)

        def write(name: int) -> str:
            start.wait()
            try:
                log.append(batch("s", 0, f"w{name}"))
            except VersionConflict as conflict:
                return str(conflict)
            return "won"

        with hurried(), ThreadPoolExecutor(8) as pool:
            results = sorted(pool.map(write, range(8)))
        lost = str(VersionConflict(stream="s", expected=0, actual=1))
        assert results == [lost] * 7 + ["won"]
        assert log.head("s") == 1

    def test_sixteen_writers_that_retry_leave_gapless_versions_and_lose_nothing(self, log: EventLog) -> None:
        def write(name: int) -> None:
            for n in range(10):
                while True:
                    try:
                        log.append(batch("s", log.head("s"), f"w{name}-{n}", f"w{name}-{n}+"))
                        break
                    except VersionConflict:
                        continue

        with hurried(), ThreadPoolExecutor(16) as pool:
            for future in [pool.submit(write, name) for name in range(16)]:
                future.result()
        events = list(log.read_stream("s"))
        assert [event.version for event in events] == list(range(1, 321))
        assert {event.event_id for event in events} == {
            f"w{w}-{n}{suffix}" for w in range(16) for n in range(10) for suffix in ("", "+")
        }
        log.verify()

    def test_a_reader_never_sees_part_of_a_batch(self, log: EventLog) -> None:
        def write() -> None:
            for n in range(40):
                log.append(batch("s", n * 100, *(f"{n}-{part}" for part in range(100))))

        with hurried(), ThreadPoolExecutor(1) as pool:
            writer = pool.submit(write)
            seen = 0
            while seen < 4_000 and not (writer.done() and writer.exception()):
                for tail in (log.read_stream("s", after=seen), log.read_all(after=seen)):
                    seen += sum(1 for _ in tail)
                    assert seen % 100 == 0, "a batch was there in part"
            writer.result()

    def test_what_was_read_cannot_be_changed_and_changes_nothing(self, log: EventLog) -> None:
        log.append(batch("s", 0, "a", "b"))
        for event in log.read_stream("s"):
            with pytest.raises(AttributeError, match="immutable"):
                event.data = b"{}"  # type: ignore[misc]
        with pytest.raises(AttributeError, match="immutable"):
            log.streams()[0].version = 7  # type: ignore[misc]
        log.verify()

    def test_a_tailing_reader_sees_every_event_once_and_in_order(self, log: EventLog) -> None:
        self.check_tail(log, log)

    def check_tail(self, writer: EventLog, reader: EventLog) -> None:
        """Reads ``reader`` to its end again and again while threads append to ``writer``."""

        def write(name: int) -> None:
            for n in range(40):
                writer.append(batch(f"stream-{name}", n * 3, *(f"{name}-{n}-{part}" for part in range(3))))

        seen: list[int] = []
        with ThreadPoolExecutor(4) as pool:
            writers = [pool.submit(write, name) for name in range(4)]
            while len(seen) < 480:
                if all(writer.done() for writer in writers):
                    for future in writers:
                        future.result()
                    seen += [event.seq for event in reader.read_all(after=seen[-1] if seen else 0)]
                    break
                seen += [event.seq for event in reader.read_all(after=seen[-1] if seen else 0)]
        assert seen == list(range(1, 481))


class TestMemoryLog(LogContract):
    @pytest.fixture
    def log(self) -> EventLog:
        return MemoryLog(log_id="memory")

    @pytest.mark.parametrize(
        "change",
        [
            lambda event: msgspec.structs.replace(event, data=event.data.replace(b"b", b"c")),
            lambda event: msgspec.structs.replace(event, recorded_at=event.recorded_at + 0.000001),
            lambda event: msgspec.structs.replace(event, event_id="x"),
            lambda event: msgspec.structs.replace(event, type="Other"),
            lambda event: msgspec.structs.replace(event, schema=2),
            lambda event: msgspec.structs.replace(event, hash="0" * 64),
            lambda event: msgspec.structs.replace(event, event_id=event.event_id + event.type[:1], type=event.type[1:]),
        ],
        ids=["data", "time", "id", "type", "schema", "hash", "boundary"],
    )
    def test_whatever_is_changed_later_is_found_and_named(
        self, log: EventLog, change: Callable[[msgspec.Struct], object]
    ) -> None:
        log.append_many([batch("s", 0, "a", "b", "c"), batch("t", 0, "d")])
        events = list(log.read_all())
        changed = change(events[1])
        with pytest.raises(LogCorrupt, match="stream s version 2 "):
            verify_chain([events[0], changed, *events[2:]])  # type: ignore[list-item]

    def test_a_missing_event_is_found_and_named(self, log: EventLog) -> None:
        log.append(batch("s", 0, "a", "b", "c"))
        first, _, third = log.read_all()
        with pytest.raises(LogCorrupt, match="stream s version 3 is damaged: version 2 is missing"):
            verify_chain([first, third])
