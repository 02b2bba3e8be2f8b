"""An agent that means harm: what it cannot reach in the sandbox, and what ends it."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import msgspec
import pytest

from actors.agent_settings import AgentAccount
from actors.generation.cage import Limits
from actors.generation.sandbox import Sandbox, find_sandbox
from events.work import FailureClass
from tests.generation.scripted import KEY, Stand

WORD = "the-host-knows-this"


@pytest.fixture
def stand(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """A stand in which no session runs without bubblewrap, on a host with a secret in its environment."""
    monkeypatch.setenv("HOST_SECRET", WORD)
    plain = stand.settings
    stand.settings = lambda **changes: plain(**{"sandbox": "required", **changes})  # type: ignore[method-assign]
    return stand


def test_bubblewrap_works_here() -> None:
    found = find_sandbox()
    assert isinstance(found, Sandbox), found
    assert found.missing == ""


def test_the_environment_holds_what_the_account_has_and_nothing_of_the_host(stand: Stand) -> None:
    outcome = stand.run("env; echo ---; cat /proc/*/environ | tr '\\0' '\\n'; whoami; hostname")
    said = stand.transcript
    assert WORD not in said
    assert "HOST_SECRET" not in said
    assert "DOCKER_HOST" not in said
    assert socket.gethostname() not in stand.said()
    assert KEY not in said
    assert "ANTHROPIC_API_KEY=[redacted]" in said
    assert next(check.detail for check in outcome.checks if check.name == "sandbox").startswith("bubblewrap ")


def test_neither_homes_nor_other_workspaces_nor_sockets_of_the_host_are_there(stand: Stand, tmp_path: Path) -> None:
    other = stand.spool.parent / "attempt-2" / "session" / "workspace"
    other.mkdir(parents=True)
    (other / "docker_build_pkg.sh").write_text(WORD)
    home = Path.home()
    docker = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    stand.run(
        f"cat {other}/docker_build_pkg.sh; ls -A {stand.spool.parent}; ls -A {home}; ls -A {tmp_path}; ls -A /tmp /run "
        f"/var /root /home /srv /mnt /opt; ls {docker} /var/run/docker.sock; cat /etc/shadow; ls /sys"
    )
    said = stand.said()
    assert WORD not in said
    assert "attempt-2" not in said.replace(str(other), "")
    assert "order.json" not in said
    assert "docker.sock: No such file" in said or "docker.sock': No such file" in said
    assert "cannot open '/etc/shadow'" in said or "/etc/shadow: No such file" in said
    for name in (".ssh", ".bash_history", ".local", ".cache"):
        if (home / name).exists():
            assert f"\n{name}\n" not in said


def test_nothing_can_be_written_but_the_workspace_and_the_home(stand: Stand, tmp_path: Path) -> None:
    marks = [tmp_path / "mark", Path("/usr/headrace-mark"), Path("/etc/headrace-mark"), Path("/headrace-mark")]
    kernel = ("/proc/sys/vm/swappiness", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe")
    stand.run(
        "".join(f"echo x > {mark}; " for mark in marks)
        # What stands there already: if it can be written, nothing comes of it.
        + "".join(f'old=$(cat {path}) && echo "$old" > {path} && echo has-written; ' for path in kernel)
        + "echo x > /dev/mark && echo has-written; mount -t tmpfs none /mnt && echo has-mount; unshare -rm true && "
        "echo has-namespaces; chroot / true && echo has-chroot; mknod disk b 254 0 && echo has-device; id"
    )
    assert [mark for mark in marks if mark.exists()] == []
    assert "Read-only file system" in stand.said()
    assert "has-" not in stand.said()


def test_processes_outside_are_neither_seen_nor_killed(stand: Stand) -> None:
    with subprocess.Popen(["sleep", "300"]) as bystander:
        outcome = stand.run(
            f"kill -9 {bystander.pid}; ls -d /proc/[0-9]*; pgrep -a sleep; echo GOOD > docker_build_pkg.sh"
        )
        assert bystander.poll() is None
        bystander.kill()
    assert f"/proc/{bystander.pid}" not in stand.said()
    assert "No such process" in stand.said()
    assert outcome.verified


def test_daemons_do_not_outlive_the_session(stand: Stand) -> None:
    mark = f"daemon-{os.getpid()}-{time.monotonic_ns()}"
    stand.run(
        f"(setsid env -i bash -c 'exec -a {mark} sleep 300' >/dev/null 2>&1 </dev/null &); sleep 0.3; "
        f"(setsid nohup bash -c 'exec -a {mark} sleep 300' >/dev/null 2>&1 &); sleep 0.3; pgrep -fc {mark}"
    )
    assert int(stand.said().split()[-1]) >= 2
    assert running(mark) == 0


def running(mark: str) -> int:
    return len(subprocess.run(["pgrep", "-f", mark], check=False, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize(
    "fill",
    [
        "while :; do head -c 20000000 /dev/zero >> big$((n++ % 7)); done",
        "while :; do : > $((n++)); done",
        "exec 5>gone; rm gone; head -c 150000000 /dev/zero >&5; sleep 60",
        "while :; do head -c 20000000 /dev/zero >> $HOME/.claude-$((n++ % 7)); done",
    ],
    ids=["files", "empty files", "a file without a name", "its home"],
)
def test_a_session_that_fills_the_disk_is_ended(stand: Stand, fill: str) -> None:
    began = time.monotonic()
    outcome = stand.run(fill, limits=Limits(disk_bytes=64 << 20))
    assert time.monotonic() - began < 30
    assert outcome.session is not None
    assert outcome.session.ended == "disk"
    assert "wrote more than it may" in outcome.message
    assert outcome.failure_class is FailureClass.AGENT
    assert not (stand.spool / "session").exists()


def test_temporary_files_and_single_files_are_limited(stand: Stand) -> None:
    stand.run(
        "head -c 2000000000 /dev/zero > /tmp/big; stat -c %s /tmp/big; head -c 100000000 /dev/zero > /dev/shm/big; "
        "stat -c %s /dev/shm/big; rm /tmp/big /dev/shm/big; head -c 30000000 /dev/zero > one; stat -c %s one",
        limits=Limits(disk_bytes=64 << 20, file_bytes=20 << 20),
    )
    sizes = [int(line) for line in stand.said().splitlines() if line.isdigit()]
    assert sizes == [20 << 20, 20 << 20, 20 << 20]


FORKS = """
python3 -c '
import os, time
made = 0
try:
    while made < 2000:
        if os.fork() == 0:
            os.closerange(0, 64)
            time.sleep(300)
        made += 1
except OSError as exc:
    print("ended:", exc.strerror, "within limit:", made < 64)
'
echo GOOD > docker_build_pkg.sh
"""


def test_forks_end_at_the_limit_of_processes(stand: Stand) -> None:
    outcome = stand.run(FORKS, limits=Limits(processes=64))
    assert "ended: Resource temporarily unavailable within limit: True" in stand.said()
    assert outcome.verified


def test_memory_is_limited(stand: Stand) -> None:
    outcome = stand.run(
        "python3 -c 'x = b\"x\" * (600 << 20)'; echo code=$?; echo GOOD > docker_build_pkg.sh",
        limits=Limits(memory_bytes=256 << 20),
    )
    assert outcome.verified
    assert "code=0" not in stand.said()


def test_of_an_accounts_home_only_the_configuration_of_its_cli_is_there(stand: Stand, tmp_path: Path) -> None:
    home = tmp_path / "somebody"
    (home / ".claude").mkdir(parents=True)
    (home / ".claude" / "login").write_text("token")
    (home / ".claude.json").write_text("{}")
    (home / ".ssh").mkdir()
    (home / ".ssh" / "id").write_text(WORD)
    account = AgentAccount(name="claude", agent="claude", home=str(home))
    stand.run(
        "echo $HOME; ls -A $HOME; cat $HOME/.claude/login $HOME/.ssh/id; echo renewed > $HOME/.claude/login; "
        "echo x > $HOME/other",
        settings=stand.settings(account=[account]),
    )
    assert WORD not in stand.said()
    assert ".ssh\n" not in stand.said()
    assert "token" in stand.said()
    assert (home / ".claude" / "login").read_text() == "renewed\n"
    assert not (home / "other").exists()


def test_a_workspace_that_is_swapped_for_a_link_is_not_followed(stand: Stand, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("docker_build_env.sh", "docker_build_pkg.sh", "docker_build_run.sh"):
        (tmp_path / "elsewhere" / name).write_text("GOOD\n")
    outcome = stand.run(
        f"cd ..; mv workspace w && ln -s {tmp_path}/elsewhere workspace; echo done",
        settings=stand.settings(sandbox="off"),
    )
    assert not outcome.verified
    assert stand.judge.judged == []


def test_without_bubblewrap_a_session_runs_and_says_so_unless_it_is_required(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("git", "bash", "env", "sh", "tar", "echo"):
        tools.joinpath(name).symlink_to(f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", f"{stand.programs}:{tools}")
    outcome = stand.run("echo GOOD > docker_build_pkg.sh", settings=stand.settings(sandbox="auto"))
    assert outcome.verified
    (said,) = [check.detail for check in outcome.checks if check.name == "sandbox"]
    assert said.startswith("no sandbox; bubblewrap is not installed; run: apt-get install bubblewrap")
    assert said.splitlines()[0] in (stand.spool / "session.log").read_text()
    stand.order = msgspec.structs.replace(stand.order, attempt_id="attempt-2")
    stand.spool = stand.spool.parent / "attempt-2"
    refused = stand.run("true", settings=stand.settings(sandbox="required"))
    assert refused.failure_class is FailureClass.INFRA
    assert "agents.sandbox is required: bubblewrap is not installed" in refused.message


FLOOD = """
for i in $(seq 40); do timeout 10 ./verify >/dev/null 2>&1 & done; wait
python3 -c '
import socket
with socket.socket(socket.AF_UNIX) as s:
    s.connect(".verify.sock")
    s.sendall(b"x" * 4000 + b"\\n")
    print(s.makefile().read())
'
echo alive
"""


def test_a_flood_of_requests_starts_one_verification(stand: Stand) -> None:
    threading.Timer(4.0, stand.judge.release.set).start()
    outcome = stand.run("echo SLOW > docker_build_pkg.sh\n" + FLOOD)
    assert "not a request that Headrace knows" in stand.said()
    assert "alive" in stand.said()
    assert len(stand.judge.judged) == 1
    assert outcome.failure_class is FailureClass.RECIPE
