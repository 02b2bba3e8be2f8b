"""Named fault points: the places in the actors at which a process may die and everything must still come right.

Each constant is used exactly once in the code, by ``hit(POINT)`` at its place. A hit does nothing unless a plan is
installed: by a test in this process (:func:`installed`), or through the environment for real processes::

    HEADRACE_FAULT=runner.before_report:2,governor.granted:1
    HEADRACE_FAULT_FIRED=FOLDER

Each process that reaches a point for the given time (counted from 1) ends there as by SIGKILL. A point fires once for
all processes together: it leaves an empty file of its name in FOLDER first, and the one that finds it there goes on.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from events.errors import SettingError

__all__ = ["POINTS", "Plan", "hit", "installed", "plan_of"]

STREAM_BEFORE_APPEND: Final = "stream.before_append"
STREAM_AFTER_APPEND: Final = "stream.after_append"
WRITER_BEFORE_COMMIT: Final = "writer.before_commit"
WRITER_AFTER_COMMIT: Final = "writer.after_commit"
RUNNER_BEFORE_WORK: Final = "runner.before_work"
RUNNER_BEFORE_REPORT: Final = "runner.before_report"
RUNNER_AFTER_REPORT: Final = "runner.after_report"
REPOSITORY_CLAIMED: Final = "repository.claimed"
REPOSITORY_LEASED: Final = "repository.leased"
REPOSITORY_LEASED_AGENT: Final = "repository.leased_agent"
REPOSITORY_BEFORE_ACTING: Final = "repository.before_acting"
REPOSITORY_BEFORE_TELLING: Final = "repository.before_telling"
REPOSITORY_BEFORE_RELEASE: Final = "repository.before_release"
REPOSITORY_AFTER_RELEASE: Final = "repository.after_release"
REPOSITORY_BEFORE_INTERRUPT: Final = "repository.before_interrupt"
GOVERNOR_CLAIMED: Final = "governor.claimed"
GOVERNOR_BEFORE_TURN: Final = "governor.before_turn"
GOVERNOR_BEFORE_COUNTING: Final = "governor.before_counting"
GOVERNOR_COUNTED: Final = "governor.counted"
GOVERNOR_GRANTED: Final = "governor.granted"
SUPERVISOR_RUN_STARTED: Final = "supervisor.run_started"
SUPERVISOR_ACTIVATED: Final = "supervisor.activated"
SUPERVISOR_RETIRED: Final = "supervisor.retired"
GATHER_PREPARED: Final = "gather.prepared"

POINTS: Final[frozenset[str]] = frozenset(
    value for name, value in list(globals().items()) if name.isupper() and isinstance(value, str)
)
"""All of them."""

Plan = Callable[[str], None]
"""Called with each point that is reached; may not return."""

FAULT, FIRED = "HEADRACE_FAULT", "HEADRACE_FAULT_FIRED"


def hit(point: str) -> None:
    """Marks that execution has reached ``point``; the plan, if there is one, may end the process here."""
    if _plan is not None:
        _plan(point)


@contextmanager
def installed(plan: Plan) -> Iterator[None]:
    """``plan`` in force in this process."""
    global _plan  # noqa: PLW0603 - what is installed is a state of the whole process
    before, _plan = _plan, plan
    try:
        yield
    finally:
        _plan = before


def plan_of(environ: Mapping[str, str]) -> Plan | None:
    """The plan that environment variables ask for; ``None`` without any.

    Raises:
        SettingError: a point that does not exist, an occurrence that is no positive integer, or no folder.
    """
    text = environ.get(FAULT, "")
    if not text:
        return None
    wanted: dict[str, int] = {}
    for one in text.split(","):
        point, _, occurrence = one.partition(":")
        if point not in POINTS or not occurrence.isdecimal() or int(occurrence) < 1:
            raise SettingError(name=FAULT, value=one, expected=f"POINT:OCCURRENCE with a POINT of {sorted(POINTS)}")
        wanted[point] = int(occurrence)
    folder = environ.get(FIRED, "")
    if not folder:
        raise SettingError(name=FIRED, value=folder, expected="a folder for the points that have fired")
    return _Once(wanted, Path(folder))


class _Once:
    """Ends this process when a point is reached for the wanted time and has fired in no process yet."""

    def __init__(self, wanted: Mapping[str, int], folder: Path) -> None:
        self._wanted, self._folder = wanted, folder
        self._seen: Counter[str] = Counter()

    def __call__(self, point: str) -> None:
        self._seen[point] += 1
        if self._wanted.get(point, 0) != self._seen[point]:
            return
        try:
            (self._folder / point).touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


_plan: Plan | None = plan_of(os.environ)
