"""A runner that is killed in mid-session leaves no process and no container, and what the session said is salvaged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from actors.agent_settings import AgentAccount, AgentSettings
from actors.generation.attempt import session_name
from actors.generation.cage import end_group
from actors.settings import BuildSettings, Settings, SweepSettings, VerifySettings
from actors.workbench import DockerWorkbench
from events.work import Stage, WorkOrder
from store.blobs import FileBlobs
from tests.engine_fixtures import TestBench
from tests.generation.scripted import KEY, write_agent
from tests.verifier.images import order_for

pytestmark = pytest.mark.engine

RUNNER = """
import sys, threading
import msgspec
from actors.settings import Settings
from actors.workbench import DockerWorkbench
from events.work import WorkOrder
from store.blobs import FileBlobs

settings = msgspec.json.decode(sys.argv[1], type=Settings)
order = msgspec.json.decode(sys.argv[2], type=WorkOrder)
DockerWorkbench(settings=settings, blobs=FileBlobs(sys.argv[3])).perform(order, cancel=threading.Event())
"""

DAEMONS = """
(setsid bash -c 'exec -a {mark} sleep 300' >/dev/null 2>&1 </dev/null &)
(setsid env -i /bin/bash -c 'exec -a {mark} /bin/sleep 300' >/dev/null 2>&1 </dev/null &)
"""


class Killed:
    """A runner in a process of its own, whose agent runs a script."""

    def __init__(self, bench: TestBench, cache: Path, *, build: BuildSettings, folder: Path, sandbox: str) -> None:
        self.mark = f"left-{uuid.uuid4().hex[:12]}"
        self.blobs = FileBlobs(folder / "blobs")
        account = AgentAccount(name="claude", agent="claude", env={"ANTHROPIC_API_KEY": "TEST_AGENT_KEY"})
        self.settings = Settings(
            sweep=SweepSettings(cache_dir=str(cache)),
            build=build,
            verify=VerifySettings(memory_mb=512),
            agents=msgspec.convert({"account": [account], "sandbox": sandbox}, AgentSettings, from_attributes=True),
        )
        self.order: WorkOrder = msgspec.structs.replace(
            order_for(bench, cache), stage=Stage.LLM_GENERATE, agent="claude", account="claude"
        )
        self.bench = DockerWorkbench(settings=self.settings, blobs=self.blobs)
        self.spool = cache / "spool" / self.order.attempt_id
        self._programs = folder / "programs"
        self._runner: subprocess.Popen[bytes] | None = None

    def start(self, script: str) -> int:
        """Starts the runner; returns its process id."""
        write_agent(self._programs, script.replace("{mark}", self.mark))
        arguments = [msgspec.json.encode(one).decode() for one in (self.settings, self.order)]
        self._runner = subprocess.Popen(
            [sys.executable, "-c", RUNNER, *arguments, str(self.blobs.root)],
            env={**os.environ, "PATH": f"{self._programs}:{os.environ['PATH']}", "TEST_AGENT_KEY": KEY},
        )
        return self._runner.pid

    def kill(self) -> None:
        """Kills the runner as the kernel would."""
        assert self._runner is not None
        self._runner.kill()
        self._runner.wait()

    @property
    def left(self) -> list[int]:
        """The processes with the mark."""
        found = subprocess.run(["pgrep", "-f", self.mark], check=False, capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]


def until(condition: Callable[[], bool], *, what: str, timeout_s: float = 60) -> None:
    ends_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_at, f"never: {what}"
        threading.Event().wait(0.05)


@pytest.fixture(params=["required", "off"])
def killed(
    request: pytest.FixtureRequest, bench: TestBench, bench_cache: Path, build_settings: BuildSettings, tmp_path: Path
) -> Iterator[Killed]:
    made = Killed(bench, bench_cache, build=build_settings, folder=tmp_path, sandbox=request.param)
    yield made
    end_group(session_name(made.order))
    for pid in made.left:
        os.kill(pid, signal.SIGKILL)


def test_a_runner_killed_while_its_agent_works_leaves_no_process_and_its_transcript_is_salvaged(
    killed: Killed,
) -> None:
    killed.start(DAEMONS + "exec -a {mark} sleep 300")
    until(lambda: len(killed.left) >= 3, what="the agent and its daemons run")
    killed.kill()
    until(lambda: not killed.left, what="all of them are gone", timeout_s=10)
    killed.bench.end(killed.order.attempt_id)
    salvaged = killed.bench.salvage(killed.order.attempt_id)
    assert {"transcript", "session_log"} <= set(salvaged)
    assert b"session-1" in killed.blobs.get(salvaged["transcript"])
    assert not killed.spool.exists()
    assert killed.bench.salvage(killed.order.attempt_id) == {}


def test_when_runner_and_supervisor_are_killed_at_once_ending_the_attempt_ends_what_is_left(killed: Killed) -> None:
    runner = killed.start(DAEMONS + "exec -a {mark} sleep 300")
    until(lambda: len(killed.left) >= 3, what="the agent and its daemons run")
    children = subprocess.run(["pgrep", "-P", str(runner)], check=True, capture_output=True, text=True).stdout.split()
    for pid in (*map(int, children), runner):
        os.kill(pid, signal.SIGKILL)
    killed.kill()
    killed.bench.end(killed.order.attempt_id)
    until(lambda: not killed.left, what="all of them are gone", timeout_s=10)
    assert "transcript" in killed.bench.salvage(killed.order.attempt_id)


def test_a_runner_killed_while_it_verifies_leaves_no_container_and_no_process(killed: Killed, bench: TestBench) -> None:
    script = "echo 'echo has begun $$; sleep 300' > docker_build_pkg.sh; ./verify; exec -a {mark} sleep 300"
    killed.start(DAEMONS + script)
    log = killed.spool / "verify_1" / "build.log"
    until(lambda: log.exists() and b"has begun " in log.read_bytes(), what="the build runs", timeout_s=120)
    killed.kill()
    killed.bench.end(killed.order.attempt_id)
    until(lambda: not killed.left, what="no process", timeout_s=10)
    assert bench.engine.containers({"headrace.log": killed.order.log_id}) == []
    salvaged = killed.bench.salvage(killed.order.attempt_id)
    assert {"transcript", "session_log", "verify_1_log"} <= set(salvaged)
    assert b"has begun" in killed.blobs.get(salvaged["verify_1_log"])


def test_a_new_run_of_the_sweep_ends_the_sessions_of_the_one_before(killed: Killed) -> None:
    runner = killed.start(DAEMONS + "exec -a {mark} sleep 300")
    until(lambda: len(killed.left) >= 3, what="the agent and its daemons run")
    children = subprocess.run(["pgrep", "-P", str(runner)], check=True, capture_output=True, text=True).stdout.split()
    for pid in (*map(int, children), runner):
        os.kill(pid, signal.SIGKILL)
    killed.kill()
    killed.bench.reap(log_id=killed.order.log_id, keep=frozenset())
    until(lambda: not killed.left, what="all of them are gone", timeout_s=10)
