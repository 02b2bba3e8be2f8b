"""Runs parts of one verification side by side, with the verdict that they would have one after another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from actors.verifier.session import Session

__all__ = ["EitherEvent", "side_by_side"]

T = TypeVar("T")


class EitherEvent(threading.Event):
    """Set when it was set itself, or when another event is. A wait sees the other one only at its end."""

    def __init__(self, other: threading.Event) -> None:
        super().__init__()
        self._other = other

    def is_set(self) -> bool:
        """See the class."""
        return super().is_set() or self._other.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """See the class; ``timeout`` in seconds."""
        return self._other.is_set() or super().wait(timeout) or self._other.is_set()


def side_by_side(session: Session, parts: Sequence[Callable[[Session], T]]) -> list[T]:
    """Runs parts in threads, each in a branch of the session, and joins what they found in their order.

    The first part, in their order, that raises has the say: later ones are ended, and what they found does not count.
    How many containers there are at once is the session's business.

    Args:
        session: what the branches are made of and joined to.
        parts: each is called with its branch.

    Returns:
        What each part returned.

    Raises:
        Refused: by the first part that was refused.
        InfraError: in the first part that failed.
    """
    cancels = [EitherEvent(session.cancel) for _ in parts]
    branches = [session.branch(cancel) for cancel in cancels]
    results: list[T] = []
    with ThreadPoolExecutor(max_workers=len(parts), thread_name_prefix="verify") as pool:
        futures = [pool.submit(part, branch) for part, branch in zip(parts, branches, strict=True)]
        try:
            for future, branch in zip(futures, branches, strict=True):
                wait([future])
                session.trial.join(branch.trial)
                results.append(future.result())
        finally:
            for cancel in cancels:
                cancel.set()
    return results
