"""The tests that a Python file declares, found in its syntax tree: names, and whether their presence is certain.

A name is certain when nothing in the file can keep pytest from collecting it once the file was imported: it is bound
once and unconditionally, every decorator is known to leave a test a test, and every base class is known. All else is
declared, but not certain.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence

import msgspec

from actors.verifier.suite.pytest_config import matches_name

__all__ = ["Class", "Declared", "FileRules", "Names", "Resolve", "declared_tests", "dotted", "read_module"]

KNOWN_DECORATORS = (
    *("pytest.mark.", "unittest.skip", "unittest.expectedFailure", "unittest.case.skip", "unittest.mock.patch"),
    *("mock.patch", "hypothesis.given", "hypothesis.settings", "hypothesis.example", "hypothesis.seed"),
    *("hypothesis.reproduce_failure", "freezegun.freeze_time", "responses.activate"),
)
"""Beginnings of the full names of decorators that give back a test under the same name."""

UNITTEST_BASES = frozenset(
    {"unittest.TestCase", "unittest.IsolatedAsyncioTestCase", "unittest.case.TestCase", "django.test.TestCase"}
    | {"django.test.SimpleTestCase", "django.test.TransactionTestCase", "twisted.trial.unittest.TestCase"}
)
NEUTRAL_BASES = frozenset({"object", "typing.Generic"})
PROTOCOL = "typing.Protocol"
REWRITING = frozenset({"globals", "exec", "vars", "locals"})
"""Functions through which code can add and remove names."""


class FileRules(msgspec.Struct, frozen=True, kw_only=True):
    """Which names are tests: ``python_classes`` and ``python_functions`` of the configuration."""

    classes: tuple[str, ...]
    functions: tuple[str, ...]


class Declared(msgspec.Struct, frozen=True):
    """One test: its name with the classes that it is in, as in a node id (``TestShop::test_opens``)."""

    name: str
    certain: bool


class Class:
    """A class of a module. ``unittest`` and ``constructed`` (it has ``__init__`` or ``__new__``, own or inherited) and
    ``wanted`` (``__test__``) are ``None`` when they cannot be known."""

    def __init__(self, body: Names) -> None:
        self.body = body
        self.unittest: bool | None = False
        self.constructed: bool | None = False
        self.wanted: bool | None = True
        self.named_as_test = False
        self.known = True


Function = ast.FunctionDef | ast.AsyncFunctionDef


class Bound(msgspec.Struct):
    """What a name stands for: a function, a class, or anything else (``None``)."""

    what: Function | Class | None
    certain: bool


Resolve = Callable[[str], "Class | None"]


def declared_tests(tree: ast.Module, rules: FileRules, *, resolve: Resolve) -> list[Declared]:
    """The tests of one file.

    Args:
        tree: its syntax tree.
        rules: which names are tests.
        resolve: the class that a full name (``tests.base.Case``; one that begins with a dot is relative) stands for in
            another file of the commit, if that is known.
    """
    module = read_module(tree, resolve=resolve)
    if module.wanted is False:
        return []
    return [
        Declared(test.name, test.certain and module.wanted is True)
        for test in _tests(module, rules, within_unittest=False)
    ]


def read_module(tree: ast.Module, *, resolve: Resolve) -> Names:
    """The names that a file binds at its top level."""
    module = Names(resolve, outer=None)
    module.read(tree.body, certain=True)
    return module


class Names:
    """The names bound by a module's or a class's body, read statement by statement in their order."""

    def __init__(self, resolve: Resolve, *, outer: Names | None) -> None:
        self.bound: dict[str, Bound] = {}
        self.imports: dict[str, str] = {} if outer is None else dict(outer.imports)
        self.marks: set[str] = set() if outer is None else set(outer.marks)
        self.wanted: bool | None = True
        self.says_wanted = False
        self._resolve, self._outer = resolve, outer

    def read(self, statements: Sequence[ast.stmt], *, certain: bool) -> None:
        """Takes in statements; ``certain``: they are executed whenever the file is."""
        for statement in statements:
            self._read_one(statement, certain=certain)

    def find_class(self, name: str) -> Class | None:
        """The class that a dotted name stands for here, in this file or another."""
        first, _, rest = name.partition(".")
        found = self.bound.get(first)
        if found is not None and not rest and isinstance(found.what, Class):
            return found.what if found.certain else None
        if self._outer is not None and found is None and first in self._outer.bound:
            return self._outer.find_class(name)
        return self._resolve(self.full_name(name)) if first in self.imports else None

    def full_name(self, name: str) -> str:
        """A dotted name with its first part replaced by what was imported under it."""
        first, dot, rest = name.partition(".")
        return self.imports.get(first, first) + dot + rest

    def keeps_tests(self, decorator: ast.expr) -> bool:
        """Whether a decorator is known to give back a test under the same name."""
        name = dotted(decorator.func if isinstance(decorator, ast.Call) else decorator)
        if name in self.marks:
            return True
        return name.partition(".")[0] in self.imports and self.full_name(name).startswith(KNOWN_DECORATORS)

    def _read_one(self, statement: ast.stmt, *, certain: bool) -> None:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                sure = all(map(self.keeps_tests, statement.decorator_list)) and not _yields(statement)
                self._bind(statement.name, statement, certain=certain and sure)
            case ast.ClassDef():
                self._bind(statement.name, self._class(statement), certain=certain)
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                pass
            case ast.Import() | ast.ImportFrom():
                self._import(statement, certain=certain)
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                self._assign(statement, certain=certain)
            case ast.Delete():
                for name in map(dotted, statement.targets):
                    if certain:
                        self.bound.pop(name, None)
                    else:
                        self._doubt(name)
            case _:
                self._read_block(statement)
        if not isinstance(statement, Function | ast.ClassDef):
            self._notice_rewriting(statement)

    def _read_block(self, statement: ast.stmt) -> None:
        """A compound statement: what is in it is bound perhaps."""
        for target in _targets(statement):
            self._bind(target, None, certain=False)
        for part in ast.iter_child_nodes(statement):
            if isinstance(part, ast.stmt):
                self._read_one(part, certain=False)
            elif isinstance(part, ast.ExceptHandler | ast.match_case):
                self.read(part.body, certain=False)

    def _bind(self, name: str, what: Function | Class | None, *, certain: bool) -> None:
        before = self.bound.get(name)
        if certain or before is None:
            self.bound[name] = Bound(what, certain)
        else:
            self.bound[name] = Bound(before.what if before.what is not None else what, False)

    def _doubt(self, name: str) -> None:
        if name in self.bound:
            self.bound[name].certain = False

    def _import(self, statement: ast.Import | ast.ImportFrom, *, certain: bool) -> None:
        for alias in statement.names:
            if alias.name == "*":
                for bound in self.bound.values():
                    bound.certain = False
                continue
            here = alias.asname or alias.name.partition(".")[0]
            if isinstance(statement, ast.Import):
                self.imports[here] = alias.name if alias.asname else here
            else:
                module = f"{statement.module}." if statement.module else ""
                self.imports[here] = "." * statement.level + module + alias.name
            if here in self.bound or self._outer is not None:
                self._bind(here, None, certain=certain)

    def _assign(self, statement: ast.Assign | ast.AnnAssign | ast.AugAssign, *, certain: bool) -> None:
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        value = statement.value
        for target in targets:
            if isinstance(target, ast.Name) and value is not None:
                name = target.id
                if name == "__test__":
                    self.says_wanted = True
                    self.wanted = bool(value.value) if isinstance(value, ast.Constant) and certain else None
                if self.keeps_tests(value):
                    self.marks.add(name)
                before = self.bound.get(name)
                again = before is not None and any(
                    isinstance(part, ast.Name) and part.id == name for part in ast.walk(value)
                )
                self._bind(name, before.what if again and before else None, certain=certain and not again)
                if again:
                    self._doubt(name)
            else:
                for part in ast.walk(target):
                    if isinstance(part, ast.Name):
                        self._doubt(part.id)

    def _notice_rewriting(self, statement: ast.stmt) -> None:
        """Code that can add or remove names by itself makes those in its reach doubtful."""
        for call in _calls(statement):
            name = dotted(call.func)
            if name in REWRITING:
                for bound in self.bound.values():
                    bound.certain = False
            elif name in ("setattr", "delattr") and call.args:
                subject = dotted(call.args[0]).partition(".")[0]
                for key, bound in self.bound.items():
                    bound.certain = bound.certain and bool(subject) and key != subject

    def _class(self, node: ast.ClassDef) -> Class:
        body = Names(self._resolve, outer=self)
        body.read(node.body, certain=True)
        made = Class(body)
        made.known = not node.keywords and all(map(self.keeps_tests, node.decorator_list))
        constructors = [body.bound[name] for name in ("__init__", "__new__") if name in body.bound]
        inherited: dict[str, Bound] = {}
        for base in reversed(node.bases):
            self._inherit(made, base, inherited)
        for name, bound in inherited.items():
            body.bound.setdefault(name, bound)
        if constructors:
            made.constructed = any(found.certain for found in constructors) or None
        if body.says_wanted:
            made.wanted, made.named_as_test = body.wanted, body.wanted is True
        return made

    def _inherit(self, made: Class, base: ast.expr, inherited: dict[str, Bound]) -> None:
        name = dotted(base.value if isinstance(base, ast.Subscript) else base)
        full = self.full_name(name) if name else ""
        parent = self.find_class(name) if name and full not in (PROTOCOL, *NEUTRAL_BASES, *UNITTEST_BASES) else None
        if full in UNITTEST_BASES:
            made.unittest = True
        elif parent is not None:
            inherited.update(parent.body.bound)
            made.known = made.known and parent.known
            made.unittest = True if parent.unittest or made.unittest else parent.unittest
            made.constructed = parent.constructed if made.constructed is False else made.constructed
            made.wanted = parent.wanted if made.wanted is True else made.wanted
            made.named_as_test = made.named_as_test or parent.named_as_test
        elif full == PROTOCOL:
            made.constructed = None if made.constructed is False else made.constructed
        elif full not in NEUTRAL_BASES:
            made.known = False
            made.unittest = True if made.unittest else None
            made.constructed = None if made.constructed is False else made.constructed


def _tests(names: Names, rules: FileRules, *, within_unittest: bool) -> Iterator[Declared]:
    functions = ("test",) if within_unittest else rules.functions
    for name, bound in names.bound.items():
        if isinstance(bound.what, Function):
            if matches_name(name, functions) and not _is_fixture(bound.what):
                yield Declared(name, bound.certain)
        elif isinstance(bound.what, Class) and not within_unittest:
            collected = _is_collected(name, bound.what, rules)
            if collected is not False:
                certain = bound.certain and bool(collected)
                for test in _tests(bound.what.body, rules, within_unittest=bound.what.unittest is True):
                    yield Declared(f"{name}::{test.name}", test.certain and certain)


def _is_collected(name: str, found: Class, rules: FileRules) -> bool | None:
    """Whether pytest looks for tests in a class; ``None``: perhaps."""
    if found.wanted is False:
        return False
    if found.unittest is True:
        answer: bool | None = True
    elif found.constructed is True or not (matches_name(name, rules.classes) or found.named_as_test):
        answer = False if found.unittest is False else None
    else:
        answer = None if found.unittest is None or found.constructed is None else True
    return None if answer and not (found.known and found.wanted) else answer


def _is_fixture(node: Function) -> bool:
    return any(
        dotted(decorator.func if isinstance(decorator, ast.Call) else decorator).endswith("fixture")
        for decorator in node.decorator_list
    )


def _yields(node: Function) -> bool:
    """Whether a function is a generator."""
    queue: list[ast.AST] = list(node.body)
    while queue:
        part = queue.pop()
        if isinstance(part, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(part, Function | ast.Lambda | ast.ClassDef):
            queue += ast.iter_child_nodes(part)
    return False


def _targets(statement: ast.stmt) -> list[str]:
    """Names that a loop or ``with`` binds."""
    if isinstance(statement, ast.For | ast.AsyncFor):
        found: list[ast.AST] = [statement.target]
    elif isinstance(statement, ast.With | ast.AsyncWith):
        found = [item.optional_vars for item in statement.items if item.optional_vars]
    else:
        found = []
    return [part.id for target in found for part in ast.walk(target) if isinstance(part, ast.Name)]


def _calls(statement: ast.stmt) -> Iterator[ast.Call]:
    """The calls that a statement makes when it is executed, not those in functions that it defines."""
    queue: list[ast.AST] = [statement]
    while queue:
        part = queue.pop()
        if isinstance(part, ast.Call):
            yield part
        if not isinstance(part, Function | ast.Lambda):
            queue += ast.iter_child_nodes(part)


def dotted(node: ast.AST) -> str:
    """``a.b.c`` as written, or nothing for an expression that is no such name."""
    if isinstance(node, ast.Attribute):
        left = dotted(node.value)
        return f"{left}.{node.attr}" if left else ""
    return node.id if isinstance(node, ast.Name) else ""
