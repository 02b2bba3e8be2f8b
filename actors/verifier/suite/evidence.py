"""Which tests can tell, by failing, that the package's functions are gone: those that speak of one of them.

A test that never touches the package passes with it and without it, whoever built the image; it says nothing either
way. What a test speaks of is read from its text and the text that it reaches by name in its own file and in conftest
files: helpers, fixtures, set-up methods, constants. What cannot be read so counts as speaking, so that the errors made
here are on the strict side. The commit's files are read, never the image's.
"""

from __future__ import annotations

import ast
import posixpath
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from actors.verifier.suite.commit import CommitTree
from actors.verifier.suite.control import is_test_file
from actors.verifier.suite.syntax import parsed

__all__ = ["Functions", "speaking", "standing"]

Function = ast.FunctionDef | ast.AsyncFunctionDef
SET_UP = ("setup", "setUp", "teardown", "tearDown", "async_setup", "asyncSetUp", "asyncTearDown")
"""Beginnings of names of methods and functions that run around a test without being named by it."""


class Functions(msgspec.Struct, frozen=True):
    """What the package's own files define.

    ``packages``: parts of the names of its own files; ``names``: of functions, of classes that have any, and of what is
    made by running code; ``others``: of plain values and of classes without functions; ``modules``: parts of the names
    under which the commit's files are imported.
    """

    packages: frozenset[str]
    names: frozenset[str]
    others: frozenset[str]
    modules: frozenset[str]

    @classmethod
    def of(cls, tree: CommitTree, sources: Sequence[str]) -> Functions:
        """Reads the package's files, which are paths of the commit."""
        names: set[str] = set()
        plain: set[str] = set()
        classes: list[ast.ClassDef] = []
        for source in sources:
            module = parsed(tree.read(source))
            for node in _outside_functions(module) if module is not None else ():
                if isinstance(node, Function):
                    names.add(node.name)
                elif isinstance(node, ast.ClassDef):
                    classes.append(node)
                elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                    (plain if _is_plain(node.value) else names).update(_bound(node))
        names |= _with_functions(classes)
        own = {name for name in names if not _is_special(name)}
        parts = {part.removesuffix(".py") for path in tree.files for part in path.split("/")}
        packages = {part.removesuffix(".py") for source in sources for part in source.split("/")}
        others = (plain | {one.name for one in classes}) - own
        return cls(frozenset(packages), frozenset(own), frozenset(others), frozenset(parts))


def speaking(tree: CommitTree, functions: Functions, tests: Mapping[str, tuple[str, str]]) -> set[str]:
    """Of tests, those that speak of one of the package's functions.

    Args:
        tree: the commit.
        functions: the package's.
        tests: by node id, its file and its name there with its classes (``TestShop::test_opens``).

    Raises:
        InfraError: git failed.
    """
    files = _Files(tree, functions)
    return {nodeid for nodeid, (path, name) in tests.items() if files.speaks(path, name)}


def standing(tree: CommitTree, tests: Mapping[str, tuple[str, str]]) -> set[str]:
    """Of tests, those whose function is written in their file and class itself, not inherited from another.

    Args:
        tree: the commit.
        tests: as for ``speaking``.

    Raises:
        InfraError: git failed.
    """
    read = {path: parsed(tree.read(path)) for path in {path for path, _ in tests.values()}}
    return {nodeid for nodeid, (path, name) in tests.items() if _find(read[path], name) is not None}


class _Module:
    """One file: what it imports, and what stands at its top level."""

    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.imports: dict[str, tuple[str, str]] = {}
        """By the name here: the module, and the name that is imported from it (empty for a module)."""
        self.star = False
        self.top: dict[str, list[ast.AST]] = {}
        self.classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        self.always = [node for node in tree.body if isinstance(node, Function) and _runs_unasked(node)]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self.imports[alias.asname or alias.name.partition(".")[0]] = (alias.name, "")
            elif isinstance(node, ast.ImportFrom):
                module = "." * node.level + (node.module or "")
                self.star = self.star or any(alias.name == "*" for alias in node.names)
                self.imports.update({alias.asname or alias.name: (module, alias.name) for alias in node.names})
        for statement in tree.body:
            for name in _bound(statement):
                self.top.setdefault(name, []).append(statement)


class _Files:
    """The files of tests, read once each."""

    def __init__(self, tree: CommitTree, functions: Functions) -> None:
        self._tree, self._functions = tree, functions
        self._modules: dict[str, _Module | None] = {}

    def speaks(self, path: str, name: str) -> bool:
        """Whether a test, or what it reaches, names a function of the package."""
        module = self._module(path)
        node = _find(module.tree, name) if module is not None else None
        if module is None or node is None:
            return True
        holders = [module.classes[part] for part in name.split("::")[:-1] if part in module.classes]
        around = [one for holder in holders for one in _around(holder)]
        start = [(path, module, one) for one in (node, *module.always, *around)]
        return self._reaches([*start, *self._fixtures("", path)])

    def _reaches(self, queue: list[tuple[str, _Module, ast.AST]]) -> bool:
        seen: set[int] = set()
        while queue:
            place, here, node = queue.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            replaced = _replaced(node)
            for name, root in _named(node, here):
                if name not in replaced and self._is_function(name, root, here):
                    return True
                queue += [(place, here, found) for found in self._defined(name, here)]
                queue += self._fixtures(name, place)
        return False

    def _is_function(self, name: str, root: str, here: _Module) -> bool:
        """Whether a name may be a function of the package, or of a helper that may call one.

        Args:
            name: as used.
            root: the imported name that it is an attribute of, ``?`` for another value's, empty for a plain name.
            here: the file that uses it.
        """
        known = self._functions
        if root == "?":
            return name in known.names
        if root:
            return not self._is_foreign(root, here) and not self._is_value(name, root, here)
        if name in here.imports:
            original = here.imports[name][1]
            return bool(original) and not self._is_foreign(name, here) and not self._is_value(original, name, here)
        return here.star and name in known.names and name not in here.top

    def _is_value(self, name: str, imported_as: str, here: _Module) -> bool:
        """Whether a name of the commit's files is known to stand for something that runs none of the functions: what
        the package itself has under it is none of them, while a helper of the tests may call one."""
        known = self._functions
        if name in known.names:
            return False
        module, original = here.imports[imported_as]
        parts = f"{module}.{original}".split(".")
        of_package = parts[0] in known.packages and not any(is_test_file(f"{part}/x") for part in parts)
        return of_package or name in known.others or name in known.modules or _is_special(name)

    def _is_foreign(self, name: str, here: _Module) -> bool:
        """Whether what is imported under a name is none of the commit's files."""
        module = here.imports[name][0]
        return not module.startswith(".") and module.partition(".")[0] not in self._functions.modules

    def _defined(self, name: str, here: _Module) -> Iterator[ast.AST]:
        """What stands under a name in the same file: at its top level, or as a member of one of its classes."""
        yield from here.top.get(name, ())
        for holder in here.classes.values():
            yield from (one for one in holder.body if name in _bound(one))

    def _fixtures(self, name: str, path: str) -> Iterator[tuple[str, _Module, ast.AST]]:
        """Fixtures of that name in the conftest files above a file."""
        folder = posixpath.dirname(path)
        while True:
            place = posixpath.join(folder, "conftest.py")
            module = self._module(place) if place in self._tree.files else None
            if module is not None:
                yield from ((place, module, found) for found in (*module.top.get(name, ()), *module.always))
            if not folder:
                return
            folder = posixpath.dirname(folder)

    def _module(self, path: str) -> _Module | None:
        if path not in self._modules:
            tree = parsed(self._tree.read(path))
            self._modules[path] = _Module(tree) if tree is not None else None
        return self._modules[path]


def _named(node: ast.AST, here: _Module) -> Iterator[tuple[str, str]]:
    """Names that a piece of code uses, each with its root: see ``_Files._is_function``."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id, ""
        elif isinstance(part, ast.Attribute):
            root = part.value
            while isinstance(root, ast.Attribute):
                root = root.value
            yield part.attr, root.id if isinstance(root, ast.Name) and root.id in here.imports else "?"
        elif isinstance(part, ast.arg):
            yield part.arg, "?"
        elif isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value.isidentifier():
            yield part.value, "?"


def _replaced(node: ast.AST) -> set[str]:
    """Names that code gives as ``module.name`` in a text, as one does to put something else in their place."""
    texts = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str))
    return {text.rpartition(".")[2] for text in texts if "." in text and text.replace(".", "").isidentifier()}


def _find(tree: ast.Module | None, name: str) -> ast.AST | None:
    """The function of a test, by its name with its classes."""
    found: ast.AST | None = tree
    for part in name.split("::"):
        body = found.body if isinstance(found, ast.Module | ast.ClassDef) else []
        found = next(
            (one for one in reversed(body) if isinstance(one, Function | ast.ClassDef) and one.name == part), None
        )
    return found if isinstance(found, Function) else None


def _around(holder: ast.ClassDef) -> list[ast.AST]:
    """What runs around each test of a class."""
    return [one for one in holder.body if isinstance(one, Function) and (_runs_unasked(one))]


def _runs_unasked(node: Function) -> bool:
    fixture = any("autouse" in ast.dump(decorator) for decorator in node.decorator_list)
    return fixture or node.name.startswith(SET_UP)


def _bound(statement: ast.AST) -> list[str]:
    """Names that a statement binds, imports left out."""
    if isinstance(statement, Function | ast.ClassDef):
        return [statement.name]
    stored = (part for part in ast.walk(statement) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
    return [part.id for part in stored]


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those within functions."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, Function | ast.Lambda):
            yield from _outside_functions(child)


def _is_plain(value: ast.expr) -> bool:
    """Whether an expression is a value that runs nothing when it is used."""
    try:
        ast.literal_eval(value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _with_functions(classes: Sequence[ast.ClassDef]) -> set[str]:
    """Names of classes that have functions, their own or from another of these classes."""
    found = {one.name for one in classes if any(isinstance(part, Function) for part in one.body)}
    while True:
        more = {one.name for one in classes if one.name not in found and _last_names(one.bases) & found}
        if not more:
            return found
        found |= more


def _last_names(bases: Sequence[ast.expr]) -> set[str]:
    plain = (one.value if isinstance(one, ast.Subscript) else one for one in bases)
    return {
        one.attr if isinstance(one, ast.Attribute) else one.id
        for one in plain
        if isinstance(one, ast.Attribute | ast.Name)
    }
