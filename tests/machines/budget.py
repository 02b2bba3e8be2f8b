"""How much the state machines run: a fixed budget by default, the same in every run; more, and random, when asked.

``HYPOTHESIS_PROFILE=long pytest tests/machines --timeout=0`` runs every machine many times longer, with another seed
each time. What fails is shrunk, printed as a program of steps, and replayed by the blob that Hypothesis prints with it.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

__all__ = ["LONG", "budget"]

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
_MORE = 40


def budget(examples: int, *, steps: int = 50) -> settings:
    """So many runs of at most so many steps; 40 times as many, twice as long, in a long run."""
    return settings(
        max_examples=examples * _MORE if LONG else examples,
        stateful_step_count=steps * 2 if LONG else steps,
        derandomize=not LONG,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )
