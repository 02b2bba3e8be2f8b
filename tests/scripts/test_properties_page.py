"""docs/properties.md names tests that exist, and leaves no property of this release without one."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "properties.md").read_text(encoding="utf-8")
ROWS = {int(number): row for number, row in re.findall(r"^\| (\d+) \|(.*)\|$", PAGE, flags=re.MULTILINE)}
TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py::[\w:]+)`", PAGE)))


@cache
def names_in(path: str) -> frozenset[str]:
    """The tests of a module as pytest names them, without parameters."""
    found: set[str] = set()
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return frozenset(one for one in found if one.rpartition("::")[2].startswith("test_"))


def test_every_property_of_this_release_has_a_row_with_tests() -> None:
    assert set(ROWS) == {*range(1, 24), 25}
    for number, row in ROWS.items():
        assert "`tests/" in row, f"property {number} has no test"


@pytest.mark.parametrize("test", TESTS)
def test_a_test_that_the_page_names_is_there(test: str) -> None:
    path, _, name = test.partition("::")
    assert name in names_in(path)


def test_everything_in_backticks_that_looks_like_a_test_was_looked_for() -> None:
    assert len(TESTS) > 40
    assert sorted(set(re.findall(r"tests/\S+?::[\w:]+", PAGE))) == TESTS
