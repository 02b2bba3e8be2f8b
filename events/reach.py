"""How far an environment reaches, as far as can be guessed, and where the next session for an unexplained stretch goes.

``survival`` is the chance that no boundary lies within so many pull requests: environments are taken to end at random,
once in 25 pull requests, with the confidence of 4 boundaries seen.
"""

from __future__ import annotations

from itertools import pairwise

__all__ = ["next_pivot", "reach", "survival"]

DOUBLE = 0.13
"""Two sessions at once are for two environments when the chance that one serves both is no larger."""
BOUNDARIES_SEEN = 4.0
PRS_SEEN = 100.0


def survival(distance: float) -> float:
    """The chance that an environment reaches ``distance`` pull requests further."""
    return float((PRS_SEEN / (PRS_SEEN + distance)) ** BOUNDARIES_SEEN)


def reach(chance: float) -> int:
    """The distance, in pull requests, at which :func:`_survival` is ``chance``."""
    return int(PRS_SEEN * (chance ** (-1.0 / BOUNDARIES_SEEN) - 1.0))


def next_pivot(start: int, end: int, paid: list[int]) -> int | None:
    """Where the next session does most: in the middle of the largest part that none under way is likely to explain."""
    size = end - start
    if not paid:
        parts = max(1, size // reach(DOUBLE))
        return start + (2 * (parts // 2) + 1) * size // (2 * parts)
    best: tuple[int, int] | None = None
    away = reach(DOUBLE)
    first, last = paid[0], paid[-1]
    if first - away >= start:
        best = (first - start, max(start, min((start + first) // 2, first - away)))
    if last + away < end:
        best = max(best or (0, 0), (end - 1 - last, min(end - 1, max((last + end) // 2, last + away))))
    for low, high in pairwise(paid):
        middle = (low + high) // 2
        inside = start <= middle < end
        if inside and survival(middle - low) + survival(high - middle) <= DOUBLE:
            best = max(best or (0, 0), (high - low, middle))
    return best[1] if best else None
