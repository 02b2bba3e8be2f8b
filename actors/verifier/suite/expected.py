"""The tests that a commit has, found from outside: from its files alone, without running anything of it.

The list is what honest runs are held against (``collection.py``). So it errs on one side only: a test that is called
certain is collected by every pytest once its file was imported, and a file that is called certain is looked at by every
run in that folder. What only may be so is listed too, as uncertain, with reasons for people.
"""

from __future__ import annotations

import ast
import fnmatch
import posixpath
import re
from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from actors.verifier.suite.commit import CommitTree
from actors.verifier.suite.declared_tests import Class, Declared, FileRules, Names, declared_tests, read_module
from actors.verifier.suite.own_hooks import OwnHooks, read_hooks
from actors.verifier.suite.pytest_config import PytestConfig, matches_path, read_config
from actors.verifier.suite.selection import Selection, mentions_of, selections_of
from actors.verifier.suite.syntax import parsed

__all__ = ["Expected", "ExpectedTest", "expected_tests"]

LINK, SUBMODULE = "120000", "160000"
MARK = re.compile(r"\bmark\.(\w+)")


class ExpectedTest(msgspec.Struct, frozen=True):
    """One test of a commit: its file and its name with its classes (``TestShop::test_opens``). ``certain_in_file``: it
    is collected whenever its file is; ``certain``: and every run in that folder looks at the file."""

    file: str
    name: str
    certain: bool
    certain_in_file: bool


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What a commit says about its tests.

    ``deselecting``: why any collected test may not be run (options, hooks); ``deselected``: beginnings of node ids that
    the configuration takes out by name; ``selections``: its expressions, and ``mentions``: by file, the words of them
    that may fit tests there. ``marked``: files with marks that its hooks speak of when they take tests away.
    ``files``, ``links`` (target by path) and ``submodules`` are the commit's.
    ``reasons``: what makes the list uncertain.
    """

    config: PytestConfig
    tests: tuple[ExpectedTest, ...]
    deselecting: tuple[str, ...]
    deselected: tuple[str, ...]
    selections: tuple[Selection, ...]
    mentions: dict[str, frozenset[str]]
    marked: frozenset[str]
    reasons: tuple[str, ...]
    files: frozenset[str]
    links: dict[str, str]
    submodules: tuple[str, ...]

    @property
    def certain(self) -> tuple[ExpectedTest, ...]:
        """The tests whose presence is certain."""
        return tuple(test for test in self.tests if test.certain)


def expected_tests(tree: CommitTree, *, primary_root: str) -> Expected:
    """The tests of a commit, for a run of pytest without arguments in ``primary_root`` (``.`` for the checkout).

    Raises:
        InfraError: git failed.
    """
    config = read_config(tree, primary_root=primary_root)
    tree.preload(path for path in tree.files if path.endswith(".py"))
    hooks = read_hooks(tree, config)
    scope = _Scope(tree, config, hooks)
    rules = FileRules(classes=config.python_classes, functions=config.python_functions)
    classes = _Classes(tree)
    tests: list[ExpectedTest] = []
    unread: list[str] = []
    for path, entry in tree.files.items():
        reached = scope.reaches(path) if path.endswith(".py") and entry.mode not in (LINK, SUBMODULE) else "no"
        if reached == "no":
            continue
        module = classes.tree_of(path)
        if module is None:
            unread.append(path)
            continue
        for test in _once(declared_tests(module, rules, resolve=_Resolver(classes, path))):
            sure = test.certain and not scope.is_renamed(path)
            tests.append(ExpectedTest(path, test.name, sure and reached == "yes", sure))
    options = config.options
    selections = selections_of(keywords=options.keywords, marks=options.marks)
    choices = [f"{config.file} selects tests with {option}" for option in options.selections]
    wordy = [f"{config.file} selects tests with {expression!r}" for expression in (*options.keywords, *options.marks)]
    reasons = [*([config.problem] if config.problem else []), *hooks.reasons, *choices, *wordy, *scope.doubts]
    reasons += [f"{path} cannot be parsed" for path in unread]
    return Expected(
        config=config,
        tests=tuple(tests),
        deselecting=(*hooks.deselecting, *choices),
        deselected=options.deselected,
        selections=selections,
        mentions=mentions_of(tree, list(dict.fromkeys(test.file for test in tests)), selections),
        marked=frozenset(
            path
            for path in {test.file for test in tests}
            if hooks.words and hooks.words.intersection(MARK.findall(tree.text(path)))
        ),
        reasons=tuple(dict.fromkeys(reasons)),
        files=frozenset(path for path, entry in tree.files.items() if entry.mode != SUBMODULE),
        links={path: tree.text(path) for path, entry in tree.files.items() if entry.mode == LINK},
        submodules=tuple(path for path, entry in tree.files.items() if entry.mode == SUBMODULE),
    )


class _Scope:
    """Which files a run looks at."""

    def __init__(self, tree: CommitTree, config: PytestConfig, hooks: OwnHooks) -> None:
        self._config, self._hooks = config, hooks
        self._folders = {folder for path in tree.files for folder in _parents(path)}
        self._files = tree.files
        options = config.options
        self.doubts = [f"{config.file} has the option {name}" for name in options.moving]
        self.doubts += [f"{config.file}: {word!r} may be a path" for word in self._existing(options.doubtful_paths)]
        self._moved = bool(config.problem or options.moving)
        if options.pyargs:
            self._moved = True
            self.doubts.append(f"{config.file} has the option --pyargs")
        self._narrowed = self._existing(options.doubtful_paths)
        self._starts = self._start_paths()
        self._ignored = {*map(self._absolute, options.ignored), *hooks.ignored}
        self._ignored_globs = [*map(self._absolute, options.ignored_globs), *hooks.ignored_globs]

    def reaches(self, path: str) -> Literal["yes", "no", "perhaps"]:
        """Whether the file at a path is looked at."""
        if not any(self._reached_from(start, path) for start in self._starts) or self._is_ignored(path):
            return "no"
        places = ("", *_parents(path), path)
        doubtful = self._moved or any(folder in places for folder in self._hooks.hidden)
        doubtful = doubtful or (bool(self._narrowed) and not any(place in self._narrowed for place in places))
        for place in places[1:]:
            doubtful = doubtful or any(
                place == pattern or fnmatch.fnmatchcase(place, pattern) for pattern in self._hooks.doubtful
            )
        return "perhaps" if doubtful else "yes"

    def is_renamed(self, path: str) -> bool:
        """Whether a hook may hide names of the file at a path."""
        return any(folder in ("", *_parents(path)) for folder in self._hooks.renamed)

    def _start_paths(self) -> list[str]:
        """Files and folders that pytest starts from."""
        config = self._config
        if config.options.paths:
            return self._existing(config.options.paths)
        if config.testpaths and config.root == config.folder:
            found = [self._absolute(path) for path in config.testpaths]
            matched = sorted({place for pattern in found for place in self._glob(pattern)})
            if matched:
                return matched
        return [config.folder]

    def _existing(self, words: Iterable[str]) -> list[str]:
        paths = (self._absolute(word.partition("::")[0]) for word in words)
        return [path for path in paths if path in self._folders or path in self._files]

    def _absolute(self, path: str) -> str:
        """A path of the configuration, as one of the commit."""
        joined = posixpath.normpath(posixpath.join(self._config.folder, path))
        return "" if joined == "." else joined

    def _glob(self, pattern: str) -> Iterator[str]:
        if pattern == "" or not any(sign in pattern for sign in "*?["):
            return iter([pattern] if pattern in self._folders or pattern in self._files else [])
        parts = pattern.split("/")
        return (place for place in (*self._folders, *self._files) if _fits(place.split("/"), parts))

    def _reached_from(self, start: str, path: str) -> bool:
        if path == start:
            return True
        if start and not path.startswith(start + "/"):
            return False
        for folder in _parents(path):
            below = len(folder) > len(start) and folder != start
            if below and (matches_path(folder, self._config.norecursedirs) or self._is_special(folder)):
                return False
        return matches_path(path, self._config.python_files)

    def _is_special(self, folder: str) -> bool:
        """A folder that pytest passes over whatever the configuration says."""
        marks = (f"{folder}/pyvenv.cfg", f"{folder}/bin/activate", f"{folder}/Scripts/activate")
        return posixpath.basename(folder) == "__pycache__" or any(mark in self._files for mark in marks)

    def _is_ignored(self, path: str) -> bool:
        return any(
            place in self._ignored or any(fnmatch.fnmatchcase(place, pattern) for pattern in self._ignored_globs)
            for place in (*_parents(path), path)
        )


class _Classes:
    """Finds the classes of other files of the commit by the names under which a file imports them."""

    def __init__(self, tree: CommitTree) -> None:
        self._tree = tree
        self._trees: dict[str, ast.Module | None] = {}
        self._names: dict[str, Names | None] = {}

    def tree_of(self, path: str) -> ast.Module | None:
        """The syntax tree of a file, if it can be parsed."""
        if path not in self._trees:
            self._trees[path] = parsed(self._tree.text(path))
        return self._trees[path]

    def find(self, name: str, *, importer: str) -> Class | None:
        """The class of a full name, if exactly one file of the commit can be meant."""
        module, dot, class_name = name.rpartition(".")
        if module.strip(".") == "":
            module = module + dot
        path = self._path_of(module, importer=importer)
        names = self._names_of(path) if path is not None else None
        return names.find_class(class_name) if names is not None else None

    def _names_of(self, path: str) -> Names | None:
        if path not in self._names:
            self._names[path] = None  # what a file that imports itself in a circle gets
            tree = self.tree_of(path)
            if tree is not None:
                self._names[path] = read_module(tree, resolve=_Resolver(self, path))
        return self._names[path]

    def _path_of(self, module: str, *, importer: str) -> str | None:
        stem = module.lstrip(".")
        dots, tail = len(module) - len(stem), stem.replace(".", "/")
        ends = [f"{tail}.py", f"{tail}/__init__.py"] if tail else ["__init__.py"]
        places = dict.fromkeys(["", "src", "lib", *_parents(importer)])
        if dots:
            folder = importer
            for _ in range(dots):
                folder = posixpath.dirname(folder)
            places = dict.fromkeys([folder])
        found = [path for place in places for end in ends if (path := posixpath.join(place, end)) in self._tree.files]
        return found[0] if len(found) == 1 else None


class _Resolver:
    """A ``Resolve`` of ``declared.py`` for one importing file."""

    def __init__(self, classes: _Classes, importer: str) -> None:
        self._classes, self._importer = classes, importer

    def __call__(self, name: str) -> Class | None:
        return self._classes.find(name, importer=self._importer)


def _once(declared: Iterable[Declared]) -> list[Declared]:
    """Each name once; certain if any of its declarations is."""
    found: dict[str, bool] = {}
    for test in declared:
        found[test.name] = found.get(test.name, False) or test.certain
    return [Declared(name, certain) for name, certain in found.items()]


def _parents(path: str) -> tuple[str, ...]:
    """The folders that a path lies in, outermost first, without the checkout itself."""
    parts = path.split("/")[:-1]
    return tuple("/".join(parts[: number + 1]) for number in range(len(parts)))


def _fits(parts: list[str], pattern: list[str]) -> bool:
    """Whether a path fits a pattern of ``glob``, ``**`` included."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[number:], pattern[1:]) for number in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
