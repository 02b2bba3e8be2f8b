"""Limits of a session's processes: control groups for their number and memory, and limits of files.

A control group also tells which processes belong to a session, whatever they did to their parents and environment: so
a killed runner's session is found and ended by it. Where this process may not make control groups (it is not root, or
lives in a container), only the limits of files hold; ``missing`` says so.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from actors.generation import enter
from actors.generation.workspace import INTERPRETER

__all__ = ["Cage", "Limits", "end_group", "unlimited"]

CONTROL_GROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = {"pids": "processes", "memory": "memory"}
END_S = 10.0
POLL_S = 0.02


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one session may use of this machine. ``disk_bytes``: of workspace and home, beyond what was put there."""

    processes: int = 1024
    memory_bytes: int = 4 << 30
    disk_bytes: int = 1 << 30
    file_bytes: int = 512 << 20
    open_files: int = 4096


class Cage:
    """The control groups of one session, from ``__init__`` to ``close``. A crash leaves empty groups, or ones that
    :func:`end_group` finds by the session's name."""

    def __init__(self, session: str, *, limits: Limits) -> None:
        self._limits = limits
        self._groups: list[Path] = []
        absent = []
        for controller, settings in (
            ("pids", {"pids.max": limits.processes}),
            ("memory", {"memory.max": limits.memory_bytes, "memory.limit_in_bytes": limits.memory_bytes}),
        ):
            group = _make(_group(controller, session), settings)
            if group is None:
                absent.append(CONTROLLERS[controller])
            elif group not in self._groups:
                self._groups.append(group)
        self.missing = f"no control groups here: the session's {' and '.join(absent)} not limited" if absent else ""

    @property
    def command(self) -> tuple[str, ...]:
        """The words that come before a command, to run it within."""
        limits = {
            "groups": [str(group / "cgroup.procs") for group in self._groups],
            "file_bytes": self._limits.file_bytes,
            "open_files": self._limits.open_files,
        }
        return (str(INTERPRETER), "-ISB", enter.__file__, json.dumps(limits))

    def processes(self) -> list[int]:
        """The session's processes; none where there is no control group."""
        return _members(self._groups[0]) if self._groups else []

    def close(self) -> None:
        """Ends what is left within, and removes the groups. Idempotent."""
        for group in self._groups:
            _end(group)
        self._groups = []


def end_group(session: str) -> int:
    """Ends the processes of a session whose runner was killed, and removes its control groups.

    Returns:
        How many were killed.
    """
    return sum(_end(group) for group in {_group(controller, session) for controller in CONTROLLERS})


def unlimited() -> list[str]:
    """What of a session cannot be limited on this machine, as far as one can tell without making a control group."""
    parents = {what: _group(controller, "").parent for controller, what in CONTROLLERS.items()}
    return [what for what, parent in parents.items() if not os.access(parent, os.W_OK | os.X_OK)]


def _group(controller: str, session: str) -> Path:
    name = f"headrace-{hashlib.sha256(session.encode()).hexdigest()[:16]}"
    unified = (CONTROL_GROUPS / "cgroup.controllers").exists()
    return CONTROL_GROUPS / name if unified else CONTROL_GROUPS / controller / name


def _make(group: Path, settings: dict[str, int]) -> Path | None:
    """The group with its settings; ``None`` if it cannot be had. The two versions name a setting differently."""
    made = not group.exists()
    try:
        group.mkdir(exist_ok=True)
        known = [name for name in settings if (group / name).exists()]
        for name in known:
            (group / name).write_text(str(settings[name]), encoding="ascii")
    except OSError:
        known = []
    if known:
        return group
    if made:  # with version 2 one group has several controllers, of which another may be there
        with suppress(OSError):
            group.rmdir()
    return None


def _members(group: Path) -> list[int]:
    try:
        return [int(word) for word in (group / "cgroup.procs").read_text(encoding="ascii").split()]
    except OSError:
        return []


def _end(group: Path) -> int:
    killed: set[int] = set()
    ends_at = time.monotonic() + END_S
    while time.monotonic() < ends_at:
        for pid in _members(group):
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        try:
            group.rmdir()
        except FileNotFoundError:
            break
        except OSError as exc:
            if exc.errno != errno.EBUSY:
                break
            time.sleep(POLL_S)
        else:
            break
    return len(killed)
