"""What the options ``-k`` and ``-m`` of a commit's configuration can leave out, as far as its files tell.

An expression such as ``not slow`` is common, and it must not be an excuse for leaving out anything at all: a test whose
file, name and helpers never mention ``slow`` cannot be left out by it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence

import msgspec

from actors.verifier.suite.commit import CommitTree
from actors.verifier.suite.syntax import parse_expression

__all__ = ["Selection", "mentions_of", "selections_of"]

WORD = re.compile(r"[^\s()]+(?:\([^)]*\))?")
OPERATORS = frozenset({"and", "or", "not", "True", "False"})
MARKING = re.compile(
    r"add_marker|applymarker|extra_keyword_matches|\bkeywords\b|getattr|import mark as|pytest\.mark\s*$", re.MULTILINE
)
"""Ways by which a file can give tests a mark or a keyword without writing ``mark.word``."""


class Selection(msgspec.Struct, frozen=True):
    """One expression of ``-m`` (``marks``) or ``-k``: its words in lower case; ``keeps_others``: tests that none of the
    words fits are run for sure."""

    marks: bool
    words: tuple[str, ...]
    keeps_others: bool

    def explains(self, nodeid: str, mentioned: Iterable[str]) -> bool:
        """Whether a test may have been left out: it is told by its node id, and by the words that its file and the
        helpers of the tests mention."""
        if not self.keeps_others:
            return True
        found, name = set(mentioned), nodeid.lower()
        return any(word in found or word in name for word in self.words)


def selections_of(*, keywords: Iterable[str], marks: Iterable[str]) -> tuple[Selection, ...]:
    """The expressions of ``-k`` and of ``-m``."""
    return (*(_selection(text, marks=False) for text in keywords), *(_selection(text, marks=True) for text in marks))


def mentions_of(tree: CommitTree, paths: Sequence[str], selections: Sequence[Selection]) -> dict[str, frozenset[str]]:
    """The words of expressions that may fit tests of a file, for each file of tests.

    Args:
        tree: the commit.
        paths: the files of tests.
        selections: the expressions.
    """
    sought = {(word, selection.marks) for selection in selections for word in selection.words}
    if not sought:
        return {}
    tests = set(paths)
    helpers = [path for path in tree.files if path.endswith(".py") and path not in tests]
    everywhere = {word for path in helpers for word, _ in sought if _marks(tree.text(path), word)}
    found = {}
    for path in paths:
        text = tree.text(path)
        near = {word for word, marks in sought if (_marks(text, word) if marks else word in text.lower())}
        found[path] = frozenset(near | everywhere)
    return found


def _marks(text: str, word: str) -> bool:
    """Whether a file may give a test a mark or keyword."""
    lowered = text.lower()
    if word not in lowered or "pytest" not in lowered:
        return False
    return f"mark.{word}" in lowered or MARKING.search(text) is not None


def _selection(expression: str, *, marks: bool) -> Selection:
    words: list[str] = []

    def replaced(match: re.Match[str]) -> str:
        word = match.group()
        if word in OPERATORS:
            return word
        words.append(word.partition("(")[0].lower())
        return "False"

    text = WORD.sub(replaced, expression)
    try:
        keeps_others = _value(parse_expression(text))
    except (SyntaxError, ValueError):
        keeps_others = False
    return Selection(marks, tuple(dict.fromkeys(words)), keeps_others)


def _value(node: ast.expr) -> bool:
    """The value of an expression of constants; ``ValueError`` for any other."""
    match node:
        case ast.Constant(value=bool() as value):
            return value
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand)
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_value(value) for value in values)
        case ast.BoolOp(values=values):
            return any(_value(value) for value in values)
        case _:
            raise ValueError(ast.dump(node))
