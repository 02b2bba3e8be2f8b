"""One seed as work for a pool of processes, which cannot import it from a ``__main__``."""

from __future__ import annotations

import traceback

from tests.dst.world import run_seed

__all__ = ["try_seed"]


def try_seed(seed: int) -> tuple[int, int, str]:
    """The seed, how many actors died in it, and what broke, if anything."""
    try:
        return seed, run_seed(seed).deaths, ""
    except Exception:
        return seed, 0, traceback.format_exc()
