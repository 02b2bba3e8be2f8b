"""Measures from outside what a container has written to disk, so that it can be ended at a limit.

Where the storage driver has no quotas, the container's own layer and its anonymous volumes are walked. On the engine's
own host that costs little: a walk takes place when as much was written to the file system, by whomever, as the
container may still write, and otherwise seldom enough to take a twentieth of the time. Files that a process holds
open without a name count too, and every file counts a block even if it is empty, so that a million names are no way
round the limit. Where the layer cannot be seen from here the engine is asked for its size instead.

The same samples tell whether the disk itself was full, which is nobody's fault.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from actors.images.engine import Engine
from actors.verifier.containers.control_groups import control_group
from events.errors import InfraError

__all__ = ["HOST_FULL_BYTES", "DiskWatch"]

SAMPLE_S = 0.1
WALK_SHARE = 20
"""A walk that took one second is repeated after this many, unless the file system filled up before."""
WALK_S = 1.0
ENGINE_WALK_S = 5.0
JOIN_S = 10.0
BLOCK = 4096
STAT_BLOCK = 512
HOST_FULL_BYTES = 16 * 1024 * 1024
"""Below this a disk is full: an engine and its containers need more for their own book-keeping."""


class DiskWatch:
    """Watches one running container in a thread, from ``__enter__`` to ``__exit__``.

    ``full`` is set once the container has written ``limit_bytes`` or more; ``host_full`` tells that the engine's disk
    itself was seen without space. A measurement that fails measures nothing; it never fails a run.
    """

    def __init__(self, engine: Engine, *, container: str, files: Sequence[Path], limit_bytes: int) -> None:
        """``files``: of this host, which the container may write too."""
        self.full = threading.Event()
        self.host_full = False
        self._engine, self._container, self._files, self._limit = engine, container, files, limit_bytes
        self._folders: list[Path] = []
        self._seen_here = False
        self._pids: Path | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name=f"disk-{container[:12]}", daemon=True)

    def __enter__(self) -> DiskWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(JOIN_S)

    def measure(self) -> None:
        """Measures once more, at the end: what was written last may have escaped the samples."""
        if not self.full.is_set() and self._written() >= self._limit:
            self.full.set()

    def _sample(self) -> None:
        with suppress(InfraError, OSError, KeyError), self._engine.translated("measure a test container's disk"):
            self._look_around()
            free, allowance, due_s = 0, 0, 0.0
            while not self.full.is_set():
                now_free = self._free()
                if time.monotonic() >= due_s or free - now_free >= allowance:
                    began_s = time.monotonic()
                    written = self._written()
                    if written >= self._limit:
                        self.full.set()
                    took_s = time.monotonic() - began_s
                    least_s = WALK_S if self._seen_here else ENGINE_WALK_S
                    free, allowance = now_free, max(self._limit - written, BLOCK)
                    due_s = began_s + took_s + max(least_s, WALK_SHARE * took_s)
                if self._stop.wait(SAMPLE_S):
                    return

    def _look_around(self) -> None:
        found = self._engine.api.inspect_container(self._container)
        layer = Path((found["GraphDriver"].get("Data") or {}).get("UpperDir") or "/nowhere/at/all")
        self._seen_here = os.access(layer, os.R_OK | os.X_OK)
        volumes = [Path(mount["Source"]) for mount in found["Mounts"] if mount["Type"] == "volume"]
        self._folders = [folder for folder in (layer, *volumes) if os.access(folder, os.R_OK | os.X_OK)]
        group = control_group(found["State"]["Pid"], container=self._container, controller="pids")
        self._pids = group / "cgroup.procs" if group else None

    def _free(self) -> int:
        """Bytes that the file systems of the container's folders have left together."""
        total = 0
        for folder in self._folders[:1] if self._seen_here else ():
            system = os.statvfs(folder)
            free = system.f_bavail * system.f_frsize
            inodes_out = system.f_files > 0 and system.f_favail == 0
            self.host_full = self.host_full or free < HOST_FULL_BYTES or inodes_out
            total += free
        return total

    def _written(self) -> int:
        """Bytes on disk; stops counting at the limit."""
        if not self._seen_here:
            return self._asked()
        total = sum(path.stat().st_blocks * STAT_BLOCK for path in self._files if path.exists())
        seen: set[tuple[int, int]] = set()
        for status in _walk(self._folders):
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            total += max(status.st_blocks * STAT_BLOCK, BLOCK)
            if total >= self._limit:
                return total
        return total + self._nameless()

    def _nameless(self) -> int:
        """Bytes of open files on disk that have no name any more, or never had one."""
        found: dict[tuple[int, int], int] = {}
        with suppress(OSError):
            pids = self._pids.read_text(encoding="ascii").split() if self._pids else []
            disks = {folder.stat().st_dev for folder in self._folders}
            for pid in pids:
                with suppress(OSError):
                    here = disks | {os.stat(f"/proc/{pid}/root/").st_dev}  # noqa: PTH116 - the slash matters
                    for status in _open_files(pid):
                        if stat.S_ISREG(status.st_mode) and status.st_nlink == 0 and status.st_dev in here:
                            found[status.st_dev, status.st_ino] = status.st_blocks * STAT_BLOCK
        return sum(found.values())

    def _asked(self) -> int:
        listed = self._engine.api.containers(all=True, size=True, filters={"id": self._container})
        return int(listed[0].get("SizeRw") or 0) if listed else 0


def _walk(folders: Iterable[Path]) -> Iterator[os.stat_result]:
    """The status of everything below these folders; what vanishes meanwhile is left out."""
    left = [str(folder) for folder in folders]
    while left:
        with suppress(OSError), os.scandir(left.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    yield entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)


def _open_files(pid: str) -> Iterator[os.stat_result]:
    for number in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - a generator of names is all that is needed
        with suppress(OSError):
            yield os.stat(f"/proc/{pid}/fd/{number}")  # noqa: PTH116
