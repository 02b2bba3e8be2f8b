"""A lock by name between threads and processes of one node, as a locked file.

The kernel drops the lock when its holder dies, so there is nothing to clean up after a crash. The file stays: removing
it would let two holders lock two files of one name.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["LockWaitCancelled", "file_lock"]

POLL_S = 0.1


class LockWaitCancelled(Exception):
    """The wait for a lock was cancelled; it is not held."""


@contextmanager
def file_lock(path: Path, *, cancel: threading.Event | None = None, shared: bool = False) -> Iterator[None]:
    """Holds the lock of that path; waits while somebody else does.

    Args:
        path: the lock file; made with its folder if need be.
        cancel: ends the wait, within a tenth of a second, when set.
        shared: any number of holders that share it hold it at once, and nobody else meanwhile.

    Raises:
        LockWaitCancelled: ``cancel`` was set before the lock was free.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if cancel is None:
            fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        else:
            while not _try_lock(handle, shared=shared):
                if cancel.wait(POLL_S):
                    raise LockWaitCancelled(str(path))
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int, *, shared: bool) -> bool:
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
