"""Repetitions side by side: every round measures each subject once, in an order drawn anew, so that what else happens
on the machine meets all of them alike. Ratios are of the same round, medians of all rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random

__all__ = ["median", "paired", "percentiles", "rounds"]


def rounds(subjects: Mapping[str, Callable[[], float]], *, count: int, seed: int) -> dict[str, list[float]]:
    """What each subject returned, by round; one round before them warms up and is not counted."""
    random = Random(seed)  # noqa: S311 - the order of turns, no secret
    found: dict[str, list[float]] = {name: [] for name in subjects}
    for number in range(count + 1):
        order = list(subjects)
        random.shuffle(order)
        for name in order:
            value = subjects[name]()
            if number:
                found[name].append(value)
    return found


def median(values: Sequence[float]) -> float:
    """The value in the middle."""
    return _at(sorted(values), 0.5)


def percentiles(values: Sequence[float], *marks: int) -> dict[str, float]:
    """``p10``, ``p50`` … of ``values``, by name."""
    ordered = sorted(values)
    return {f"p{mark}": _at(ordered, mark / 100) for mark in marks}


def paired(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    """The ratios one/other, round by round."""
    return [one / other for one, other in zip(ones, others, strict=True)]


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]
