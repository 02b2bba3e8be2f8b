"""Waiting in a way that Ctrl-C always ends.

A signal that arrives just before a thread begins to wait for a lock without a timeout is not seen until the lock is
free; so these look up now and then.
"""

from __future__ import annotations

from concurrent.futures import Future, wait
from typing import TypeVar

__all__ = ["LOOK_UP_S", "finish"]

T = TypeVar("T")
LOOK_UP_S = 0.2


def finish(future: Future[T]) -> T:
    """The result of ``future``, or what it raises."""
    while not wait([future], timeout=LOOK_UP_S).done:
        continue
    return future.result()
