"""The page that draws the trust boundary names what the code has."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.verifier.defences import Defence
from events.work import FailureClass

PAGE = (Path(__file__).parents[2] / "docs" / "trust.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*Defence, *FailureClass])
def test_every_defence_and_every_class_of_failure_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE


def test_the_suites_that_it_names_are_there() -> None:
    for folder in ("tests/forged", "actors/verifier/defences.py"):
        assert folder in PAGE
        assert (Path(__file__).parents[2] / folder).exists()
