"""Parts of a verification side by side: the verdict is the one that they have one after another."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import cast

import pytest

from actors.images import BuiltImage, Engine
from actors.settings import VerifySettings
from actors.verifier.lanes import EitherEvent, side_by_side
from actors.verifier.session import Means, Session
from actors.verifier.trial import Refused, Trial
from events.errors import InfraError
from events.work import TestCounts

DEADLINE_S = 30.0


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """A session that runs no container."""
    return Session(
        Trial(without=frozenset()),
        engine=cast(Engine, None),
        settings=VerifySettings(),
        means=Means(),
        image=cast(BuiltImage, None),
        folder="/",
        labels={},
        bytecode={},
        spool=tmp_path,
        cancel=threading.Event(),
    )


def until(event: threading.Event) -> None:
    """Waits for another part, within a deadline."""
    assert event.wait(DEADLINE_S)


def test_parts_run_at_once_and_their_checks_are_in_the_order_of_the_parts(session: Session) -> None:
    second_is_done = threading.Event()

    def first(branch: Session) -> int:
        until(second_is_done)
        branch.trial.note("first", "")
        branch.trial.test_s = 1.5
        branch.trial.peak_memory_bytes = 10
        return 1

    def second(branch: Session) -> int:
        branch.trial.note("second", "")
        branch.trial.counts = TestCounts(passed=3)
        branch.trial.peak_memory_bytes = 20
        branch.trial.files["log"] = Path("log")
        second_is_done.set()
        return 2

    assert side_by_side(session, [first, second]) == [1, 2]
    trial = session.trial
    assert [one.name for one in trial.checks] == ["first", "second"]
    assert (trial.test_s, trial.counts, trial.peak_memory_bytes) == (1.5, TestCounts(passed=3), 20)
    assert trial.files == {"log": Path("log")}


def test_the_first_part_that_is_refused_has_the_say_whoever_was_quicker(session: Session) -> None:
    second_is_done = threading.Event()

    def first(branch: Session) -> None:
        until(second_is_done)
        branch.trial.stage = "smoke"
        branch.trial.refuse("first", "the first one's reason")

    def second(branch: Session) -> None:
        branch.trial.stage = "tests"
        try:
            branch.trial.refuse("second", "the second one's reason")
        finally:
            second_is_done.set()

    with pytest.raises(Refused, match="the first one's reason"):
        side_by_side(session, [first, second])
    assert session.trial.stage == "smoke"
    assert [one.name for one in session.trial.checks] == ["first"]


def test_a_later_part_is_refused_when_those_before_it_are_not(session: Session) -> None:
    def first(branch: Session) -> None:
        branch.trial.note("first", "")

    def second(branch: Session) -> None:
        branch.trial.stage = "tests"
        branch.trial.refuse("second", "its reason")

    with pytest.raises(Refused, match="its reason"):
        side_by_side(session, [first, second])
    assert [(one.name, one.ok) for one in session.trial.checks] == [("first", True), ("second", False)]
    assert session.trial.stage == "tests"


@pytest.mark.parametrize("error", [InfraError("the engine is away"), OSError("disk"), ZeroDivisionError()])
def test_a_part_that_ends_badly_ends_those_after_it(session: Session, error: Exception) -> None:
    seen = threading.Event()

    def first(branch: Session) -> None:
        raise error

    def second(branch: Session) -> None:
        until(branch.cancel)
        seen.set()

    with pytest.raises(type(error)):
        side_by_side(session, [first, second])
    assert seen.is_set()


def test_what_cancels_the_session_cancels_each_part(session: Session) -> None:
    started = threading.Barrier(2)

    def part(branch: Session) -> bool:
        if started.wait(DEADLINE_S) == 0:
            session.cancel.set()
        deadline = threading.Event()
        timer = threading.Timer(DEADLINE_S, deadline.set)
        timer.start()
        while not branch.cancel.is_set() and not deadline.is_set():
            branch.cancel.wait(0.01)
        timer.cancel()
        return not deadline.is_set()

    assert side_by_side(session, [part, part]) == [True, True]


def test_an_event_that_is_either_of_two() -> None:
    outer = threading.Event()
    event = EitherEvent(outer)
    assert not event.is_set()
    assert not event.wait(0.0)
    event.set()
    assert event.is_set()
    assert not outer.is_set()
    other = EitherEvent(outer)
    outer.set()
    assert other.is_set()
    assert other.wait(DEADLINE_S)
