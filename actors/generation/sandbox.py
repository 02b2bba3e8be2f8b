"""Bubblewrap around an agent: what it can see and touch is listed here, everything else is not there.

In the sandbox there are the system's programs and libraries (read-only), a selection of ``/etc``, the CLI's own program
files (read-only), the workspace and the session's home (writable), of an account's home the CLI's own configuration,
and fresh, limited ``/tmp`` and ``/dev/shm``. Process ids, IPC, host name and control groups are its own; it has no
capabilities, can make no further name spaces, and ends with its parent. The kernel's settings in ``/proc/sys`` are
read-only: a process of root's could write them without any capability, and with one of them leave the sandbox.

Its network is its own too, and leads nowhere but through a gate (:mod:`actors.generation.gate`) to the Internet: what
listens on this machine or its networks without asking for a password is out of reach. Where the setting says so, it is
the host's network instead.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import msgspec

from actors.generation import doorway
from actors.generation.gate import Gate
from actors.generation.workspace import INTERPRETER

__all__ = ["Sandbox", "files_of_program", "find_sandbox"]

INSTALL = "apt-get install bubblewrap"
PROBE_TIMEOUT_S = 20.0
MIB = 1024**2
TMP_BYTES = 1024 * MIB
SHARED_MEMORY_BYTES = 64 * MIB

MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Folders of the root; where ``/usr`` is merged, links into it."""

ETC = (
    "alternatives",
    "ca-certificates",
    "gai.conf",
    "group",
    "host.conf",
    "hosts",
    "ld.so.cache",
    "localtime",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "pki",
    "protocols",
    "resolv.conf",
    "services",
    "ssl",
    "terminfo",
)
"""What programs need to find names, certificates and libraries; no secrets."""

TOOLS = "/run/headrace/bin"
"""In the sandbox: links to the programs that a CLI is started with, wherever they lie."""

GATE, DOORWAY = "/run/headrace/gate.sock", "/run/headrace/doorway.py"

CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS")


class Sandbox(msgspec.Struct, frozen=True, kw_only=True):
    """A bubblewrap that works here. ``version``: what it says of itself; ``limits_size``, ``forbids_namespaces``: what
    this version can do."""

    program: str
    version: str
    limits_size: bool
    forbids_namespaces: bool

    @property
    def missing(self) -> str:
        """What this version cannot do, in words; empty if it is whole."""
        lacks = ["its temporary folder is not limited in size"] if not self.limits_size else []
        lacks += ["the agent may make name spaces"] if not self.forbids_namespaces else []
        return ", ".join(lacks)

    def search_path(self, given: str) -> str:
        """``PATH`` of a session within."""
        return f"{TOOLS}:{given}"

    def wrap(
        self,
        *,
        workspace: Path,
        home: Path,
        programs: Sequence[Path],
        environment: Mapping[str, str],
        account_home: Path | None = None,
        configuration: Sequence[str] = (),
        gate: Gate | None = None,
    ) -> tuple[str, ...]:
        """The words that come before a CLI's command.

        Args:
            workspace: writable, and the working folder.
            home: writable.
            programs: the CLI, and what else it needs of what lies outside ``/usr``, by their real paths.
            environment: the session's; certificates that it names are readable.
            account_home: the home in which somebody logged in; only ``configuration`` of it is there, writable,
                because the CLI renews its login.
            configuration: names below ``account_home``.
            gate: the way to the network; ``None``: the host's network.
        """
        words = [self.program, *self.isolation(), *self._fresh("/tmp", TMP_BYTES)]  # noqa: S108
        if account_home is not None:
            words += self._fresh(str(account_home), SHARED_MEMORY_BYTES)
            for name in configuration:
                words += ["--bind-try", str(account_home / name), str(account_home / name)]
        readable = [Path(environment[name]) for name in CERTIFICATES if name in environment]
        for program in (INTERPRETER, *programs):
            words += ["--symlink", str(program), f"{TOOLS}/{program.name}"] if program != INTERPRETER else []
            readable += files_of_program(program)
        for path in dict.fromkeys(readable):
            words += ["--ro-bind-try", str(path), str(path)]
        for path in (workspace, home):
            words += ["--bind", str(path), str(path)]
        within: tuple[str, ...] = ()
        if gate is not None:
            words += ["--unshare-net", "--bind", str(gate.path), GATE, "--ro-bind", doorway.__file__, DOORWAY]
            within = (str(INTERPRETER), "-ISB", DOORWAY, GATE, json.dumps(gate.ports))
        # Memory that no limit of a file system holds: the root and /dev are small file systems in memory too.
        words += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", str(workspace), "--"]
        return (*words, *within)

    def isolation(self) -> list[str]:
        """Name spaces, and the system's own files."""
        words = ["--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
        words += ["--hostname", "headrace", "--die-with-parent", "--cap-drop", "ALL"]
        words += ["--disable-userns"] if self.forbids_namespaces else []
        return [*words, *_system(), *self._fresh("/dev/shm", SHARED_MEMORY_BYTES)]  # noqa: S108

    def _fresh(self, path: str, size_bytes: int) -> list[str]:
        return [*(["--size", str(size_bytes)] if self.limits_size else []), "--tmpfs", path]


def _system() -> list[str]:
    words = ["--ro-bind", "/usr", "/usr"]
    for name in MERGED:
        path = Path("/", name)
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    for name in ETC:
        words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    words += ["--proc", "/proc"]
    for name in ("sys", "acpi", "fs", "scsi"):
        words += ["--ro-bind-try", f"/proc/{name}", f"/proc/{name}"]
    return [*words, "--dev", "/dev"]


def files_of_program(program: Path) -> list[Path]:
    """What has to be readable for a program to run, beyond ``/usr``: a Node package with its dependencies, or the file.

    Args:
        program: its real path.
    """
    if program.is_relative_to("/usr"):
        return []
    if program == INTERPRETER:
        return [Path(sys.base_prefix).resolve()]
    parts = program.parts
    if "node_modules" in parts:
        return [Path(*parts[: parts.index("node_modules") + 1])]
    return [program]


def find_sandbox(*, search_path: str | None = None) -> Sandbox | str:
    """The bubblewrap of this machine, after a trial; or why there is none, with what mends it.

    Args:
        search_path: where to look; ``None``: this process's ``PATH``.
    """
    path = os.environ.get("PATH", os.defpath) if search_path is None else search_path
    program = shutil.which("bwrap", path=path)
    if program is None:
        return f"bubblewrap is not installed; run: {INSTALL}"
    return _tried(program)


@cache
def _tried(program: str) -> Sandbox | str:
    try:
        known = _run([program, "--help"])
        said = _run([program, "--version"])
        words = known.stdout + known.stderr
        found = Sandbox(
            program=program,
            version=said.stdout.strip().rpartition(" ")[2],
            limits_size="--size" in words,
            forbids_namespaces="--disable-userns" in words,
        )
        done = _run([program, *found.isolation(), "--unshare-net", "--chdir", "/usr", "--", "/bin/true"])
    except (OSError, subprocess.TimeoutExpired) as exc:
        return f"{program} cannot be run ({exc}); run: {INSTALL}"
    if done.returncode:
        reason = _last_line([done.stderr, done.stdout])
        return f"{program} does not work here ({reason}); allow user name spaces to this user, or run as root"
    return found


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PROBE_TIMEOUT_S, env={}
    )


def _last_line(texts: Iterable[str]) -> str:
    return next((lines[-1] for text in texts if (lines := text.strip().splitlines())), "no message")
