"""Ends a session from outside: when its order is cancelled, when it fills the disk, or when it was caught cheating.

Disk use is measured by walking workspace and home; files without a name that the session's processes hold open count
too, where its processes are known. A walk takes place when the file system lost as much room as the session has left,
by whomever, and otherwise seldom enough to take a twentieth of the time.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Guard"]

SAMPLE_S = 0.1
WALK_S = 1.0
WALK_SHARE = 20
BLOCK_BYTES = 4096
STAT_BLOCK_BYTES = 512


class Guard:
    """Sets ``stop`` once there is a reason to end the session; ``reason`` says which, in words, and is empty when the
    order was cancelled. Watches from ``__enter__`` to ``__exit__``. A measurement that fails measures nothing."""

    def __init__(
        self,
        folders: Sequence[Path],
        *,
        cancel: threading.Event,
        disk_bytes: int,
        processes: Callable[[], list[int]],
    ) -> None:
        """``disk_bytes``: what may be written beyond what is there now; ``processes``: those of the session."""
        self.stop = threading.Event()
        self.reason = ""
        self.kind = ""
        self._folders, self._cancel, self._processes = list(folders), cancel, processes
        self._limit = self._used() + disk_bytes
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="session-guard", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def end(self, kind: str, reason: str) -> None:
        """Ends the session, for the first reason that is given."""
        with self._lock:
            if not self.stop.is_set():
                self.kind, self.reason = kind, reason
                self.stop.set()

    def _watch(self) -> None:
        free, room, due_s = self._free(), 0, 0.0
        while not self._done.wait(SAMPLE_S) and not self.stop.is_set():
            if self._cancel.is_set():
                self.end("", "")
                return
            now_free = self._free()
            if time.monotonic() >= due_s or free - now_free >= room:
                began_s = time.monotonic()
                used = self._used()
                if used > self._limit:
                    self.end("disk", f"it wrote more than it may: {used >> 20} MiB in its workspace and home")
                    return
                took_s = time.monotonic() - began_s
                free, room = now_free, max(self._limit - used, BLOCK_BYTES)
                due_s = began_s + took_s + max(WALK_S, WALK_SHARE * took_s)

    def _free(self) -> int:
        try:
            found = os.statvfs(self._folders[0])
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize

    def _used(self) -> int:
        """Bytes on disk; every file counts a block, even if it is empty."""
        seen: dict[tuple[int, int], int] = {}
        for status in _walk(self._folders):
            seen[status.st_dev, status.st_ino] = max(status.st_blocks * STAT_BLOCK_BYTES, BLOCK_BYTES)
        disks = {device for device, _ in seen}
        for pid in self._processes():
            for status in _open_files(pid):
                if stat.S_ISREG(status.st_mode) and status.st_nlink == 0 and status.st_dev in disks:
                    seen[status.st_dev, status.st_ino] = status.st_blocks * STAT_BLOCK_BYTES
        return sum(seen.values())


def _walk(folders: Sequence[Path]) -> Iterator[os.stat_result]:
    """The status of everything below; what vanishes meanwhile is left out."""
    left = [str(folder) for folder in folders]
    while left:
        with suppress(OSError), os.scandir(left.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    yield entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)


def _open_files(pid: int) -> Iterator[os.stat_result]:
    with suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - a list of names is all that is needed
            with suppress(OSError):
                yield os.stat(f"/proc/{pid}/fd/{number}")  # noqa: PTH116 - follows the link to the open file itself
