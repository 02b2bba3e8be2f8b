"""The process wrapper, with real processes: nothing outlives a session, nothing else gets in or out."""

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

import pytest

from actors.agents.leftovers import SESSION_VARIABLE, end_marked
from actors.agents.process import EndReason, ProcessEnd, Pulse, run_agent

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 3)
        open(sys.argv[2], "w").write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
os.wait()
"""
"""Forks twice into a session of its own. Its mark is an argument, so that it can be found."""


class Bench:
    """Runs commands in a folder and finds the processes that they leave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.transcript = folder / "transcript"
        self.mark = f"mark-{uuid.uuid4().hex}"
        (folder / "daemon.py").write_text(DAEMON, encoding="utf-8")

    @property
    def daemon(self) -> str:
        """Shell words that start a daemon and wait until it runs."""
        python, script, pid = sys.executable, self.folder / "daemon.py", self.folder / "daemon.pid"
        return f"{python} {script} {self.mark} {pid}; until test -s {pid}; do sleep 0.01; done"

    def run(
        self,
        script: str,
        *,
        prompt: bytes = b"",
        wall_s: float = 60.0,
        idle_s: float = 60.0,
        tool_idle_s: float | None = None,
        on_line: Callable[[str, str], Pulse] = lambda _stream, _line: Pulse.PROGRESS,
        on_tick: Callable[[], Pulse] | None = None,
        cancel: threading.Event | None = None,
        max_transcript_bytes: int = 1 << 20,
        secrets: tuple[str, ...] = (),
        session: str | None = None,
        grace_s: float = 0.5,
        environment: dict[str, str] | None = None,
    ) -> ProcessEnd:
        """Runs a script of bash; ``$0`` is the mark."""
        return run_agent(
            ["bash", "-c", script, self.mark],
            cwd=self.folder,
            environment=environment or ENVIRONMENT,
            prompt=prompt,
            wall_s=wall_s,
            idle_s=idle_s,
            tool_idle_s=tool_idle_s,
            on_line=on_line,
            on_tick=on_tick,
            transcript=self.transcript,
            max_transcript_bytes=max_transcript_bytes,
            cancel=cancel or threading.Event(),
            secrets=secrets,
            session=session,
            grace_s=grace_s,
        )

    def left(self) -> list[str]:
        """Command lines of living processes that carry the mark."""
        found = []
        for folder in Path("/proc").iterdir():
            try:
                words = (folder / "cmdline").read_bytes() if folder.name.isdigit() else b""
            except OSError:
                continue
            if self.mark.encode() in words:
                found.append(words.decode())
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    assert made.left() == []


def until(condition: Callable[[], bool], *, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def test_output_exit_code_and_prompt_arrive_whole(bench: Bench) -> None:
    lines: list[tuple[str, str]] = []
    prompt = b"x" * 500_000 + b"\nthe end\n"

    def on_line(stream: str, line: str) -> Pulse:
        lines.append((stream, line))
        return Pulse.PROGRESS

    end = bench.run("wc -c; echo problem >&2; printf 'no line end'; exit 7", prompt=prompt, on_line=on_line)
    assert (end.reason, end.exit_code, end.killed, end.left_behind) == (EndReason.EXITED, 7, 0, 0)
    assert sorted(lines) == [("err", "problem"), ("out", str(len(prompt))), ("out", "no line end")]
    assert end.stdout_bytes == len(f"{len(prompt)}\nno line end")


def test_the_agent_sees_its_environment_and_three_descriptors_and_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_RUNNER", "1")
    seen: list[str] = []

    def on_line(_stream: str, line: str) -> Pulse:
        seen.append(line)
        return Pulse.PROGRESS

    inherited = os.open(bench.folder, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    end = bench.run("tr '\\0' '\\n' </proc/$$/environ; ls /proc/$$/fd; :", on_line=on_line, session="a-session")
    os.close(inherited)
    assert end.exit_code == 0
    assert sorted(seen) == ["0", "1", "2", f"{SESSION_VARIABLE}=a-session", "PATH=/usr/bin:/bin"]


def test_children_in_sessions_of_their_own_and_daemons_end_with_the_agent(bench: Bench) -> None:
    end = bench.run(f"setsid bash -c 'sleep 600; :' $0 & {bench.daemon}; exit 0")
    assert (end.reason, end.exit_code) == (EndReason.EXITED, 0)
    assert end.killed >= 2
    assert end.left_behind == 0


def test_daemons_without_the_sessions_mark_in_their_environment_end_too(bench: Bench) -> None:
    end = bench.run(f"exec env -i PATH=/usr/bin:/bin bash -c '{bench.daemon}'")
    assert (end.exit_code, end.killed) == (0, 1)


def test_a_process_that_forks_without_end_is_ended(bench: Bench) -> None:
    script = "f() { while :; do (setsid sleep 600 &) ; done; }; f & f & until test $(pgrep -c sleep) -gt 20; do :; done"
    end = bench.run(script)
    assert end.left_behind == 0
    assert end.killed > 20


def test_an_agent_that_ignores_the_request_to_end_is_killed(bench: Bench) -> None:
    began = time.monotonic()
    end = bench.run("trap '' TERM INT; (trap '' TERM; setsid sleep 600) & while :; do sleep 0.1; done", idle_s=0.3)
    assert (end.reason, end.exit_code) == (EndReason.IDLE, -signal.SIGKILL)
    assert time.monotonic() - began < 10


def test_an_agent_may_say_something_when_it_is_asked_to_end(bench: Bench) -> None:
    end = bench.run(
        "trap 'echo goodbye; exit 5' TERM; echo ready; while :; do sleep 0.05; done", wall_s=0.5, grace_s=10
    )
    assert (end.reason, end.exit_code) == (EndReason.WALL, 5)
    assert "goodbye" in bench.transcript.read_text(encoding="utf-8")


def test_no_output_ends_a_session_at_the_idle_limit(bench: Bench) -> None:
    end = bench.run("sleep 600", idle_s=0.5)
    assert end.reason is EndReason.IDLE
    assert 0.5 <= end.duration_s < 10
    assert end.stdout_bytes == 0


def test_output_that_is_no_progress_does_not_keep_a_session_alive(bench: Bench) -> None:
    end = bench.run("while :; do echo retrying; sleep 0.05; done", idle_s=0.6, on_line=lambda *_: Pulse.NOTHING)
    assert end.reason is EndReason.IDLE
    assert end.stdout_bytes > 0


def test_output_that_is_progress_keeps_it_alive_until_the_wall_clock(bench: Bench) -> None:
    end = bench.run("while :; do echo step; sleep 0.05; done", idle_s=0.8, wall_s=2.0)
    assert end.reason is EndReason.WALL
    assert end.duration_s >= 2.0


def test_a_running_tool_may_be_silent_for_longer(bench: Bench) -> None:
    end = bench.run("echo tool; sleep 1.2", idle_s=0.4, tool_idle_s=30.0, on_line=lambda *_: Pulse.TOOL)
    assert (end.reason, end.exit_code) == (EndReason.EXITED, 0)


def test_a_line_may_end_the_session_and_so_may_the_passing_of_time(bench: Bench) -> None:
    by_line = bench.run("echo limit; sleep 600", on_line=lambda *_: Pulse.STOP)
    by_time = bench.run("sleep 600", on_tick=lambda: Pulse.STOP)
    assert (by_line.reason, by_time.reason) == (EndReason.STOPPED, EndReason.STOPPED)


def test_cancelling_ends_the_session(bench: Bench) -> None:
    cancel = threading.Event()

    def on_line(_stream: str, _line: str) -> Pulse:
        cancel.set()
        return Pulse.PROGRESS

    assert (
        bench.run(f"{bench.daemon}; echo ready; sleep 600", cancel=cancel, on_line=on_line).reason
        is EndReason.CANCELLED
    )


def test_an_error_of_the_caller_ends_the_session_and_comes_back(bench: Bench) -> None:
    def on_line(_stream: str, _line: str) -> Pulse:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        bench.run(f"{bench.daemon}; echo ready; sleep 600", on_line=on_line)


def test_a_program_or_folder_that_is_not_there_is_no_exception(bench: Bench, tmp_path: Path) -> None:
    for command, cwd in ((["/no/such/program"], tmp_path), (["true"], tmp_path / "missing")):
        end = run_agent(
            command,
            cwd=cwd,
            environment=ENVIRONMENT,
            prompt=b"",
            wall_s=9,
            idle_s=9,
            on_line=lambda *_: Pulse.PROGRESS,
            transcript=bench.transcript,
            max_transcript_bytes=1000,
            cancel=threading.Event(),
        )
        assert end.reason is EndReason.NOT_STARTED
        assert command[0] in end.message
        assert "No such file" in end.message


@pytest.mark.slow
@pytest.mark.parametrize("source", ["yes 'a line of output of a session that does not stop'", "tr '\\0' a </dev/zero"])
def test_a_flood_of_output_is_read_to_its_end_within_bounds(bench: Bench, source: str) -> None:
    size = 200_000_000
    before = _peak_kib()
    end = bench.run(f"{source} | head -c {size}; printf '\\nTHE END\\n'", max_transcript_bytes=1_000_000, wall_s=120)
    assert (end.reason, end.stdout_bytes) == (EndReason.EXITED, size + len("\nTHE END\n"))
    stored = bench.transcript.read_bytes()
    assert len(stored) == end.transcript_bytes <= 1_000_000
    assert b"THE END" in stored[-100:]
    assert end.left_out_bytes > size - 1_000_000
    assert _peak_kib() - before < 100_000


def test_secrets_are_not_in_the_transcript(bench: Bench) -> None:
    secret = 'hunter2/+"quoted"'  # noqa: S105
    script = "printf '%s\\n' \"$SECRET\"; echo sk-ant-api03-abcdefghijklmnopqrstuvwx >&2; echo plain"
    end = bench.run(script, secrets=(secret,), environment={**ENVIRONMENT, "SECRET": secret})
    text = bench.transcript.read_text(encoding="utf-8")
    assert end.exit_code == 0
    assert "hunter2" not in text
    assert "abcdefghijkl" not in text
    assert text.count("[redacted]") == 2
    assert "plain" in text


def test_an_agent_that_kills_its_supervisor_gains_nothing(bench: Bench) -> None:
    end = bench.run(f"{bench.daemon}; (setsid sleep 600 &); kill -9 $PPID; sleep 600")
    assert end.reason is EndReason.LOST
    assert end.exit_code is None
    assert end.killed >= 1
    until(lambda: bench.left() == [])


RUNNER = """
import json, sys, threading
from pathlib import Path
from actors.agents.process import Pulse, run_agent

def work():
    folder = Path(sys.argv[1])
    run_agent(["bash", "-c", sys.argv[2], sys.argv[3]], cwd=folder, environment={"PATH": "/usr/bin:/bin"}, prompt=b"",
        wall_s=60, idle_s=60, on_line=lambda *_: Pulse.PROGRESS, transcript=folder / "transcript",
        max_transcript_bytes=10000, cancel=threading.Event(), session=sys.argv[3])

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.parametrize("orphan", ["with the session's mark", "with an empty environment"])
def test_sigkill_of_the_runner_leaves_no_orphan(bench: Bench, orphan: str) -> None:
    clean = "" if "mark" in orphan else "env -i PATH=/usr/bin:/bin "
    script = (
        f"{clean}bash -c '{bench.daemon}'; setsid bash -c 'sleep 600; :' $0 & trap '' TERM; touch ready; sleep 600; :"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(bench.folder), script, bench.mark],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    until((bench.folder / "ready").exists)
    assert len(bench.left()) >= 3
    runner.kill()
    runner.wait()
    until(lambda: bench.left() == [], within_s=10)


def test_a_session_whose_runner_and_supervisor_were_both_killed_is_found_by_its_name(bench: Bench) -> None:
    script = f"{bench.daemon}; echo $PPID > supervisor; mv supervisor ready; sleep 600; :"
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(bench.folder), script, bench.mark],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    ready = bench.folder / "ready"
    until(ready.exists)
    os.kill(runner.pid, signal.SIGSTOP)
    os.kill(int(ready.read_text(encoding="utf-8")), signal.SIGKILL)
    runner.kill()
    runner.wait()
    assert end_marked("another-session") == 0
    until(lambda: len(bench.left()) == 1)  # the daemon; the agent itself was killed by the kernel
    assert end_marked(bench.mark) >= 1


def test_sessions_in_many_threads_do_not_hinder_each_other(tmp_path: Path) -> None:
    ends: dict[int, ProcessEnd] = {}

    def work(number: int) -> None:
        folder = tmp_path / str(number)
        folder.mkdir()
        ends[number] = Bench(folder).run(f"sleep 0.2; exit {number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: end.exit_code for number, end in ends.items()} == {number: number for number in range(12)}


def test_an_agent_that_ends_at_once_is_noticed_at_once_and_leaks_no_descriptor(bench: Bench) -> None:
    bench.run("exit 9")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(30):
        end = bench.run("exit 9")
        assert (end.reason, end.exit_code) == (EndReason.EXITED, 9)
        assert end.duration_s < 5
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def _peak_kib() -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    raise AssertionError("/proc/self/status has no VmHWM")
