"""Parsing from many threads."""

from __future__ import annotations

import ast
import gc
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from actors.verifier.suite.syntax import literal, parse, parse_expression, parsed

DEEP = "x = " + "[" * 60 + "]" * 60 + "\n"


def test_many_threads_parse_at_once() -> None:
    source = "\n".join(f"def f_{number}(a, b=(1, [2, {{3: 4}}])):\n    return a if b else -a" for number in range(400))
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()

    def work(*_given: object) -> None:
        """Runs while garbage is collected in the middle of parsing, so that other threads get their turn there."""
        for _step in range(200):
            pass

    sys.setswitchinterval(1e-6)
    gc.set_threshold(50)
    gc.callbacks.append(work)
    try:
        with ThreadPoolExecutor(max_workers=8) as pool:
            trees = list(pool.map(parse, [source, DEEP] * 20))
    finally:
        gc.callbacks.remove(work)
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
    assert {len(tree.body) for tree in trees} == {400, 1}


@pytest.mark.parametrize("text", ["print 'old'", "x = (", "\0", "(" * 10_000])
def test_what_cannot_be_parsed_is_no_tree(text: str) -> None:
    assert parsed(text) is None


def test_what_a_text_warns_of_is_not_shown() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(parse("x = '\\d'"), ast.Module)
        assert isinstance(parse_expression("1 is 1"), ast.Compare)


def test_literals() -> None:
    assert literal(" {'a': (1, None)} ") == {"a": (1, None)}
    with pytest.raises(ValueError, match="malformed"):
        literal("open('x')")
