"""What a commit's own ``conftest.py`` files and plug-ins do to the collection of its tests, as far as can be read.

None of them is run. A hook that can hide files or names makes the expectation uncertain in its reach; one that takes
items away explains that collected tests are not run. Hooks that only add or mark do neither.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Iterable, Iterator

import msgspec

from actors.verifier.suite.commit import CommitTree
from actors.verifier.suite.declared_tests import dotted
from actors.verifier.suite.pytest_config import PytestConfig
from actors.verifier.suite.syntax import parsed

__all__ = ["OwnHooks", "parsed", "read_hooks"]

HIDING_FILES = frozenset({"pytest_ignore_collect", "pytest_collect_directory", "pytest_collectstart"})
HIDING_NAMES = frozenset({"pytest_pycollect_makeitem", "pytest_pycollect_makemodule", "pytest_make_collect_report"})
REPLACING = frozenset({"pytest_collection", "pytest_cmdline_main"})
"""Hooks whose answer, if they give one, takes the place of what pytest would do."""
CONFIGURING = frozenset(
    {"pytest_configure", "pytest_cmdline_preparse", "pytest_cmdline_parse", "pytest_load_initial_conftests"}
    | {"pytest_sessionstart", "pytest_plugin_registered"}
)
REACH = frozenset({"args", "ignore", "ignore_glob", "file_or_dir", "testpaths", "_inicache", "collect_ignore"})
CHOICE = frozenset({"keyword", "markexpr", "deselect"})
TAKING = frozenset({"remove", "pop", "clear"})
HARMLESS = frozenset(
    {"len", "enumerate", "sorted", "list", "iter", "zip", "reversed", "set", "tuple", "any", "all", "print", "map"}
)
"""Functions to which a list of items can be given without any being taken from it."""

ENTRY_POINTS = re.compile(
    r"""pytest11\s*["']?\s*\]?\s*[=:]?\s*[\[{("']*\s*((?:["']?[\w.-]+["']?\s*=\s*["']?[\w.]+(?::\w+)?["']?[\s,\])}]*)+)"""
)
MODULE = re.compile(r"""=\s*["']?([\w.]+)""")


class OwnHooks(msgspec.Struct, kw_only=True):
    """``hidden``: folders (``""``: everything) below which a hook may hide files; ``renamed``: below which it may hide
    names of files that are collected; ``ignored`` and ``ignored_globs``: paths that ``conftest.py`` files leave out for
    sure; ``doubtful``: paths and patterns that they leave out perhaps. ``deselecting``: why collected tests may not be
    run; ``words``: what the hooks that do so speak of, such as marks. ``reasons``: all of this for people."""

    hidden: list[str] = []
    renamed: list[str] = []
    ignored: list[str] = []
    ignored_globs: list[str] = []
    doubtful: list[str] = []
    deselecting: list[str] = []
    words: set[str] = set()
    reasons: list[str] = []


def read_hooks(tree: CommitTree, config: PytestConfig) -> OwnHooks:
    """What the ``conftest.py`` files and own plug-ins of a commit do."""
    found = OwnHooks()
    conftests = [path for path in tree.files if posixpath.basename(path) == "conftest.py"]
    modules = [name for name in config.options.plugins if not name.startswith("no:")]
    for path in conftests:
        module = parsed(tree.text(path))
        if module is None:
            _hide(found, posixpath.dirname(path), f"{path} cannot be parsed")
            continue
        _read(found, module, path=path, folder=posixpath.dirname(path))
        modules += _plugins(module)
    modules += entry_points(tree)
    for path in _files_of(tree, modules):
        module = parsed(tree.text(path))
        if module is not None and path not in conftests:
            _read(found, module, path=path, folder="")
    return found


def entry_points(tree: CommitTree) -> list[str]:
    """Modules that the commit's packages register as pytest plug-ins."""
    found: list[str] = []
    for path in tree.files:
        if posixpath.basename(path) in ("pyproject.toml", "setup.cfg", "setup.py"):
            for match in ENTRY_POINTS.finditer(tree.text(path)):
                found += MODULE.findall(match.group(1))
    return found


def _files_of(tree: CommitTree, modules: Iterable[str]) -> Iterator[str]:
    """The files of the commit that modules of these names can be."""
    tails = [name.replace(".", "/") for name in set(modules)]
    ends = tuple(end for tail in tails for end in (f"/{tail}.py", f"/{tail}/__init__.py"))
    return (path for path in tree.files if ends and ("/" + path).endswith(ends))


def _plugins(module: ast.Module) -> Iterator[str]:
    for statement in module.body:
        if any(dotted(target) == "pytest_plugins" for target in getattr(statement, "targets", [])):
            yield from _strings(statement)


def _read(found: OwnHooks, module: ast.Module, *, path: str, folder: str) -> None:
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            _read_hook(found, node, path=path, folder=folder)
    for statement in module.body:
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) and any(
            name.startswith("collect_ignore") for name in _names(statement)
        ):
            _read_ignored(found, statement, path=path, folder=folder)


def _read_hook(found: OwnHooks, node: ast.FunctionDef | ast.AsyncFunctionDef, *, path: str, folder: str) -> None:
    if node.name in HIDING_FILES or (node.name in REPLACING and _answers(node)):
        _hide(found, folder if node.name in HIDING_FILES else "", f"{path} has {node.name}")
    elif node.name in HIDING_NAMES:
        _hide(found, folder, f"{path} has {node.name}")
        found.renamed.append(folder)
    elif node.name in CONFIGURING or node.name in REPLACING:
        touched = set(_attributes(node))
        if touched & REACH:
            _hide(found, "", f"{path}: {node.name} may change where tests are looked for")
        if touched & CHOICE:
            _deselect(found, f"{path}: {node.name} may change which tests are chosen")
    elif node.name == "pytest_collection_modifyitems" and _takes_items(node):
        _deselect(found, f"{path}: pytest_collection_modifyitems takes tests away")
        found.words |= {*_strings(node), *_attributes(node)}
    elif node.name == "pytest_generate_tests":
        found.reasons.append(f"{path} makes parameters of tests")


def _hide(found: OwnHooks, folder: str, reason: str) -> None:
    found.hidden.append(folder)
    found.reasons.append(reason)


def _deselect(found: OwnHooks, reason: str) -> None:
    found.deselecting.append(reason)
    found.reasons.append(reason)


def _read_ignored(found: OwnHooks, statement: ast.stmt, *, path: str, folder: str) -> None:
    strings = [posixpath.normpath(posixpath.join(folder, text)) for text in _strings(statement)]
    if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.List | ast.Tuple):
        literal = all(isinstance(item, ast.Constant) for item in statement.value.elts)
        if literal and {dotted(target) for target in statement.targets} == {"collect_ignore"}:
            found.ignored += strings
            return
        if literal and {dotted(target) for target in statement.targets} == {"collect_ignore_glob"}:
            found.ignored_globs += strings
            return
    if strings:
        found.doubtful += strings
        found.reasons.append(f"{path} may leave out {', '.join(strings[:3])}")
    elif not (isinstance(statement, ast.AnnAssign) and statement.value is None):
        _hide(found, folder, f"{path} computes what is left out")


def _answers(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function may return anything but ``None``."""
    returned = [part.value for part in ast.walk(node) if isinstance(part, ast.Return) and part.value is not None]
    return any(not (isinstance(value, ast.Constant) and value.value is None) for value in returned)


def _takes_items(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a hook that gets ``items`` may take some away."""
    for part in ast.walk(node):
        if isinstance(part, ast.Subscript) and dotted(part.value) == "items" and not isinstance(part.ctx, ast.Load):
            return True
        if isinstance(part, ast.Attribute) and part.attr == "pytest_deselected":
            return True
        if isinstance(part, ast.Call):
            subject, _, method = dotted(part.func).rpartition(".")
            if subject == "items" and method in TAKING:
                return True
            given = [*part.args, *(keyword.value for keyword in part.keywords)]
            if method not in HARMLESS and any(dotted(argument) == "items" for argument in given):
                return True
    return False


def _strings(node: ast.AST) -> Iterator[str]:
    return (
        part.value
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value
    )


def _names(node: ast.AST) -> Iterator[str]:
    return (part.id for part in ast.walk(node) if isinstance(part, ast.Name))


def _attributes(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Attribute):
            yield part.attr
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value
