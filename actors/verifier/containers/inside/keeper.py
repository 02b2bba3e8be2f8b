"""Process 1 of a verification container: starts one command, ends with it, and never outlives its deadline.

Usage: ``keeper.py DEADLINE_S FOLDER ENVIRONMENT_JSON REMOVED_JSON BYTECODE_JSON COMMAND [ARGUMENT ...]``

* The paths of ``REMOVED_JSON``, a list, are taken away first, folders with all that they hold; no link is followed.
* The folders for temporary files, which are fresh volumes, get the mode that everybody expects of them.
* Of ``BYTECODE_JSON``, a list, the first is a folder in which links to what the others hold are put.
* The command gets the given environment and nothing of the image's.
* When the command ends, this process ends, and with it whatever the command left running: the kernel kills the
  processes of a pid namespace whose first process is gone.
* After ``DEADLINE_S`` seconds this process ends with code 124. No client is needed for that: a container whose
  Headrace was killed still ends.
* Signals from inside the container do not end it: it installs no handler, and the kernel delivers to the first
  process of a namespace only what it handles.

Exit code: the command's own; 192 + n when signal n ended the command (distinct from 128 + n, with which the engine
reports a signal to this process); 124 after the deadline; 127 when the command cannot be started.

It runs without the image's byte code, so an import may cost the time to compile it: only what is needed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

DEADLINE_PASSED = 124
CANNOT_START = 127
SIGNAL_BASE = 192
TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - volumes of this container
TEMPORARY_MODE = 0o1777


def prepare(removed: list[str]) -> None:
    """Takes paths away and opens the folders for temporary files.

    Raises:
        OSError: a path cannot be removed.
    """
    for folder in TEMPORARY:
        if os.path.ismount(folder):
            os.chmod(folder, TEMPORARY_MODE)  # noqa: PTH101
    for path in removed:
        take_away(path)


def link(place: str, folder: str) -> None:
    """Puts links to byte code below ``place``: to a folder that holds files as a whole, but to each part of a
    site-packages, whose other parts are compiled here.

    Raises:
        OSError: one cannot be made.
    """
    with os.scandir(folder) as found:
        entries = list(found)
    if any(entry.is_file() for entry in entries) and not folder.endswith("/site-packages"):
        os.symlink(folder, place)  # noqa: PTH211
        return
    os.makedirs(place, exist_ok=True)  # noqa: PTH103
    for entry in entries:
        here = f"{place}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            link(here, entry.path)
        else:
            os.symlink(entry.path, here)  # noqa: PTH211


def take_away(path: str) -> None:
    """Removes a file, a link or a whole folder; one that is not there is no error."""
    try:
        os.unlink(path)  # noqa: PTH108
    except (FileNotFoundError, NotADirectoryError):
        return
    except IsADirectoryError:
        with os.scandir(path) as entries:
            names = [entry.path for entry in entries]
        for name in names:
            take_away(name)
        os.rmdir(path)  # noqa: PTH106


def run(deadline_s: float, folder: str, environment: dict[str, str], command: list[str]) -> int:
    """Runs ``command`` in ``folder`` for at most ``deadline_s`` seconds and returns this process's exit code."""
    ends_at = time.monotonic() + deadline_s
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        os.chdir(folder)
        nothing = os.open(os.devnull, os.O_RDONLY)
        child = os.posix_spawn(
            command[0],
            command,
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, nothing, 0)],
            setpgroup=0,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
    except OSError as exc:
        sys.stderr.write(f"headrace: {command[0]} cannot be started in {folder}: {exc}\n")
        return CANNOT_START
    while True:
        status = reap(child)
        if status is not None:
            return os.WEXITSTATUS(status) if os.WIFEXITED(status) else SIGNAL_BASE + os.WTERMSIG(status)
        left_s = ends_at - time.monotonic()
        if left_s <= 0:
            sys.stderr.write(f"headrace: the deadline of {deadline_s:g} s has passed\n")
            return DEADLINE_PASSED
        signal.sigtimedwait({signal.SIGCHLD}, min(left_s, 60.0))


def reap(child: int) -> int | None:
    """Collects every ended process, orphans included; the status of ``child`` when it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status


def main(arguments: list[str]) -> int:
    """Prepares and runs, as the usage says."""
    deadline_s, folder, environment, removed, bytecode, *command = arguments
    try:
        prepare(json.loads(removed))
        prefix, *compiled = json.loads(bytecode)
        for one in compiled:
            link(prefix, one)
    except OSError as exc:
        sys.stderr.write(f"headrace: the container cannot be prepared: {exc}\n")
        return CANNOT_START
    return run(float(deadline_s), folder, json.loads(environment), command)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)
