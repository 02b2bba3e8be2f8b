"""The SQLite log on real disks: processes that die at chosen bytes, a full file system, a read-only one.

File systems are mounted in a mount namespace of a process of their own (``unshare``), so nothing is left behind. Who is
not root gets one through a user namespace.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.store.test_log_contract import batch
from tests.store.test_sqlite import ROOT, opened

N = 40

DYING = """
import os, resource, shutil, signal, sys
from store.log import Append, NewEvent
from store.opening import open_store

template, folder, step, n = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
events = [NewEvent(f"new-{i}", "Happened", 1, b'{"pad":"' + b"x" * 700 + b'"}') for i in range(n)]
place = 0
while True:
    path = f"{folder}/{place}.db"
    shutil.copy(template, path)
    child = os.fork()
    if child == 0:
        store = open_store(f"sqlite:///{path}", write=True)
        store.log.append(Append("other", 0, [NewEvent("first", "Happened", 1, b"{}")], 1.5e9))
        limit = os.stat(path + "-wal").st_size + place
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        store.log.append(Append("s", 2, events, 1.5e9))
        os.kill(os.getpid(), signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(place, code, flush=True)
    if code == -signal.SIGKILL:
        break
    place += step
"""


def test_a_process_that_dies_at_any_byte_of_an_append_leaves_none_or_all_of_it(tmp_path: Path) -> None:
    """The kernel ends the process at the write that would take the log beyond byte K (SIGXFSZ, as final as SIGKILL);
    the last ones get the whole append done, and are killed when it has returned."""
    template = tmp_path / "template.db"
    with opened(template) as store:
        store.log.append(batch("s", 0, "a", "b"))
    folder = tmp_path / "dead"
    folder.mkdir()
    command = [sys.executable, "-c", DYING, str(template), str(folder), "613", str(N)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    ends = {int(place): -int(code) for place, code in map(str.split, done.stdout.splitlines())}
    assert set(ends.values()) == {signal.SIGXFSZ, signal.SIGKILL}
    heads = []
    for place, how in ends.items():
        with opened(folder / f"{place}.db") as store:
            head = store.log.head("s")
            assert head in (2, 2 + N), f"cut at byte {place}: {head - 2} of {N} events"
            assert how == signal.SIGXFSZ or head == 2 + N, f"cut at byte {place}: what was acknowledged is gone"
            assert store.log.head("other") == 1
            store.log.verify()
            heads.append(head)
            assert store.log.append(batch("s", head, "next")).version == head + 1
    assert heads == sorted(heads)
    assert heads.count(2) > 30


def on_a_file_system(folder: Path, mount: str, program: str) -> list[str]:
    """Runs ``mount`` (shell) and ``program`` (Python) in a mount namespace of their own; what it printed, by lines."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    script = f'{mount} && exec {sys.executable} -c "$0" {folder}'
    command = ["unshare", "--mount", *user, "sh", "-c", script, program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


FULL = """
import pathlib, sys
from events.errors import LogUnavailable
from store.log import Append, NewEvent
from store.opening import open_store

folder = pathlib.Path(sys.argv[1])
filler = folder / "filler"
filler.write_bytes(b"x" * 400_000)
url = f"sqlite:///{folder}/log.db"
version = 0

def append(log):
    global version
    data = b'{"pad":"' + b"x" * 9_000 + b'"}'
    version = log.append(Append("s", version, [NewEvent(f"e{version}", "Happened", 1, data)], 1.5e9)).version

with open_store(url, write=True) as store:
    try:
        while True:
            append(store.log)
    except LogUnavailable as exc:
        print(version, exc)
    assert [one.event_id for one in store.log.read_stream("s")] == [f"e{n}" for n in range(version)]
try:
    open_store(f"sqlite:///{folder}/another.db", write=True)
except LogUnavailable as exc:
    print(exc)
with open_store(url, write=False) as store:
    assert store.log.head("s") == version
filler.unlink()
with open_store(url, write=True) as store:
    append(store.log)
    store.log.verify()
    assert [one.event_id for one in store.log.read_stream("s")] == [f"e{n}" for n in range(version)]
    print(version)
"""


def test_a_full_file_system_is_named_with_a_remedy_and_what_was_acknowledged_survives(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"
    refused, another, last = on_a_file_system(tmp_path, mount, FULL)
    acknowledged, _, said = refused.partition(" ")
    assert int(acknowledged) > 5
    assert said.startswith(f"{tmp_path}/log.db: its disk ")
    assert "free" in said
    assert said.endswith("what was acknowledged stays")
    assert another.startswith(f"{tmp_path}/another.db: its disk ")
    assert int(last) == int(acknowledged) + 1
    assert list(tmp_path.iterdir()) == [], "the file system was the process's own"


READ_ONLY = """
import pathlib, subprocess, sys
from events.errors import HeadraceError
from scripts.cli import main
from store.log import Append, NewEvent
from store.opening import open_store

folder = pathlib.Path(sys.argv[1])
url = f"sqlite:///{folder}/log.db"
with open_store(url, write=True) as store:
    store.log.append(Append("s", 0, [NewEvent("a", "Happened", 1, b"{}")], 1.5e9))
subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
for path in ("log.db", "new.db"):
    try:
        open_store(f"sqlite:///{folder}/{path}", write=True)
    except HeadraceError as exc:
        print(type(exc).__name__, exc)
try:
    with open_store(url, write=False) as store:
        print("read", store.log.head("s"))
except HeadraceError as exc:
    print(type(exc).__name__, exc)
sys.stderr = sys.stdout
print(main(["store", "prune", "--behind-snapshots", "--store", url]))
subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
with open_store(url, write=True) as store:
    store.log.verify()
    print(store.log.append(Append("s", 1, [NewEvent("b", "Happened", 1, b"{}")], 1.5e9)).version)
"""


def test_a_read_only_file_system_is_named_with_a_remedy_and_what_was_acknowledged_survives(tmp_path: Path) -> None:
    lines = on_a_file_system(tmp_path, f"mount -t tmpfs -o size=1m tmpfs {tmp_path}", READ_ONLY)
    log, new, read, command, code, version = (line.replace(f"{tmp_path}/", "") for line in lines)
    advice = "beside it cannot be written: Read-only file system; make file and folder writable"
    assert log == f"LogUnavailable log.db: log.db.lock {advice}"
    assert new == f"LogUnavailable new.db: new.db.lock {advice}"
    assert read.startswith(
        "LogUnavailable log.db: it cannot be opened; check that file and folder can be read and writ"
    )
    assert command.startswith("headrace: error: log.db: ")
    assert (code, version) == ("3", "2")
