"""One command in one container: how it ends, what it leaves, and that it ends without its client too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from actors.images import BuiltImage, Engine
from actors.verifier.container import Ended, Limits, run_in_container
from events.errors import InfraError
from tests.engine_fixtures import TestBench

pytestmark = pytest.mark.engine

LIMITS = Limits(wall_s=30, memory_bytes=256 * 1024 * 1024, cpus=1.0, pids=64)
Run = Callable[..., Ended]


@pytest.fixture
def labels(bench: TestBench) -> dict[str, str]:
    return {"headrace.log": bench.log_id, "headrace.tier": "test", "headrace.attempt": "a"}


@pytest.fixture
def run(engine: Engine, sample: BuiltImage, tmp_path: Path, labels: dict[str, str]) -> Run:
    """Runs a shell command in the sample's image; its output is in ``out.log``."""

    def made(command: str, *, folder: str = "/", wall_s: float = 30, max_log_bytes: int = 1 << 20) -> Ended:
        return run_in_container(
            engine,
            image=sample.image_id,
            command=["/bin/bash", "-c", command],
            folder=folder,
            limits=msgspec.structs.replace(LIMITS, wall_s=wall_s),
            labels=labels,
            results={"/headrace/results/report": tmp_path / "report"},
            log=tmp_path / "out.log",
            cancel=threading.Event(),
            max_log_bytes=max_log_bytes,
        )

    return made


def test_output_result_and_exit_code_come_out(run: Run, tmp_path: Path) -> None:
    ended = run("echo to stdout; echo to stderr >&2; echo 42 > /headrace/results/report; exit 7")
    assert ended.exit_code == 7
    assert sorted((tmp_path / "out.log").read_text().splitlines()) == ["to stderr", "to stdout"]
    assert (tmp_path / "report").read_text() == "42\n"


def test_a_result_of_an_earlier_command_is_not_there_for_the_next(run: Run, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("baked before")
    run("cat /headrace/results/report")
    assert (tmp_path / "out.log").read_text() == ""


def test_a_signal_is_told_from_an_exit_code(run: Run) -> None:
    assert run("kill -SEGV $$").exit_code == 192 + signal.SIGSEGV


def test_a_command_that_cannot_start_says_why(run: Run, tmp_path: Path) -> None:
    assert run("true", folder="/not/there").exit_code == 127
    assert "/bin/bash cannot be started in /not/there" in (tmp_path / "out.log").read_text()


def test_output_beyond_the_cap_is_cut_with_a_note(run: Run, tmp_path: Path) -> None:
    ended = run("yes | head --bytes=20000000; exit 3", max_log_bytes=1000)
    assert ended.exit_code == 3
    assert (tmp_path / "out.log").read_bytes() == b"y\n" * 500 + b"\nheadrace: output cut after 1000 bytes\n"


def test_what_a_command_leaves_running_ends_with_it(run: Run) -> None:
    began = time.monotonic()
    assert run("sleep 600 & setsid sleep 600 & exit 0").exit_code == 0
    assert time.monotonic() - began < 10


def test_a_log_that_cannot_be_written_is_an_infra_failure_and_leaves_no_container(
    run: Run, tmp_path: Path, bench: TestBench
) -> None:
    (tmp_path / "out.log").symlink_to("/dev/full")
    with pytest.raises(InfraError, match=r"cannot write out\.log"):
        run("yes | head --bytes=100000")
    assert bench.engine.containers({"headrace.log": bench.log_id}) == []


CLIENT = """
import sys, threading
from pathlib import Path
from actors.images import Engine
from actors.verifier.container import Limits, run_in_container

folder = Path(sys.argv[1])
run_in_container(
    Engine(), image=sys.argv[2], command=["/bin/bash", "-c", "echo begun; sleep 600"], folder="/",
    limits=Limits(wall_s=1.0, memory_bytes=1 << 28, cpus=1.0, pids=64),
    labels={"headrace.log": sys.argv[3], "headrace.tier": "test"},
    results={}, log=folder / "out.log", cancel=threading.Event(),
)
"""


def test_a_container_whose_client_was_killed_still_ends_at_its_deadline(
    bench: TestBench, sample: BuiltImage, tmp_path: Path
) -> None:
    log = tmp_path / "out.log"
    with subprocess.Popen([sys.executable, "-c", CLIENT, str(tmp_path), sample.image_id, bench.log_id]) as client:
        while not (log.exists() and b"begun" in log.read_bytes()):
            assert client.poll() is None
            threading.Event().wait(0.02)
        os.kill(client.pid, signal.SIGKILL)
    (left,) = bench.engine.containers({"headrace.log": bench.log_id})
    assert left["State"] == "running"
    assert bench.engine.api.wait(left["Id"], timeout=20)["StatusCode"] == 124
