"""Measures from outside how much memory a container uses at most.

Sampled: what the container's control group holds, less the file cache that the kernel would give up first. On the
engine's own host the control group is read, ten times a second; from elsewhere the engine is asked, which answers
about once a second. A measurement never fails a run: without a sample there is none.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import docker
import msgspec

from actors.images.engine import Engine
from actors.verifier.containers.control_groups import control_group
from events.errors import InfraError

__all__ = ["PeakMemory"]

SAMPLE_S = 0.1
JOIN_S = 2.0


class PeakMemory:
    """Samples one running container in a thread, from ``__enter__`` to ``__exit__``."""

    def __init__(self, engine: Engine, *, container: str) -> None:
        self.bytes: int | None = None
        self._engine, self._container = engine, container
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name=f"memory-{container[:12]}", daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(JOIN_S)

    def _sample(self) -> None:
        with suppress(InfraError), self._engine.translated("measure a test container"):
            api = self._engine.api
            pid = api.inspect_container(self._container)["State"]["Pid"]
            folder = control_group(pid, container=self._container, controller="memory")
            while not self._stop.is_set():
                used = _from_engine(api, self._container) if folder is None else _from_files(folder)
                if used is None:
                    return
                self.bytes = max(self.bytes or 0, used)
                self._stop.wait(SAMPLE_S)


def _from_files(folder: Path) -> int | None:
    """Bytes in use; ``None`` when the control group is gone."""
    try:
        version_2 = folder / "memory.current"
        usage = version_2 if version_2.exists() else folder / "memory.usage_in_bytes"
        used = int(usage.read_bytes())
        details = (folder / "memory.stat").read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    cache = dict(line.split(" ", 1) for line in details.splitlines())
    return used - int(cache.get("total_inactive_file", cache.get("inactive_file", "0")))


class _MemoryStats(msgspec.Struct):
    usage: int | None = None
    stats: dict[str, int] = msgspec.field(default_factory=dict)


class _Stats(msgspec.Struct):
    memory_stats: _MemoryStats = msgspec.field(default_factory=_MemoryStats)


def _from_engine(api: docker.APIClient, container: str) -> int | None:
    """Bytes in use; ``None`` when the container has stopped."""
    memory = msgspec.convert(api.stats(container, stream=False, one_shot=True), _Stats).memory_stats
    if memory.usage is None:
        return None
    return memory.usage - memory.stats.get("total_inactive_file", memory.stats.get("inactive_file", 0))
