"""Where a running container's control groups are on this host, when the engine's host is this one."""

from __future__ import annotations

from pathlib import Path

__all__ = ["control_group"]

CONTROL_GROUPS = Path("/sys/fs/cgroup")


def control_group(pid: int, *, container: str, controller: str) -> Path | None:
    """The folder of one controller (``memory``, ``pids``) for a container whose process 1 is ``pid`` on the host.

    Returns:
        ``None`` when the container has ended, or runs on another host.
    """
    try:
        text = Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    for line in text.splitlines():
        hierarchy, controllers, group = (*line.split(":", 2), "", "")[:3]
        if container not in group:
            continue
        if controller in controllers.split(","):
            return CONTROL_GROUPS / controller / group.lstrip("/")
        if hierarchy == "0" and (CONTROL_GROUPS / "cgroup.controllers").exists():
            return CONTROL_GROUPS / group.lstrip("/")
    return None
