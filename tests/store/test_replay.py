"""Replay: states at any moment, damage named by stream and version, divergence, and no input but the log."""

from __future__ import annotations

import random
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from events import codec, governor, repository, sweep
from events.errors import InputError, LogCorrupt, ReplayDivergence, UnknownEventType
from events.governor import GovernorState
from events.replay import replay
from events.repository_state import RepositoryState
from events.streams import State, digest_of, first_difference, machine_of
from events.sweep import SweepState
from scripts.cli import main
from scripts.replay import moment_of
from store.log import Append, EventLog, NewEvent, chain_hashes
from store.memory import MemoryLog
from store.opening import open_store
from store.replay import Moment, check, states_at
from tests.events.history import REPOSITORY, START, STEP_S, history, record
from tests.store.backends import BACKENDS, opened


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/log.db"


@pytest.fixture(params=BACKENDS)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventLog]:
    with opened(request, tmp_path / "log.db") as store:
        record(store.log)
        yield store.log


def lived() -> dict[str, list[bytes]]:
    """Each stream's states as its actor had them live, packed: after no event, after one, …"""
    states: dict[str, Any] = {}
    packed: dict[str, list[bytes]] = {}
    for stream, event in history():
        found = machine_of(stream)
        assert found is not None
        machine, name = found
        if stream not in states:
            states[stream] = machine.initial(name)
            packed[stream] = [machine.pack(states[stream])]
        machine.evolve(states[stream], event)
        packed[stream].append(machine.pack(states[stream]))
    return packed


def unpacked(stream: str, data: bytes) -> State:
    found = machine_of(stream)
    assert found is not None
    state: State = found[0].unpack(data)
    return state


def assert_lived(states: dict[str, State]) -> None:
    live = lived()
    for stream, state in states.items():
        assert first_difference(unpacked(stream, live[stream][state.version]), state) is None, stream


def test_the_history_holds_every_event_type() -> None:
    assert {type(event).__name__ for _, event in history()} == set(codec.EVENT_TYPES)


def test_the_state_at_every_seq_is_the_one_that_was_live_then(log: EventLog) -> None:
    for seq in range(1, len(history()) + 1):
        past = states_at(log, Moment(seq=seq))
        assert (past.seq, past.events) == (seq, seq)
        assert {name: state.version for name, state in past.states.items()} == {
            stream: [one for one, _ in history()[:seq]].count(stream) for stream in past.states
        }
        assert_lived(past.states)


def test_the_state_at_a_time_holds_what_was_recorded_until_then(log: EventLog) -> None:
    assert states_at(log, Moment(at=START + 20 * STEP_S)).seq == 20
    assert states_at(log, Moment(at=START + 20 * STEP_S - 0.001)).seq == 19
    assert_lived(states_at(log, Moment(at=START + 20 * STEP_S)).states)


def test_a_clock_that_steps_back_leaves_no_hole_in_a_stream(log: EventLog) -> None:
    head = log.head("governor")
    late = NewEvent("late", "GovernorClaimed", 1, b'{"incarnation":"g2"}')
    later = NewEvent("later", "GovernorClaimed", 1, b'{"incarnation":"g3"}')
    log.append(Append("governor", head, [late], START + 10_000_000))
    log.append(Append("governor", head + 1, [later], START))
    state = states_at(log, Moment(at=START + 9_000_000), stream="governor").states["governor"]
    assert isinstance(state, GovernorState)
    assert (state.version, state.incarnation) == (head, "g1")


def test_before_the_first_event_and_in_an_unknown_stream_there_is_nothing(log: EventLog) -> None:
    with pytest.raises(InputError, match="the log holds no event as early as that"):
        states_at(log, Moment(at=START))
    with pytest.raises(InputError, match="stream governorr holds no event"):
        check(log, stream="governorr")


def test_a_whole_log_passes_the_check(log: EventLog) -> None:
    assert check(log).events == len(history())
    assert set(check(log, stream=REPOSITORY).states) == {REPOSITORY}


def test_an_event_of_a_newer_version_is_named_with_its_place(log: EventLog) -> None:
    head = log.head(REPOSITORY)
    log.append(Append(REPOSITORY, head, [NewEvent("new", "ContextPraised", 1, b"{}")], START))
    with pytest.raises(UnknownEventType, match=rf"stream {REPOSITORY} version {head + 1}: .*'ContextPraised'"):
        check(log)


def test_an_event_that_does_not_fit_its_type_is_named_with_its_place(log: EventLog) -> None:
    head = log.head("governor")
    log.append(Append("governor", head, [NewEvent("odd", "GovernorClaimed", 1, b'{"incarnation":7}')], START))
    with pytest.raises(UnknownEventType, match=rf"stream governor version {head + 1}: .*Expected `str`"):
        check(log)


def test_a_stream_that_no_machine_folds_is_refused(log: EventLog) -> None:
    log.append(Append("weather", 0, [NewEvent("w", "GovernorClaimed", 1, b'{"incarnation":"g2"}')], START))
    with pytest.raises(UnknownEventType, match="weather"):
        check(log)


@pytest.mark.parametrize(
    ("stream", "event", "field"),
    [
        (REPOSITORY, b'AttemptInterrupted {"attempt_id":"a1","issue_number":1,"reason":"again"}', "attempt a1"),
        (REPOSITORY, b'PullRequestReopened {"issue_number":99,"sweep":"demo","reason":"?"}', "pull request o/r#99"),
        ("sweep:demo", b'RepositoryRetired {"repository":"o/r","succeeded":1,"failed":0,"unreached":0}', "sweep demo"),
        ("governor", b'LeasesReleased {"lease_ids":["lease-a1"]}', "governor lease lease-a1"),
        ("attempt:a1", b'OutcomeReported {"attempt_id":"a1","outcome":%s}', "mailbox attempt a1"),
        ("governor", b'RepositoryActivated {"repository":"o/r"}', "governor"),
    ],
)
def test_an_event_that_its_machine_does_not_allow_is_a_divergence(
    log: EventLog, stream: str, event: bytes, field: str
) -> None:
    type_, _, data = event.partition(b" ")
    data = data.replace(b"%s", b'{"verified":true,"level":"tests","stage":"tests"}')
    head = log.head(stream)
    log.append(Append(stream, head, [NewEvent("bad", type_.decode(), 1, data)], START))
    with pytest.raises(ReplayDivergence) as found:
        check(log)
    assert (found.value.stream, found.value.version) == (stream, head + 1)
    assert found.value.field.startswith(field)


def stored(stream: str) -> list[tuple[int, str, int, bytes]]:
    mine = [event for one, event in history() if one == stream]
    return [
        (version, type(event).__name__, codec.schema_of(event), codec.encode(event))
        for version, event in enumerate(mine, start=1)
    ]


def test_a_missing_version_is_a_divergence_and_the_state_stays_before_it() -> None:
    given = stored(REPOSITORY)
    with pytest.raises(ReplayDivergence) as found:
        replay(REPOSITORY, [*given[:5], *given[6:]])
    assert (found.value.version, found.value.field) == (7, "version")


def test_every_flipped_byte_of_an_event_makes_the_command_name_stream_and_version(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_store(url, write=True) as store:
        record(store.log)
        victims = [event for event in store.log.read_all() if event.version > 1][::7]
    assert main(["replay", "--store", url, "--check"]) == 0
    assert len(victims) >= 4
    for victim in victims:
        with sqlite3.connect(tmp_path / "log.db") as connection:
            connection.execute("DROP TRIGGER events_are_not_updated")
            damaged = bytearray(victim.data)
            damaged[len(damaged) // 2] ^= 1
            update = "UPDATE events SET data = CAST(? AS TEXT) WHERE seq = ?"
            connection.execute(update, (bytes(damaged), victim.seq))
            connection.execute(
                "CREATE TRIGGER events_are_not_updated BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
        capsys.readouterr()
        assert main(["replay", "--store", url, "--check"]) == 1
        assert f"stream {victim.stream} version {victim.version} is damaged" in capsys.readouterr().err
        assert main(["replay", "--store", url, "--check", "--stream", victim.stream]) == 1
        with sqlite3.connect(tmp_path / "log.db") as connection:
            connection.execute("DROP TRIGGER events_are_not_updated")
            connection.execute("UPDATE events SET data = CAST(? AS TEXT) WHERE seq = ?", (victim.data, victim.seq))
            connection.execute(
                "CREATE TRIGGER events_are_not_updated BEFORE UPDATE ON events BEGIN SELECT RAISE(ABORT, 'no'); END"
            )


def test_the_command_shows_counts_leases_and_phases_at_a_moment(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with open_store(url, write=True) as store:
        record(store.log)
        mid = next(event for event in store.log.read_all() if event.event_id == "e18")
    assert main(["replay", "--store", url, "--at", str(mid.seq), "--json"]) == 0
    view = msgspec.json.decode(capsys.readouterr().out)
    assert view["repositories"]["o/r"]["pull_requests"] == {
        "succeeded": 1,
        "try_similar": 1,
        "try_default": 1,
        "queued": 2,
        "unreached": 1,
    }
    assert [(one["account"], one["slot"]) for one in view["leases"]] == [("docker", 0), ("docker", 1)]
    assert view["sweeps"]["demo"]["repositories"] == {"active": 1}
    at = datetime.fromtimestamp(mid.recorded_at).astimezone().isoformat()
    assert main(["replay", "--store", url, "--at", at, "--json"]) == 0
    assert msgspec.json.decode(capsys.readouterr().out) == view
    assert main(["replay", "--store", url]) == 0
    assert "run 1 interrupted; repositories: 1 retired" in capsys.readouterr().out


def test_what_names_no_moment_is_wrong_usage(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", "--store", url, "--at", "yesterday"]) == 2
    assert "neither a seq (1 or more) nor an ISO 8601 time" in capsys.readouterr().err
    assert moment_of("2026-01-01T00:00:00") == moment_of("2026-01-01T01:00:00+01:00") == Moment(at=1767225600.0)


class NoClock(datetime):
    @classmethod
    def now(cls, tz: object = None) -> NoClock:
        raise AssertionError("replay read the clock")

    utcnow = now


def refused(*_: object, **__: object) -> None:
    raise AssertionError("replay read the clock or randomness")


_guarded = False


def _audit(event: str, _: object) -> None:
    if _guarded and event.split(".", maxsplit=1)[0] in {"open", "socket", "subprocess", "os", "sqlite3", "shutil"}:
        raise AssertionError(f"replay did I/O: {event}")


def test_replay_does_no_io_and_reads_neither_clock_nor_randomness(monkeypatch: pytest.MonkeyPatch) -> None:
    global _guarded  # noqa: PLW0603 - an audit hook cannot be removed, only told to be silent
    sys.addaudithook(_audit)
    given = {stream: stored(stream) for stream in dict.fromkeys(stream for stream, _ in history())}
    expected = {stream: digest_of(replay(stream, events)) for stream, events in given.items()}
    functions: list[tuple[object, str]] = [(time, name) for name in ("time", "monotonic", "perf_counter", "time_ns")]
    functions += [(random, name) for name in ("random", "randrange", "choice")]
    for owner, name in functions:
        monkeypatch.setattr(owner, name, refused)
    core = [
        module for name, module in sys.modules.items() if name.startswith("events.") and hasattr(module, "datetime")
    ]
    assert core, "no module of the core reads times any more: this guard guards nothing"
    for module in core:
        monkeypatch.setattr(module, "datetime", NoClock)
    monkeypatch.setattr("os.urandom", refused)
    _guarded = True
    try:
        with pytest.raises(AssertionError, match="did I/O"):
            open(__file__)  # noqa: PTH123, SIM115 - the guard itself guards
        with pytest.raises(AssertionError, match="did I/O"):
            socket.socket()
        found = {stream: digest_of(replay(stream, events)) for stream, events in given.items()}
    finally:
        _guarded = False
    assert found == expected


MACHINES: list[tuple[str, Callable[[str], Any], Any]] = [
    (REPOSITORY, lambda name: RepositoryState(repository="o/r"), repository.evolve),
    ("sweep:demo", lambda name: SweepState(sweep="demo"), sweep.evolve),
    ("governor", lambda name: GovernorState(), governor.evolve),
]


@pytest.mark.parametrize(("stream", "initial", "evolve"), MACHINES, ids=["repository", "sweep", "governor"])
def test_replay_gives_what_the_machine_gives_by_itself(stream: str, initial: Any, evolve: Any) -> None:
    state = initial(stream)
    for one, event in history():
        if one == stream:
            evolve(state, event)
    assert first_difference(state, replay(stream, stored(stream))) is None


def test_a_rewritten_chain_with_a_wrong_event_is_still_a_divergence() -> None:
    """Somebody who recomputes all hashes is found by the transitions, as far as they tell."""
    log = MemoryLog(log_id="x")
    new = [NewEvent("1", "LeasesReleased", 1, b'{"lease_ids":["none"]}')]
    log.append(Append("governor", 0, new, START))
    (hash_,) = chain_hashes("governor", new, version=0, previous="0" * 64, recorded_us=round(START * 1e6))
    assert [event.hash for event in log.read_all()] == [hash_]
    with pytest.raises(ReplayDivergence):
        check(log)


def test_damage_in_memory_is_named_like_any_other() -> None:
    log = MemoryLog(log_id="x")
    record(log)
    victim = log._events[8]
    log._events[8] = msgspec.structs.replace(victim, data=victim.data.replace(b"demo", b"dem0"))
    with pytest.raises(LogCorrupt, match=f"stream {victim.stream} version {victim.version}"):
        check(log)
