"""Tells from outside whether a container ran into its limit of processes.

The kernel counts refused forks in the container's control group, which is gone when the container has stopped; so the
count is read while it runs. What was refused in its last tenth of a second may be missed. Nothing is known of an engine
on another host.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from actors.images.engine import Engine
from actors.verifier.containers.control_groups import control_group

__all__ = ["PidsWatch"]


class PidsWatch:
    """``sample`` reads the count of one running container; ``exhausted`` is true once a fork was refused."""

    def __init__(self, engine: Engine, *, container: str) -> None:
        """Raises:
        InfraError: the engine is away.
        """
        self.exhausted = False
        with engine.translated(f"inspect test container {container[:12]}"):
            pid = engine.api.inspect_container(container)["State"]["Pid"]
        group = control_group(pid, container=container, controller="pids")
        self._file: Path | None = group / "pids.events" if group else None

    def sample(self) -> None:
        """Reads the count; without one, nothing changes."""
        if self._file is None or self.exhausted:
            return
        with suppress(OSError, ValueError):
            counts = dict(line.split() for line in self._file.read_text(encoding="ascii").splitlines())
            self.exhausted = int(counts.get("max", "0")) > 0
