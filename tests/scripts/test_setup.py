"""``scripts/setup.sh`` and the engine functions of ``scripts/lib.sh``: who starts a daemon stops it, and only that one.

The daemons of these tests have folders, sockets and a network namespace of their own, so that they leave the machine's
bridge to the engine that the other tests use.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "cat", "dirname", "flock", "grep", "mkdir", "python3", "sed", "sha256sum", "tr")


class Machine:
    """Runs shell text after ``lib.sh``, with a daemon folder that no other run uses and no engine elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = os.environ | {
            "HEADRACE_DOCKER_DIR": str(folder / "d"),
            "DOCKER_HOST": f"unix://{folder}/nobody.sock",
        }

    def start(self, text: str) -> subprocess.Popen[str]:
        """A shell that reads ``go`` lines from its standard input wherever ``text`` says ``read``."""
        prelude = (
            f"set -euo pipefail; source {ROOT}/scripts/lib.sh; STATE_DIR={self.folder}; ENV_FILE={self.folder}/env"
        )
        return subprocess.Popen(
            ["unshare", "--net", "bash", "-c", f"{prelude}\n{text}", "shell"],
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, text: str) -> tuple[int, str]:
        process = self.start(text)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def daemon(self) -> int | None:
        """The pid of this folder's daemon, if it runs."""
        code, output = self.run("engine_pid")
        return int(output) if code == 0 else None

    def wait_for(self, process: subprocess.Popen[str], text: str) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if text in line:
                return
        raise AssertionError(f"the shell ended without saying {text!r}")


@pytest.fixture
def machine() -> Iterator[Machine]:
    folder = Path(mkdtemp(prefix="hr-", dir="/tmp"))
    machine = Machine(folder)
    yield machine
    machine.run("rm -f $ENGINE_DIR/users.lock; engine_stop")
    shutil.rmtree(folder)


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


USE = "trap engine_release EXIT; engine_acquire; echo taken; read -r; echo done"


@pytest.mark.engine
def test_a_daemon_that_a_script_needed_answers_meanwhile_and_is_gone_afterwards(machine: Machine) -> None:
    code, output = machine.run(
        "engine_acquire; engine_answers $DOCKER_HOST; echo on $DOCKER_HOST; engine_release; engine_pid"
    )
    assert f"on unix://{machine.folder}/d/docker.sock" in output
    assert code == 1, "engine_pid finds none"


@pytest.mark.engine
def test_two_scripts_share_one_daemon_and_the_last_one_stops_it(machine: Machine) -> None:
    first, second = machine.start(USE), machine.start(USE)
    machine.wait_for(first, "taken")
    machine.wait_for(second, "taken")
    pid = machine.daemon()
    assert pid is not None
    go_on(first)
    first.communicate(timeout=60)
    assert machine.daemon() == pid
    go_on(second)
    second.communicate(timeout=60)
    assert machine.daemon() is None


@pytest.mark.engine
def test_a_daemon_left_over_by_a_killed_script_is_used_and_stopped_by_the_next(machine: Machine) -> None:
    killed = machine.start(USE)
    machine.wait_for(killed, "taken")
    pid = machine.daemon()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert machine.daemon() == pid
    code, output = machine.run("engine_acquire; engine_release")
    assert code == 0
    assert "starting" not in output
    assert machine.daemon() is None


@pytest.mark.engine
def test_a_daemon_asked_for_by_hand_outlives_scripts_and_is_stopped_by_hand(machine: Machine) -> None:
    machine.run("engine_keep")
    pid = machine.daemon()
    assert pid is not None
    assert (machine.folder / "env").read_text() == f"export DOCKER_HOST=unix://{machine.folder}/d/docker.sock\n"
    user = machine.start(USE)
    machine.wait_for(user, "taken")
    code, output = machine.run("engine_stop")
    assert code == 3
    assert "in use" in output
    go_on(user)
    user.communicate(timeout=60)
    assert machine.daemon() == pid
    assert machine.run("engine_stop")[0] == 0
    assert machine.daemon() is None
    assert not (machine.folder / "env").exists()


@pytest.mark.engine
def test_a_daemon_that_cannot_start_is_reported_with_the_end_of_its_log(machine: Machine) -> None:
    machine.env["HEADRACE_DOCKER_ARGS"] = "--no-such-option"
    code, output = machine.run("engine_acquire")
    assert code == 3
    assert "unknown flag: --no-such-option" in output


def test_a_stale_pid_file_does_not_cost_a_strangers_process_its_life(machine: Machine) -> None:
    (machine.folder / "d").mkdir()
    (machine.folder / "d" / "pid").write_text(str(os.getpid()))
    code, output = machine.run("engine_stop")
    assert code == 0
    assert "no daemon" in output


def test_a_folder_too_long_for_a_socket_is_refused_with_the_variable_to_set(machine: Machine) -> None:
    machine.env["HEADRACE_DOCKER_DIR"] = f"{machine.folder}/{'x' * 80}"
    code, output = machine.run("engine_acquire")
    assert code == 3
    assert "HEADRACE_DOCKER_DIR" in output


def setup(*arguments: str, root: Path = ROOT, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(root / "scripts" / "setup.sh"), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_help_names_every_option_and_an_unknown_one_is_refused() -> None:
    shown = setup("--help").stdout
    assert all(option in shown for option in ("--dev", "--no-engine", "--stop"))
    refused = setup("--devel")
    assert refused.returncode == 2
    assert "--devel" in refused.stderr


def test_what_is_missing_and_cannot_be_installed_is_named(machine: Machine) -> None:
    tools = machine.folder / "bin"
    tools.mkdir()
    for tool in TOOLS:
        (tools / tool).symlink_to(shutil.which(tool) or sys.executable)
    done = setup("--no-engine", env={**machine.env, "PATH": str(tools)})
    assert done.returncode == 3
    assert "missing: git" in done.stderr
    assert "no apt-get" in done.stderr


@pytest.mark.slow
def test_a_fresh_clone_gets_its_command_and_a_second_run_only_looks(tmp_path: Path) -> None:
    kept = shutil.ignore_patterns(".git", ".venv", ".headrace", "*cache*", "tests")
    clone = shutil.copytree(ROOT, tmp_path / "clone", ignore=kept)
    first = setup("--no-engine", root=clone)
    assert first.returncode == 0, first.stderr
    assert (clone / ".venv" / "bin" / "headrace").exists()
    began = time.monotonic()
    second = setup("--no-engine", root=clone)
    assert "up to date" in second.stdout
    assert "installing" not in second.stdout
    assert time.monotonic() - began < 10
