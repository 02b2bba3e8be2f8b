"""What a benchmark says: one figure a line, with what it is compared to and its goal."""

from __future__ import annotations

import msgspec

__all__ = ["Figure"]


class Figure(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One measured figure.

    ``group`` is the benchmark's module, ``name`` what was measured, with its sizes; ``value`` is in ``unit``
    (``events/s``, ``s``, ``MiB``, ``x`` for a ratio …). ``goal``: the smallest (``at_least``) or largest value that
    satisfies; null where a figure is only there to compare with. ``percentiles``: by name (``p50``, ``p99``), in
    ``unit`` or as ``note`` says.
    """

    group: str
    name: str
    value: float
    unit: str
    goal: float | None = None
    at_least: bool = True
    percentiles: dict[str, float] = {}
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; ``None`` without a goal."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal
