"""Limits of a build's steps that the engine's build call takes, but its Python client does not offer.

Processors are a quota of the steps' containers. For processes the engine has no limit in builds; its containers can be
put under a control group made here, whose limit holds for all of them together. That works on the engine's own host, as
root, with the engine's cgroupfs driver; elsewhere steps are limited in memory alone. What no engine's classic builder
takes at all are security options: steps run under its default seccomp profile and capabilities, and a set-user-id
program in the image may gain privileges inside its container.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from actors.images.engine import Engine
from actors.settings import BuildSettings

__all__ = ["step_limits"]

CONTROL_GROUPS = Path("/sys/fs/cgroup")
PREFIX = "headrace-build-"
PERIOD_US = 100_000


@contextmanager
def step_limits(engine: Engine, settings: BuildSettings) -> Iterator[dict[str, str | int]]:
    """Parameters of the engine's build call; what they refer to exists until the context ends.

    A crash leaves empty control groups, which the next call of this kind on this host removes.

    Raises:
        InfraError: the engine is away.
    """
    parameters: dict[str, str | int] = {}
    if settings.cpus:
        parameters |= {"cpuperiod": PERIOD_US, "cpuquota": int(settings.cpus * PERIOD_US)}
    if engine.data_folder is None or engine.control_group_driver != "cgroupfs":
        yield parameters
        return
    _remove_abandoned()
    name = f"{PREFIX}{os.getpid()}-{uuid.uuid4().hex[:12]}"
    try:
        if _limit_processes(name, pids=settings.pids):
            parameters["cgroupparent"] = f"/{name}"
        yield parameters
    finally:
        _remove(name)


def _limit_processes(name: str, *, pids: int) -> bool:
    version_2 = (CONTROL_GROUPS / "cgroup.controllers").exists()
    group = CONTROL_GROUPS / name if version_2 else CONTROL_GROUPS / "pids" / name
    try:
        group.mkdir()
        (group / "pids.max").write_text(str(pids), encoding="ascii")
    except OSError:
        return False
    return True


def _groups(name: str) -> list[Path]:
    """The folders of a control group: one, or one in each hierarchy of version 1."""
    return [*CONTROL_GROUPS.glob(name), *CONTROL_GROUPS.glob(f"*/{name}")]


def _remove(name: str) -> None:
    for group in _groups(name):
        with suppress(OSError):
            group.rmdir()


def _remove_abandoned() -> None:
    for group in _groups(f"{PREFIX}*"):
        owner = group.name.removeprefix(PREFIX).partition("-")[0]
        if not Path("/proc", owner).exists():
            with suppress(OSError):
                group.rmdir()
