"""Draws the machines' transition tables as Mermaid diagrams: ``python -m scripts.diagrams > docs/machines.md``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TypeVar

from events import pull_request, sweep

__all__ = ["page"]

S = TypeVar("S", bound=str)

HEADER = """# The machines

Generated from the transition tables in `events/` by `python -m scripts.diagrams`; a test keeps it so. A pair of state
and trigger that is not drawn raises `IllegalTransition` and changes nothing.
"""


def page() -> str:
    """The page ``docs/machines.md``."""
    parts = [
        HEADER,
        "## A pull request\n",
        _diagram(pull_request.TRANSITIONS, start="queued", ends=("succeeded", "failed")),
        "`awaiting_slot` is shown for `find_similar` while no runner is free; no event leads to it.\n",
        "## A repository of a sweep\n",
        _diagram(sweep.TRANSITIONS, start="pending", ends=("retired",)),
    ]
    return "\n".join(parts)


def _diagram(table: Mapping[S, Mapping[str, S]], *, start: str, ends: tuple[str, ...]) -> str:
    """One state diagram; triggers that lead from one state to another share an arrow."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {start}"]
    for state, row in table.items():
        labels: dict[str, list[str]] = {}
        for trigger, to in row.items():
            labels.setdefault(str(to), []).append(trigger.replace(":", " "))
        lines += [f"    {state} --> {to}: {', '.join(triggers)}" for to, triggers in labels.items()]
    lines += [f"    {state} --> [*]" for state in ends]
    return "\n".join([*lines, "```", ""])


if __name__ == "__main__":
    sys.stdout.write(page())
