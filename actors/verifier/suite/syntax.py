"""Parses Python text that this host does not trust, from any thread.

Seen with CPython 3.11.7: its parser counts its depth in a variable that all threads share, and raises ``SystemError``
when two of them parse at once. So one at a time does. Nothing that is parsed is run.
"""

from __future__ import annotations

import ast
import threading
import warnings
from typing import Any

__all__ = ["UNPARSABLE", "literal", "parse", "parse_expression", "parsed"]

UNPARSABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What a text that cannot be parsed raises."""
_LOCK = threading.Lock()


def parse(source: str | bytes) -> ast.Module:
    """The syntax tree of a file.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: this interpreter cannot parse it (``UNPARSABLE``).
    """
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


def parsed(source: str | bytes) -> ast.Module | None:
    """The same; ``None`` if this interpreter cannot parse it."""
    try:
        return parse(source)
    except UNPARSABLE:
        return None


def parse_expression(text: str) -> ast.expr:
    """The syntax tree of one expression; raises as ``parse`` does."""
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text.strip(), mode="eval").body


def literal(text: str) -> Any:
    """The value of a literal; raises as ``parse`` does, or ``TypeError``, when it is none."""
    return ast.literal_eval(parse_expression(text))
