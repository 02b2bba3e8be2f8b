"""A seeded scheduler and a virtual clock for programs that take turns: writers and readers of one log.

A program is a generator; each ``yield`` is a place where another may go on. Which one does is drawn from the seed, so a
seed is one interleaving, and it is replayed exactly.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

__all__ = ["Clock", "interleave"]


class Clock:
    """Time that passes only when told to, in POSIX seconds."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def interleave(programs: Iterable[Iterator[None]], *, seed: int, clock: Clock) -> None:
    """Runs all programs to their ends, in turns; time passes between the turns."""
    rng = random.Random(seed)  # noqa: S311 - replayable by intent
    running = list(programs)
    while running:
        chosen = rng.randrange(len(running))
        clock.now += rng.expovariate(1.0)
        try:
            next(running[chosen])
        except StopIteration:
            del running[chosen]
