"""The CPU time that this process and those below it have used, by kind: what bounds a rate also on a busy machine."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cpu_seconds", "used_between"]

_PER_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
_PARENT, _USER, _SYSTEM = 1, 11, 12
"""Fields of ``/proc/PID/stat`` behind the process's name."""


def cpu_seconds() -> dict[tuple[int, str], float]:
    """CPU seconds so far by process id and kind: the class of a Ray actor, ``ray`` for Ray's own, or ``driver``."""
    found: dict[int, list[str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has just ended
                continue
    below = {os.getpid()}
    while more := {pid for pid, stat in found.items() if int(stat[_PARENT]) in below} - below:
        below |= more
    return {
        (pid, _kind(pid)): (int(found[pid][_USER]) + int(found[pid][_SYSTEM])) * _PER_TICK_S
        for pid in below
        if pid in found
    }


def _kind(pid: int) -> str:
    if pid == os.getpid():
        return "driver"
    try:
        title = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return "ray"
    if title.startswith("ray::repository:"):  # a host, while it answers for a repository
        return "RepositoryHost"
    name = title.removeprefix("ray::").partition(".")[0].strip("\0 ")
    return name if title.startswith("ray::") and not name.endswith("Agent") else "ray"


def used_between(before: dict[tuple[int, str], float], after: dict[tuple[int, str], float]) -> dict[str, float]:
    """CPU seconds by kind between two looks, of the processes that lived at both."""
    earlier = {pid: seconds for (pid, _), seconds in before.items()}
    used: dict[str, float] = {}
    for (pid, kind), seconds in after.items():
        if pid in earlier:
            used[kind] = used.get(kind, 0.0) + seconds - earlier[pid]
    return used
