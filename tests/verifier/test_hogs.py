"""Commands that misbehave, on the real engine: each ends as what it is, within its limits, and harms nothing else."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.images import BuiltImage
from tests.engine_fixtures import TestBench
from tests.verifier.commands import MIB, Commands

pytestmark = pytest.mark.engine

HOST_GROWTH_BYTES = 96 * MIB
"""How much this process may grow: nothing that a container does is held in its memory."""


@pytest.fixture
def run(bench: TestBench, sample: BuiltImage, tmp_path: Path) -> Iterator[Commands]:
    """Runs commands; afterwards the engine answers, no container or volume is left and this process has not grown."""
    labels = {"headrace.log": bench.log_id, "headrace.tier": "test"}
    volumes = {volume["Name"] for volume in bench.engine.api.volumes()["Volumes"] or []}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    yield Commands(bench.engine, image=sample.image_id, labels=labels, folder=tmp_path)
    assert bench.engine.answers()
    assert bench.engine.containers({"headrace.log": bench.log_id}) == []
    assert {volume["Name"] for volume in bench.engine.api.volumes()["Volumes"] or []} <= volumes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < HOST_GROWTH_BYTES


def test_a_fork_bomb_runs_out_of_processes_and_time(run: Commands) -> None:
    began = time.monotonic()
    ended = run("bomb() { bomb | bomb & }; bomb; sleep 600", wall_s=4)
    assert (ended.timed_out, ended.pids_exhausted, ended.exit_code) == (True, True, None)
    assert time.monotonic() - began < 30


def test_threads_without_end_are_processes_without_end(run: Commands) -> None:
    code = """
import threading, time
try:
    while True:
        threading.Thread(target=time.sleep, args=(99,), daemon=True).start()
except RuntimeError:
    time.sleep(1)
    raise
"""
    ended = run.python(code)
    assert ended.pids_exhausted
    assert ended.exit_code == 1
    assert "can't start new thread" in run.output


def test_a_command_within_its_processes_is_not_accused(run: Commands) -> None:
    ended = run("for n in $(seq 40); do sleep 0.5 & done; wait")
    assert (ended.exit_code, ended.pids_exhausted, ended.disk_full, ended.oom_killed) == (0, False, False, False)


def test_a_memory_hog_is_told_by_the_kernel(run: Commands) -> None:
    ended = run.python("held = []\nwhile True:\n    held.append(bytearray(1 << 20))")
    assert (ended.oom_killed, ended.timed_out, ended.disk_full) == (True, False, False)
    assert ended.peak_memory_bytes == 256 * MIB


def test_shared_memory_is_memory_and_bounded(run: Commands) -> None:
    ended = run("head -c 1G /dev/zero >/dev/shm/big", memory_bytes=1024 * MIB)
    assert (ended.exit_code, ended.disk_full) == (1, False)
    assert "No space left on device" in run.output


@pytest.mark.parametrize("folder", ["/tmp", "/workspace/repo"])
def test_one_big_file_fills_the_containers_disk(run: Commands, folder: str) -> None:
    ended = run("cat /dev/zero >big; sleep 600", folder=folder, disk_bytes=64 * MIB)
    assert (ended.disk_full, ended.timed_out, ended.exit_code) == (True, False, None)


def test_big_files_in_the_place_of_results_count(run: Commands) -> None:
    ended = run("cat /dev/zero >/headrace/results/report; sleep 600", disk_bytes=64 * MIB)
    assert (ended.disk_full, ended.exit_code) == (True, None)
    assert run.report.stat().st_size <= 64 * MIB


def test_many_small_files_fill_the_containers_disk(run: Commands) -> None:
    code = "import itertools\nfor n in itertools.count():\n    open(f'/workspace/{n}', 'w').close()"
    ended = run.python(code, disk_bytes=32 * MIB)
    assert (ended.disk_full, ended.timed_out, ended.exit_code) == (True, False, None)


def test_files_without_a_name_fill_the_containers_disk(run: Commands) -> None:
    code = """
import tempfile, time
held = []
for _ in range(8):
    held.append(tempfile.TemporaryFile())
    for _ in range(16):
        held[-1].write(bytes(1 << 20))
    held[-1].flush()
time.sleep(600)
"""
    ended = run.python(code, disk_bytes=64 * MIB)
    assert (ended.disk_full, ended.timed_out, ended.exit_code) == (True, False, None)


def test_a_disk_filled_at_the_last_moment_is_seen(run: Commands) -> None:
    ended = run("cat /dev/zero >/tmp/big", disk_bytes=64 * MIB)
    assert ended.disk_full


def test_an_endless_command_ends_at_its_limit(run: Commands) -> None:
    ended = run("while :; do :; done", wall_s=2)
    assert (ended.timed_out, ended.exit_code) == (True, None)
    assert 2 <= ended.wall_s < 10


def test_ignored_signals_do_not_help(run: Commands) -> None:
    code = """
import signal, time
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
time.sleep(600)
"""
    ended = run.python(code, wall_s=2)
    assert ended.timed_out
    assert ended.wall_s < 10


def test_a_child_kills_its_parent_and_not_process_1(run: Commands) -> None:
    code = """
import os, signal, time
if os.fork() == 0:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV):
        os.kill(1, number)
    time.sleep(0.5)
    print(open("/proc/1/stat").read().split()[1], flush=True)
    os.kill(os.getppid(), signal.SIGKILL)
time.sleep(600)
"""
    ended = run.python(code)
    assert ended.exit_code == 192 + 9
    assert run.output == "(python)\n"


def test_a_gigabyte_of_output_is_read_and_dropped(run: Commands) -> None:
    ended = run("head --bytes=1G /dev/zero | tr '\\0' x; exit 3", wall_s=120, max_log_bytes=1000)
    assert ended.exit_code == 3
    assert run.log.stat().st_size < 1100


def test_open_files_and_sockets_without_end_meet_the_limit(run: Commands) -> None:
    for make in ("open('/dev/null')", "socket.socket()"):
        ended = run.python(f"import socket\nheld = []\nwhile True:\n    held.append({make})")
        assert ended.exit_code == 1
        assert "Too many open files" in run.output


def test_daemons_end_with_their_command(run: Commands, bench: TestBench) -> None:
    code = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 100)
        while True:
            time.sleep(1)
    os._exit(0)
os.wait()
"""
    began = time.monotonic()
    assert run.python(code).exit_code == 0
    assert time.monotonic() - began < 15
