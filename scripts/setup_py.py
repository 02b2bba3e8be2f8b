"""What a ``setup.py`` says without running it: arguments of ``setup(...)`` that can be read off the source.

Guarantees: nothing of the project is executed or imported. Read are literals, names assigned once at module level, sums
of those, ``dict(...)``, ``list(...)``, ``"...".split()`` and dictionaries spread into the call; everything else counts
as computed.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Mapping

__all__ = ["COMPUTED", "setup_arguments"]

COMPUTED = object()
"""Stands for an argument that is there and cannot be read without running the file."""

MAX_DEPTH = 50


def setup_arguments(source: str) -> Mapping[str, object]:
    """The keyword arguments of the first call of ``setup``; empty if there is none or the file does not parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return {}
    names = _assignments(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node.func) == "setup":
            return _keywords(node, names, depth=0)
    return {}


def _assignments(tree: ast.Module) -> dict[str, ast.expr]:
    names: dict[str, ast.expr] = {}
    often: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            often.update({name} & names.keys())
            names[name] = node.value
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            often.add(node.target.id)
    return {name: value for name, value in names.items() if name not in often}


def _called(function: ast.expr) -> str:
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _keywords(call: ast.Call, names: Mapping[str, ast.expr], *, depth: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for keyword in call.keywords:
        value = _value(keyword.value, names, depth=depth + 1)
        if keyword.arg is not None:
            found[keyword.arg] = value
        elif isinstance(value, dict):
            found.update((name, entry) for name, entry in value.items() if isinstance(name, str))
    return found


def _value(node: ast.expr, names: Mapping[str, ast.expr], *, depth: int) -> object:  # noqa: PLR0911 - one a node kind
    if depth > MAX_DEPTH:
        return COMPUTED
    match node:
        case ast.Constant(value):
            return value
        case ast.Name(id=name) if name in names:
            return _value(names[name], names, depth=depth + 1)
        case ast.List(elts) | ast.Tuple(elts) | ast.Set(elts):
            return _sequence(elts, names, depth=depth)
        case ast.Dict():
            return _mapping(node, names, depth=depth)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _sum(_value(left, names, depth=depth + 1), _value(right, names, depth=depth + 1))
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            return _keywords(node, names, depth=depth)
        case ast.Call(func=ast.Name(id="list" | "tuple" | "sorted" | "set"), args=[only], keywords=[]):
            return _value(only, names, depth=depth + 1)
        case ast.Call(func=ast.Attribute(value=text, attr="split" | "splitlines"), args=[], keywords=[]):
            read = _value(text, names, depth=depth + 1)
            return read.split() if isinstance(read, str) else COMPUTED
        case _:
            return COMPUTED


def _sequence(entries: list[ast.expr], names: Mapping[str, ast.expr], *, depth: int) -> object:
    found: list[object] = []
    for entry in entries:
        starred = isinstance(entry, ast.Starred)
        value = _value(entry.value if isinstance(entry, ast.Starred) else entry, names, depth=depth + 1)
        if value is COMPUTED or (starred and not isinstance(value, list)):
            return COMPUTED
        found += value if starred and isinstance(value, list) else [value]
    return found


def _mapping(node: ast.Dict, names: Mapping[str, ast.expr], *, depth: int) -> object:
    found: dict[object, object] = {}
    for key, entry in zip(node.keys, node.values, strict=True):
        value = _value(entry, names, depth=depth + 1)
        if key is None:
            found.update(value if isinstance(value, dict) else {})
            continue
        name = _value(key, names, depth=depth + 1)
        if isinstance(name, str):
            found[name] = value
    return found


def _sum(left: object, right: object) -> object:
    if isinstance(left, list) and isinstance(right, list):
        return left + right
    if isinstance(left, str) and isinstance(right, str):
        return left + right
    return COMPUTED
