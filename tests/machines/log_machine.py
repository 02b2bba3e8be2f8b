"""The log contract as a state machine: whatever is done to a log, it answers what the model answers.

Rules append (fresh, stale, ahead, repeated, reused, in groups), let several writers and readers take turns under a
seeded scheduler, take snapshots (whole ones and useless ones), prune, tail and open again. After every rule: versions
1..head without gaps, the hash chains, what every tailing reader saw, and the states folded from snapshot and tail,
which are those folded from all events that were ever acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import assume, note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from loguru import logger

from events import codec
from events.errors import HeadraceError, VersionConflict
from events.replay import StreamFold, replay
from events.streams import first_difference
from events.types import Event, GovernorClaimed, PullRequestsAdmitted, RepositoryClaimed
from store.log import Append, Appended, EventLog, NewEvent, Refused, snapshot_digest
from store.pruning import prune
from store.replay import check
from store.snapshots import load, save_snapshot
from tests.events.worlds import RULES, admission, policy
from tests.machines.log_model import LogModel, Written, written
from tests.machines.scheduler import Clock, interleave

__all__ = ["LogMachine"]

STREAMS = ("governor", "repository:o/a", "repository:o/b")
USELESS = ("flipped", "cut short", "of another shape", "of another history", "of another version")

streams = st.sampled_from(STREAMS)
offsets = st.sampled_from([0, 0, 0, 0, -1, 1, -99])
sizes = st.integers(1, 4)


def event_of(stream: str, number: int) -> Event:
    """An event that this stream's machine allows at any time."""
    if stream == "governor":
        return GovernorClaimed(incarnation=f"g{number}")
    if number % 2:
        return RepositoryClaimed(incarnation=f"r{number}", sweep=f"s{number % 3}")
    rows = [admission(1 + number % 7, inputs=f"inputs-{number}")]
    return PullRequestsAdmitted(sweep=f"s{number % 3}", rules=RULES, policy=policy(), pull_requests=rows)


class Tail:
    """A reader that goes on from the last position that it saw; it may look at another connection than the writer's."""

    def __init__(self) -> None:
        self.seen: list[Written] = []

    @property
    def after(self) -> int:
        return self.seen[-1].seq if self.seen else 0


class LogMachine(RuleBasedStateMachine):
    """See the module; each backend gives ``opened`` and, if readers have a connection of their own, ``reader``."""

    log: EventLog

    def __init__(self) -> None:
        super().__init__()
        logger.disable("store")
        self.clock, self.model = Clock(), LogModel()
        self.tails = [Tail(), Tail()]
        self.useless: dict[str, str] = {}
        self._numbers = iter(range(10**6))

    def teardown(self) -> None:
        logger.enable("store")

    def reader(self) -> EventLog:
        """The log as somebody reads it who does not write."""
        return self.log

    # ------------------------------------------------------------ appending

    def fresh(self, stream: str, size: int, offset: int = 0) -> Append:
        """A batch of new events that expects ``offset`` more than the head, but no less than no stream."""
        events = []
        for _ in range(size):
            number = next(self._numbers)
            event = event_of(stream, number)
            events.append(NewEvent(f"e{number}", type(event).__name__, codec.schema_of(event), codec.encode(event)))
        self.clock.now += 0.25
        return Append(stream, max(0, self.model.head(stream) + offset), events, self.clock())

    def write(self, *batches: Append) -> list[Appended | Refused]:
        """Appends, and compares every answer with the model's."""
        heads = {batch.stream: self.model.head(batch.stream) for batch in batches}
        expected = [self.model.take(batch) for batch in batches]
        found = self.log.append_many(batches)
        for batch, one, answer in zip(batches, expected, found, strict=True):
            if isinstance(one, Appended):
                assert answer == one
            else:
                assert type(answer) is one, f"{answer!r} instead of {one}"
            if isinstance(answer, VersionConflict):
                assert (answer.stream, answer.expected) == (batch.stream, batch.expected_version)
                assert heads[batch.stream] <= answer.actual <= self.model.head(batch.stream)
        return found

    @rule(stream=streams, size=sizes, offset=offsets)
    def append(self, stream: str, size: int, offset: int) -> None:
        self.write(self.fresh(stream, size, offset))

    @rule(given=st.lists(st.tuples(streams, sizes), min_size=2, max_size=4))
    def append_group(self, given: list[tuple[str, int]]) -> None:
        ahead: dict[str, int] = {}
        batches = []
        for stream, size in given:
            batches.append(self.fresh(stream, size, ahead.get(stream, 0)))
            ahead[stream] = ahead.get(stream, 0) + size
        self.write(*batches, self.fresh(given[0][0], 1, -1))

    @precondition(lambda self: self.model.batches)
    @rule(which=st.randoms(use_true_random=False), offset=offsets)
    def repeat(self, which: Any, offset: int) -> None:
        batch = which.choice(self.model.batches)
        expected = max(0, batch.expected_version + offset)
        self.write(msgspec.structs.replace(batch, expected_version=expected, at=self.clock()))

    @precondition(lambda self: self.model.batches)
    @rule(
        which=st.randoms(use_true_random=False),
        how=st.sampled_from(["payload", "type", "schema", "stream", "order", "part", "more", "twice"]),
        at_head=st.booleans(),
    )
    def reuse(self, which: Any, how: str, at_head: bool) -> None:
        batch: Append = which.choice(self.model.batches)
        events = list(batch.events)
        replace = msgspec.structs.replace
        stream = batch.stream
        match how:
            case "payload":
                events[-1] = replace(events[-1], data=codec.encode(event_of(stream, 999)), type=events[-1].type)
            case "type":
                events[0] = replace(events[0], type="Other")
            case "schema":
                events[0] = replace(events[0], schema=77)
            case "stream":
                stream = next(one for one in STREAMS if one != batch.stream)
            case "order":
                events.reverse()
            case "part":
                events = events[:-1] or events
            case "more":
                events += self.fresh(stream, 1).events
            case _:
                events.append(events[0])
        remembered = {one.event_id for one in self.model.left_of_all()}
        assume(all(event.event_id in remembered for event in batch.events))
        expected = self.model.head(stream) if at_head else batch.expected_version
        self.write(Append(stream, expected, events, self.clock()))

    # ------------------------------------------------------------ taking turns

    @rule(seed=st.integers(0, 2**16), writers=st.integers(2, 4), batches=st.integers(1, 3), stream=streams)
    def take_turns(self, seed: int, writers: int, batches: int, stream: str) -> None:
        wanted = self.model.head(stream) + writers * batches * 2
        programs = [self._writer(stream, batches) for _ in range(writers)]
        interleave([*programs, *(self._follow(tail) for tail in self.tails)], seed=seed, clock=self.clock)
        assert self.model.head(stream) == wanted, "every writer got all of its batches in"

    def _writer(self, stream: str, batches: int) -> Iterator[None]:
        """Appends under the head that it read a while ago, reads again when it was too slow, and repeats itself as one
        does whose answer was lost."""
        for _ in range(batches):
            batch = self.fresh(stream, 2)
            while True:
                batch = msgspec.structs.replace(batch, expected_version=self.log.head(stream))
                yield
                (answer,) = self.write(batch)
                yield
                if isinstance(answer, Appended):
                    break
            (again,) = self.write(batch)
            assert again == msgspec.structs.replace(answer, duplicate=True)
            yield

    def _follow(self, tail: Tail) -> Iterator[None]:
        for _ in range(4):
            for event in self.reader().read_all(after=tail.after):
                tail.seen.append(written(event))
                yield
            yield

    @rule(which=st.integers(0, 1), limit=st.one_of(st.none(), st.integers(0, 5)))
    def follow(self, which: int, limit: int | None) -> None:
        tail = self.tails[which]
        missing = self.model.left_of_all(after=tail.after)
        found = [written(event) for event in self.reader().read_all(after=tail.after, limit=limit)]
        assert found == missing[:limit]
        tail.seen += found

    @rule(stream=streams, after=st.integers(0, 12), limit=st.one_of(st.none(), st.integers(0, 5)))
    def read_stream(self, stream: str, after: int, limit: int | None) -> None:
        left = [one for one in self.model.left(stream) if one.version > after]
        assert [written(event) for event in self.reader().read_stream(stream, after=after, limit=limit)] == left[:limit]

    # ------------------------------------------------------------ snapshots and pruning

    def lived(self, stream: str, version: int) -> StreamFold:
        """What the stream's actor had at ``version``, whatever was pruned since."""
        fold = StreamFold(stream)
        fold.take_all(self.model.stored(stream)[:version])
        return fold

    def that_is(self, stream: str) -> str:
        """This stream, or another one that has events."""
        return stream if stream in self.model.streams else next(iter(self.model.streams))

    @precondition(lambda self: self.model.order)
    @rule(stream=streams, back=st.integers(0, 3))
    def take_snapshot(self, stream: str, back: int) -> None:
        stream = self.that_is(stream)
        version = max(1, self.model.head(stream) - back)
        fold = self.lived(stream, version)
        machine = fold.machine
        if version <= self.model.pruned.get(stream, 0):
            with pytest.raises(ValueError, match=f"stream {stream} has no version {version}"):
                save_snapshot(self.log, stream, version=version, shape=machine.shape, state=machine.pack(fold.state))
            covering = self.log.snapshot(stream)
            assert covering is not None
            with pytest.raises(ValueError, match=f"stream {stream} is pruned beyond version {version}"):
                self.log.put_snapshot(msgspec.structs.replace(covering, version=version))
            return
        save_snapshot(self.log, stream, version=version, shape=machine.shape, state=machine.pack(fold.state))
        self.useless.pop(stream, None)

    @precondition(lambda self: self.model.order)
    @rule(stream=streams, how=st.sampled_from(USELESS))
    def spoil_snapshot(self, stream: str, how: str) -> None:
        stream = self.that_is(stream)
        if self.log.snapshot(stream) is None or stream in self.useless:
            self.take_snapshot(stream, 0)
        snapshot = self.log.snapshot(stream)
        assert snapshot is not None
        replace = msgspec.structs.replace
        said = self.lived(stream, snapshot.version).state.incarnation.encode() or b"incarnation"
        flipped = snapshot.state.replace(said, said[:-1] + bytes([said[-1] ^ 1]))
        match how:
            case "flipped":
                spoilt = replace(snapshot, state=flipped)
            case "cut short":
                spoilt = replace(snapshot, state=snapshot.state[:-9])
            case "of another shape":
                spoilt = replace(snapshot, shape="0" * 16)
            case "of another history":
                spoilt = replace(snapshot, hash="f" * 64)
            case _:
                state = self.lived(stream, snapshot.version - 1)
                spoilt = replace(snapshot, state=state.machine.pack(state.state))
        if how != "flipped":
            spoilt = replace(spoilt, digest=snapshot_digest(spoilt))
        self.log.put_snapshot(spoilt)
        self.useless[stream] = how

    @precondition(lambda self: self.model.order)
    @rule(stream=streams, fresh=st.booleans())
    def prune(self, stream: str, fresh: bool) -> None:
        stream = self.that_is(stream)
        if fresh:
            self.take_snapshot(stream, 1)
        snapshot = self.log.snapshot(stream)
        pruned = self.model.pruned.get(stream, 0)
        useful = snapshot is not None and stream not in self.useless
        removed = prune(self.log, stream)
        assert removed == (snapshot.version - 1 - pruned if useful and snapshot else 0)
        if removed:
            assert snapshot is not None
            self.model.pruned[stream] = snapshot.version - 1

    @precondition(lambda self: not self.useless and self.model.order)
    @rule()
    def check_all(self) -> None:
        past = check(self.log)
        assert past.events == len(self.model.left_of_all())
        for stream, state in past.states.items():
            assert first_difference(state, self.lived(stream, self.model.head(stream)).state) is None

    # ------------------------------------------------------------ what always holds

    @invariant()
    def the_log_holds_what_was_acknowledged_and_nothing_else(self) -> None:
        if not hasattr(self, "log"):
            return
        assert [written(event) for event in self.log.read_all()] == self.model.left_of_all()
        heads = {info.stream: info.version for info in self.log.verify()}
        assert heads == {stream: self.model.head(stream) for stream in self.model.streams}
        for stream in STREAMS:
            assert self.log.head(stream) == self.model.head(stream)
            versions = [event.version for event in self.log.read_stream(stream)]
            assert versions == list(range(self.model.pruned.get(stream, 0) + 1, self.model.head(stream) + 1))

    @invariant()
    def a_tailing_reader_saw_every_event_once_and_in_order(self) -> None:
        for tail in self.tails:
            seqs = [one.seq for one in tail.seen]
            assert seqs == sorted(set(seqs))
            assert tail.seen == [self.model.order[seq - 1] for seq in seqs]
            skipped = {one.seq for one in self.model.order[: tail.after]} - set(seqs)
            gone = {one.seq for one in self.model.order} - {one.seq for one in self.model.left_of_all()}
            assert skipped <= gone, "what a reader did not see was pruned before it came by"

    @invariant()
    def snapshot_and_tail_fold_to_what_all_events_fold_to(self) -> None:
        for stream in self.model.streams:
            whole = replay(stream, self.model.stored(stream))
            if stream in self.useless and self.model.pruned.get(stream):
                note(f"{stream}: its snapshot is {self.useless[stream]}, what it covered is pruned")
                with pytest.raises(HeadraceError, match=f"{stream} .*pruned"):
                    load(self.log, stream)
            else:
                assert first_difference(load(self.log, stream).state, whole) is None
