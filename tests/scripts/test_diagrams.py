"""The diagrams in the docs are those of the code."""

from __future__ import annotations

from pathlib import Path

from events.pull_request import TRANSITIONS
from scripts.diagrams import page

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_is_what_the_tables_say() -> None:
    assert (DOCS / "machines.md").read_text(encoding="utf-8") == page(), (
        "run: python -m scripts.diagrams > docs/machines.md"
    )


def test_every_transition_of_a_pull_request_is_drawn() -> None:
    drawn = page()
    for state, row in TRANSITIONS.items():
        for trigger, to in row.items():
            assert any(
                line.strip().startswith(f"{state} --> {to}:") and trigger.replace(":", " ") in line
                for line in drawn.splitlines()
            )
