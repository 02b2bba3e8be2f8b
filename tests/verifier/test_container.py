"""One command in one container: how it ends, what it has, what it leaves, and that it ends without its client too."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from actors.images import BuiltImage, Engine
from events.errors import InfraError
from tests.engine_fixtures import TestBench
from tests.verifier.commands import Commands
from tests.verifier.images import lay_over

pytestmark = pytest.mark.engine


@pytest.fixture
def run(bench: TestBench, sample: BuiltImage, tmp_path: Path) -> Commands:
    labels = {"headrace.log": bench.log_id, "headrace.tier": "test", "headrace.attempt": "a"}
    return Commands(bench.engine, image=sample.image_id, labels=labels, folder=tmp_path)


def test_output_result_and_exit_code_come_out(run: Commands, tmp_path: Path) -> None:
    ended = run("echo to stdout; echo to stderr >&2; echo 42 > /headrace/results/report; exit 7")
    assert ended.exit_code == 7
    assert sorted((tmp_path / "out.log").read_text().splitlines()) == ["to stderr", "to stdout"]
    assert (tmp_path / "report").read_text() == "42\n"


def test_a_result_of_an_earlier_command_is_not_there_for_the_next(run: Commands, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("baked before")
    run("cat /headrace/results/report")
    assert (tmp_path / "out.log").read_text() == ""


def test_a_signal_is_told_from_an_exit_code(run: Commands) -> None:
    assert run("kill -SEGV $$").exit_code == 192 + signal.SIGSEGV


def test_a_command_that_cannot_start_says_why(run: Commands, tmp_path: Path) -> None:
    assert run("true", folder="/not/there").exit_code == 127
    assert "/bin/bash cannot be started in /not/there" in (tmp_path / "out.log").read_text()


def test_output_beyond_the_cap_is_cut_with_a_note(run: Commands, tmp_path: Path) -> None:
    ended = run("yes | head --bytes=20000000; exit 3", max_log_bytes=1000)
    assert ended.exit_code == 3
    assert (tmp_path / "out.log").read_bytes() == b"y\n" * 500 + b"\nheadrace: output cut after 1000 bytes\n"


def test_what_a_command_leaves_running_ends_with_it(run: Commands) -> None:
    began = time.monotonic()
    assert run("sleep 600 & setsid sleep 600 & exit 0").exit_code == 0
    assert time.monotonic() - began < 10


def test_a_log_that_cannot_be_written_is_an_infra_failure_and_leaves_no_container(
    run: Commands, tmp_path: Path, bench: TestBench
) -> None:
    (tmp_path / "out.log").symlink_to("/dev/full")
    with pytest.raises(InfraError, match=r"cannot write out\.log"):
        run("yes | head --bytes=100000")
    assert bench.engine.containers({"headrace.log": bench.log_id}) == []


def test_root_has_the_powers_that_tests_need_and_no_others(run: Commands) -> None:
    run("grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; mknod /tmp/x c 1 3; ls /dev/mem /dev/kmsg")
    powers = f"{sum(1 << number for number in (0, 1, 3, 5, 6, 7)):016x}"
    seen = dict(line.split(":\t") for line in run.output.splitlines() if ":\t" in line)
    assert seen == {"CapEff": powers, "CapBnd": powers, "NoNewPrivs": "1", "Seccomp": "2"}
    assert "mknod: /tmp/x: Operation not permitted" in run.output
    assert run.output.count("No such file or directory") == 2


def test_archives_users_and_low_ports_work_as_honest_tests_need_them(run: Commands) -> None:
    steps = [
        "cd /tmp && mkdir owned && touch owned/file && chown -R 1000:1000 owned && tar cf a.tar owned && rm -r owned",
        "tar xpf a.tar && test $(stat -c %u owned/file) = 1000",
        "chmod 4755 owned/file && touch -d 2001-01-01 owned/file && echo more >>owned/file",
        "su nobody -s /bin/bash -c 'echo text >/tmp/of-nobody && ! echo x >/etc/passwd'",
        "runuser -u nobody -- sleep 60 & until pid=$(grep -lz '^sleep' /proc/[0-9]*/cmdline); do :; done",
        "kill -9 $(echo $pid | cut -d/ -f3)",
        "python3 -c 'import socket; socket.socket().bind((\"127.0.0.1\", 80))'",
        "python3 -c 'import multiprocessing as m; m.Lock(); m.Array(\"d\", 1000)'",
    ]
    ended = run("set -e\n" + "\n".join(steps))
    assert ended.exit_code == 0, run.output


def test_core_files_open_files_and_file_sizes_are_limited(run: Commands) -> None:
    run("ulimit -c; ulimit -n; ulimit -f; df --output=size -k /dev/shm", disk_bytes=64 << 20)
    assert run.output.split() == ["0", "4096", str(64 << 10), "1K-blocks", str(256 << 10)]


def test_nothing_of_the_images_environment_is_in_process_1_or_the_command(
    run: Commands, engine: Engine, sample: BuiltImage
) -> None:
    poison = {"LD_AUDIT": "/no.so", "GLIBC_TUNABLES": "glibc.malloc.check=3", "PYTHONPATH": "/x", "MADE_UP": "1"}
    image = lay_over(engine, sample.image_id, {}, env=poison)
    run("tr '\\0' '\\n' </proc/1/environ; env", image=image)
    engine.api.remove_image(image)
    names = {line.partition("=")[0] for line in run.output.splitlines()}
    assert not names & {*poison, "PIP_NO_INPUT", "HEADRACE_PYTHON_VERSION"}
    assert "PYTHONHASHSEED" in names


FORGED_BYTE_CODE = """
import importlib.util, json, marshal, os, struct
source = json.__file__
code = compile(open(source).read() + "\\nimport os; os.write(2, b'forged')", source, "exec")
stat = os.stat(source)
head = importlib.util.MAGIC_NUMBER + struct.pack("<III", 0, int(stat.st_mtime), stat.st_size)
open(importlib.util.cache_from_source(source), "wb").write(head + marshal.dumps(code))
"""


def test_neither_process_1_nor_a_command_runs_byte_code_of_the_image(
    run: Commands, engine: Engine, sample: BuiltImage
) -> None:
    image = lay_over(engine, sample.image_id, {"f.py": FORGED_BYTE_CODE}, run="python3 /f.py")
    found = []
    for command in ("true", "/opt/venv/bin/python -c 'import json'", "/opt/venv/bin/python -E -c 'import json'"):
        run(command, image=image)
        found.append(run.output)
    engine.api.remove_image(image)
    assert found == ["", "", "forged"]  # the last one looks at no variable: the byte code is there, and would be run


def test_what_the_image_has_in_temporary_folders_is_not_there_and_volumes_are_gone_afterwards(
    run: Commands, engine: Engine, sample: BuiltImage
) -> None:
    baked = {"tmp/headrace-pytest-cache/v/lastfailed": "{}", "var/tmp/baked": "", "dev/shm/baked": ""}
    image = lay_over(engine, sample.image_id, baked)
    before = {volume["Name"] for volume in engine.api.volumes()["Volumes"] or []}
    run("find /tmp /var/tmp /dev/shm; stat -c %a /tmp /var/tmp; echo x >/tmp/kept", image=image)
    assert run.output.split() == ["/tmp", "/var/tmp", "/dev/shm", "1777", "1777"]
    engine.api.remove_image(image)
    assert {volume["Name"] for volume in engine.api.volumes()["Volumes"] or []} <= before


def test_files_are_laid_over_the_images_and_taken_away(run: Commands, engine: Engine, sample: BuiltImage) -> None:
    made = "mkdir -p /a/folder/below && echo old >/a/file && touch /a/folder/below/x && ln -s /a/target /a/link"
    image = lay_over(engine, sample.image_id, {}, run=f"{made} && echo target >/a/target && ln -s /a/target /a/gone")
    files = {
        "/a/file": b"new\n",
        "/a/link": b"no link\n",
        "/a/made/here/tool": b"#!/bin/sh\necho runs\n",
        "/a/folder": None,
        "/a/gone": None,
        "/a/never/was": None,
    }
    run(
        "cd /a; find . | sort; cat file link target; made/here/tool; stat -c '%a %U' file made/here/tool",
        image=image,
        files=files,
        executables={"/a/made/here/tool"},
    )
    engine.api.remove_image(image)
    found = [".", "./file", "./link", "./made", "./made/here", "./made/here/tool", "./target"]
    assert run.output.splitlines() == [*found, "new", "no link", "target", "runs", "644 root", "755 root"]


def test_what_cannot_be_taken_away_is_said(run: Commands) -> None:
    assert run("true", files={"/proc/self": None}).exit_code == 127
    assert "the container cannot be prepared: [Errno" in run.output


def test_further_mounts_are_read_only(run: Commands, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("given\n")
    ended = run("cat /headrace/list && echo more >>/headrace/list", extra_mounts={"/headrace/list": tmp_path / "list"})
    assert ended.exit_code == 1
    assert "given\n" in run.output
    assert "Read-only file system" in run.output
    assert (tmp_path / "list").read_text() == "given\n"


def test_the_network_is_the_one_that_is_named_and_else_none(run: Commands) -> None:
    run("ls /sys/class/net")
    assert run.output.split() == ["lo"]
    run("ls /sys/class/net", network="bridge")
    assert sorted(run.output.split()) == ["eth0", "lo"]


def test_the_environment_can_be_another(run: Commands) -> None:
    run("env", environment={"ONLY": "this"})
    assert "ONLY=this" in run.output.split()
    assert "PYTHONHASHSEED" not in run.output


class FromTheImage:
    """A channel that trusts the container's own file system."""

    def __init__(self, results: Mapping[str, Path]) -> None:
        self._results = results

    def mounts(self) -> Mapping[str, Path]:
        return {}

    def collect(self, engine: Engine, container: str) -> None:
        for inside, outside in self._results.items():
            data = b"".join(engine.api.get_archive(container, inside)[0])
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                (file,) = (tar.extractfile(member) for member in tar.getmembers())
                assert file is not None
                outside.write_bytes(file.read())


def test_a_test_can_replace_the_channel(run: Commands) -> None:
    ended = run("mkdir -p /headrace/results; echo 42 >/headrace/results/report", channel=FromTheImage)
    assert (ended.exit_code, run.report.read_text()) == (0, "42\n")


CLIENT = """
import sys, threading
from pathlib import Path
from actors.images import Engine
from actors.verifier.containers.container import Limits, run_in_container

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
