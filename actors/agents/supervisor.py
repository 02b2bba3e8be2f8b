"""The process between a runner and a coding agent: it leaves nothing of the agent behind, however the session ends.

Run as a program of its own, because a subreaper adopts every orphan of its process, which a threaded Ray actor must
not do; standard library only, because it starts before every session. Its theory of operation:

- It becomes a *child subreaper*: whatever the agent starts, in whatever session or double-forked, stays its descendant.
- It starts the agent in a session of its own, with the output pipes it was given, and keeps none of them open.
- The session is over when the agent exits, when the runner asks for it (a byte on standard input), when the runner
  dies (end of file there, its pidfd, or another parent), or on SIGTERM, SIGINT or SIGHUP. Asked to, it first sends
  SIGTERM to the agent's group and waits ``GRACE`` seconds; when the runner is dead it does not wait.
- Then every descendant is found by walking /proc, all are stopped (so that none can fork), and killed.
- One line of JSON on the report descriptor says how the agent ended and how many processes it left behind.
- If this process itself is killed, the kernel kills the agent's first process (parent-death signal); the runner ends
  the others, by the marker in their environment (:mod:`actors.agents.process`).

Usage: ``supervisor.py PROMPT_FD REPORT_FD RUNNER_PID GRACE COMMAND…`` with standard input as the control pipe.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from types import FrameType

__all__ = ["descendants", "kill_all", "parents"]

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PARENT_CHECK_S = 0.5
KILL_PATIENCE_S = 10.0
MAX_FREEZE_ROUNDS = 50

_libc = ctypes.CDLL(None, use_errno=True)


def parents() -> dict[int, int]:
    """The parent of every process on this machine that has not ended, as /proc shows it."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib doubles the start-up time
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                stat = file.read()
        except OSError:
            continue
        # The name in parentheses may hold anything, also parentheses.
        state, parent = stat[stat.rindex(b")") + 2 :].split()[:2]
        if state not in (b"Z", b"X"):
            found[int(name)] = int(parent)
    return found


def descendants(root: int) -> set[int]:
    """All living descendants of ``root``."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    queue = [root]
    while queue:
        for pid in children.get(queue.pop(), ()):
            if pid not in found:
                found.add(pid)
                queue.append(pid)
    return found


def kill_all(root: int, *, patience_s: float = KILL_PATIENCE_S) -> tuple[int, int]:
    """Kills every descendant of ``root``, which is the calling process and a subreaper.

    Returns:
        How many were killed, and how many are still there after ``patience_s`` seconds (in an uninterruptible call).
    """
    killed: set[int] = set()
    deadline = time.monotonic() + patience_s
    while True:
        frozen: set[int] = set()
        for _ in range(MAX_FREEZE_ROUNDS):
            new = descendants(root) - frozen
            if not new:
                break
            for pid in new:
                _send(pid, signal.SIGSTOP)
            frozen |= new
        for pid in frozen:
            _send(pid, signal.SIGKILL)
        killed |= frozen
        reap()
        left = descendants(root)
        if not left or time.monotonic() > deadline:
            return len(killed), len(left)
        time.sleep(0.005)


def reap() -> dict[int, int]:
    """Waits for every child that has ended; returns their exit codes, negative for a signal."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = os.waitstatus_to_exitcode(status)


def _given_environment() -> dict[bytes, bytes]:
    """The environment that this process was started with; Python itself adds to ``os.environ`` (LC_CTYPE)."""
    with open("/proc/self/environ", "rb") as file:  # noqa: PTH123
        return dict(entry.split(b"=", 1) for entry in file.read().split(b"\0") if b"=" in entry)


def _send(pid: int, number: signal.Signals) -> None:
    # Gone, or of another user: then it is counted as left behind.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) failed")


class Supervisor:
    """One agent under supervision; see the module's theory of operation."""

    def __init__(self, *, command: list[str], prompt_fd: int, report_fd: int, runner: int, grace_s: float) -> None:
        self.command, self.prompt_fd, self.report_fd = command, prompt_fd, report_fd
        self.runner, self.grace_s = runner, grace_s
        self.asked = False
        self.runner_is_gone = False
        self.agent = 0
        self.exit_code: int | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        """Runs the agent to its end and reports it."""
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        poller = select.poll()
        poller.register(0, select.POLLIN)
        poller.register(wake_read, select.POLLIN)
        # Gone already, or a kernel without it: the parent is looked at every half second.
        with contextlib.suppress(OSError):
            poller.register(os.pidfd_open(self.runner), select.POLLIN)
        try:
            self.agent = self._start()
        except OSError as exc:
            self._report(error=f"{self.command[0]}: {exc.strerror}")
            return
        self._let_go_of_output()
        self._wait(poller, wake_read, until=None)
        if self.exit_code is None and not self.runner_is_gone:
            self._terminate()
            self._wait(poller, wake_read, until=time.monotonic() + self.grace_s)
        # The agent's own exit code must not be lost to the general reaping.
        if self.exit_code is None:
            _send(self.agent, signal.SIGKILL)
            _, status = os.waitpid(self.agent, 0)
            self.exit_code = os.waitstatus_to_exitcode(status)
        killed, left = kill_all(os.getpid())
        self._report(exit_code=self.exit_code, killed=killed, left=left)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True

    def _start(self) -> int:
        supervisor = os.getpid()

        def in_child() -> None:
            _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != supervisor:
                os._exit(1)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        # Kept: a process object that is collected waits for its process itself, and swallows the exit code.
        self.process = subprocess.Popen(
            self.command,
            stdin=self.prompt_fd,
            env=_given_environment(),
            start_new_session=True,
            preexec_fn=in_child,  # noqa: PLW1509 - this process has one thread
        )
        os.close(self.prompt_fd)
        return self.process.pid

    def _let_go_of_output(self) -> None:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.close(null)

    def _wait(self, poller: select.poll, wake_read: int, *, until: float | None) -> None:
        """Waits for the agent's exit, and without ``until`` also for a wish to end it."""
        while self.exit_code is None:
            if until is None and (self.asked or self.runner_is_gone):
                return
            left_s = PARENT_CHECK_S if until is None else min(PARENT_CHECK_S, until - time.monotonic())
            if left_s <= 0 or self.runner_is_gone:
                return
            for fd, _ in poller.poll(left_s * 1000):
                if fd == wake_read:
                    os.read(wake_read, 4096)
                elif fd == 0:
                    if os.read(0, 64):
                        self.asked = True
                    else:
                        self.runner_is_gone = True
                        poller.unregister(0)
                else:
                    self.runner_is_gone = True
                    poller.unregister(fd)
            if os.getppid() != self.runner:
                self.runner_is_gone = True
            self.exit_code = reap().get(self.agent)

    def _terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.agent, signal.SIGTERM)

    def _report(self, **fields: object) -> None:
        with contextlib.suppress(OSError):  # nobody reads it any more
            os.write(self.report_fd, json.dumps(fields).encode() + b"\n")


def main(arguments: list[str]) -> None:
    """Entry point; see the module's usage."""
    prompt_fd, report_fd, runner, grace_s, *command = arguments
    os.set_inheritable(int(report_fd), False)
    Supervisor(
        command=command,
        prompt_fd=int(prompt_fd),
        report_fd=int(report_fd),
        runner=int(runner),
        grace_s=float(grace_s),
    ).run()
    # No finalisers: they would wait for the agent's process object.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
