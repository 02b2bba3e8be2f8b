"""Sweeps in processes of their own, ways to kill parts of them, and what must hold of their logs afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from actors.admission import rows_to_bytes
from actors.agent_settings import AgentSettings
from actors.settings import CascadeSettings, Settings, SweepSettings
from events import codec
from events.decide import LOST
from events.repository import fold
from events.repository_state import RepositoryState
from events.types import (
    AttemptFailed,
    AttemptInterrupted,
    AttemptRateLimited,
    AttemptStarted,
    AttemptSucceeded,
    ContextRevoked,
    Event,
    OutcomeReported,
)
from events.work import PullRequest
from store.log import verify_chain
from store.opening import open_store
from tests.pull_requests import pull_request
from tests.scripted import Script, journal, scripted

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 180.0
ACTORS = ("RepositoryHost", "AgentRunner", "RateLimitGovernor", "LogWriter", "SweepSupervisor")
"""The kinds of actors, as Ray titles their processes."""

ENDS = (AttemptSucceeded, AttemptFailed, AttemptRateLimited, AttemptInterrupted)


def rows(repositories: int, pull_requests: int) -> list[PullRequest]:
    return [
        pull_request(repository, number) for repository in range(repositories) for number in range(1, pull_requests + 1)
    ]


def wait_for(what: str, condition: Callable[[], bool], *, deadline_s: float = DEADLINE_S) -> None:
    """Waits until ``condition`` holds; fails, naming ``what``, when it does not in time."""
    ends = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < ends, f"waited {deadline_s:.0f} s in vain until {what}"
        time.sleep(0.05)


def read_events(url: str) -> list[tuple[str, Event]]:
    """Every event of a log with its stream, after the hash chains were checked."""
    with open_store(url, write=False) as store:
        recorded = list(store.log.read_all())
    verify_chain(recorded)
    return [(one.stream, codec.decode(one.type, one.schema, one.data)) for one in recorded]


def fold_repositories(events: list[tuple[str, Event]]) -> list[RepositoryState]:
    """The states of all repositories of a log."""
    streams: dict[str, list[Event]] = {}
    for stream, event in events:
        if stream.startswith("repository:"):
            streams.setdefault(stream.removeprefix("repository:"), []).append(event)
    return [fold(name, given) for name, given in streams.items()]  # type: ignore[arg-type]


def check_events(events: list[tuple[str, Event]]) -> None:
    """What holds of every log whose sweep is over: one end an attempt, nothing repeated that has an outcome."""
    started = [one for _, one in events if isinstance(one, AttemptStarted)]
    ends = Counter(one.attempt_id for _, one in events if isinstance(one, ENDS))
    assert ends == Counter(one.attempt_id for one in started), "every attempt has one start and one end"
    interrupted = {
        one.attempt_id
        for _, one in events
        if isinstance(one, AttemptInterrupted) and not one.reason.startswith(LOST)  # a race ends with its first verdict
    }
    reported = {one.attempt_id for _, one in events if isinstance(one, OutcomeReported) and not one.outcome.cancelled}
    assert not interrupted & reported, "what has an outcome counts and is not repeated"
    verified: set[tuple[str, int]] = set()
    for stream, event in events:
        if isinstance(event, AttemptStarted):
            assert (stream, event.issue_number) not in verified, "a verified pull request is not worked on again"
        if isinstance(event, AttemptSucceeded):
            verified.add((stream, event.issue_number))
        if isinstance(event, ContextRevoked):
            verified.difference_update((stream, number) for number in event.issue_numbers)


class Sweep:
    """One sweep in a folder, run by as many processes after one another as a test likes."""

    def __init__(
        self,
        folder: Path,
        *,
        pull_requests: list[PullRequest],
        script: Script,
        sweep: SweepSettings | None = None,
        agents: AgentSettings | None = None,
    ) -> None:
        self.folder = folder
        self.store = f"sqlite:///{folder}/log.db"
        (folder / "rows.jsonl").write_bytes(rows_to_bytes(pull_requests))
        settings = Settings(
            sweep=sweep or SweepSettings(workers=2, drain_s=0.5),
            cascade=CascadeSettings(rl_pause_jitter_s=0.0),
            agents=agents or AgentSettings(),
        )
        (folder / "settings.json").write_bytes(msgspec.json.encode(settings))
        scripted(folder, script)
        self.process: subprocess.Popen[str] | None = None

    def start(
        self, *, die_at: str = "", address: str | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        """Starts the sweep, on the Ray cluster at ``address`` if one is named.

        Its processes die at the fault points ``die_at`` (``POINT:OCCURRENCE``, with commas).
        """
        self.fired = self.folder / "fired"
        self.fired.mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.actors.drive", str(self.folder), *([address] if address else [])],
            cwd=ROOT,
            env={
                **os.environ,
                **(environment or {}),
                "HEADRACE_TEST_STORE": self.store,
                "HEADRACE_FAULT": die_at,
                "HEADRACE_FAULT_FIRED": str(self.fired),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self) -> int:
        """Waits for the process; its exit code."""
        assert self.process is not None
        try:
            output, _ = self.process.communicate(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill_everything()
            raise
        if self.process.returncode not in (0, 130):
            print(output)
        return self.process.returncode

    def began(self) -> int:
        """How many orders the workbenches began so far."""
        return sum(one.what == "began" for one in journal(self.folder))

    def ended(self) -> int:
        """How many orders the workbenches ended so far."""
        return sum(one.what == "ended" for one in journal(self.folder))

    def kill(self, title: str) -> int:
        """SIGKILLs one Ray process of this sweep whose title begins with ``title``; its process id."""
        assert self.process is not None
        victims = [pid for pid, name in descendants(self.process.pid) if name.startswith(title)]
        assert victims, f"no process {title} among {list(descendants(self.process.pid))}"
        os.kill(victims[0], signal.SIGKILL)
        return victims[0]

    def kill_everything(self) -> None:
        """SIGKILLs the driver and every process below it."""
        assert self.process is not None
        pids = [pid for pid, _ in descendants(self.process.pid)]
        for pid in (self.process.pid, *pids):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.communicate()
        wait_for("all processes are gone", lambda: not any(Path(f"/proc/{pid}/stat").exists() for pid in pids))

    def interrupt(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)

    def events(self) -> list[tuple[str, Event]]:
        """Every event with its stream."""
        return read_events(self.store)

    def repositories(self) -> list[RepositoryState]:
        """Every repository as the log has it."""
        return fold_repositories(self.events())

    def check(self) -> None:
        """What holds of every log of a sweep that is over, whatever was killed on the way."""
        check_events(self.events())
        began = Counter(one.attempt_id for one in journal(self.folder) if one.what == "began")
        assert not [one for one, times in began.items() if times > 1], "no order is performed twice"


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """Processes below ``pid`` with their titles, from /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    todo = [*children.get(pid, [])]
    while todo:
        one = todo.pop()
        todo += children.get(one, [])
        try:
            title = (Path("/proc") / str(one) / "cmdline").read_bytes().decode(errors="replace").strip("\0 ")
        except OSError:
            continue
        yield one, title
