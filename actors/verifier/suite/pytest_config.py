"""The pytest configuration that a commit has for its tests, read without running anything of it.

Which files pytest looks at, and which names in them are tests, follows from at most one configuration file and from
the command-line options that it adds. What cannot be told apart from here (an option of a plug-in that may or may not
take the next word as its value) is kept as a doubt, and a doubt never turns into an expectation.
"""

from __future__ import annotations

import configparser
import fnmatch
import posixpath
import shlex
import tomllib
from collections.abc import Iterable, Sequence

import msgspec

from actors.verifier.suite.commit import CommitTree

__all__ = ["NAMES", "Options", "PytestConfig", "matches_name", "matches_path", "parse_options", "read_config"]

NAMES = ("pytest.toml", ".pytest.toml", "pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")
NORECURSEDIRS = ("*.egg", ".*", "_darcs", "build", "CVS", "dist", "node_modules", "venv", "{arch}")

WITH_VALUE = frozenset(
    {"-k", "-m", "-p", "-c", "-n", "-o", "-r", "-W", "--maxfail", "--tb", "--durations", "--durations-min"}
    | {"--ignore", "--ignore-glob", "--deselect", "--rootdir", "--confcutdir", "--basetemp", "--junitxml"}
    | {"--junit-xml", "--junit-prefix", "--cov-report", "--cov-config", "--cov-fail-under", "--cov-context"}
    | {"--timeout", "--timeout-method", "--import-mode", "--doctest-glob", "--doctest-report", "--doctest-encoding"}
    | {"--capture", "--color", "--code-highlight", "--log-level", "--log-format", "--log-date-format"}
    | {"--log-cli-level", "--log-cli-format", "--log-file", "--log-file-level", "--dist", "--numprocesses"}
    | {"--maxprocesses", "--asyncio-mode", "--override-ini", "--verbosity", "--pythonwarnings", "--html", "--css"}
    | {"--reruns", "--reruns-delay", "--only-rerun", "--random-order-bucket", "--random-order-seed"}
    | {"--hypothesis-profile", "--hypothesis-seed", "--hypothesis-verbosity", "--benchmark-columns"}
    | {"--benchmark-sort", "--benchmark-group-by", "--benchmark-storage", "--config-file", "--ds", "--settings"}
    | {"--show-capture", "--pastebin", "--pdbcls", "--mypy-ini-file", "--mypy-config-file", "--snapshot-dir"}
    | {"--allow-hosts", "--cache-show", "--dc", "--log-auto-indent"}
)
"""Options whose next word is their value."""

SELECTING = frozenset(
    {"--lf", "--last-failed", "--sw", "--stepwise", "--testmon", "--picked", "--splits", "--shard-id"}
)
"""Options, besides ``-k``, ``-m`` and ``--deselect``, that leave out tests which were collected."""

MOVING = frozenset(
    {"-c", "--config-file", "--rootdir", "--confcutdir", "--testmon", "--picked", "--collect-only", "--co"}
)
"""Options after which nothing that is said here about the reach of a run is certain."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the options that a configuration adds say about the choice of tests.

    ``paths``: words that are paths for sure; ``doubtful_paths``: words that are a path, or the value of an option that
    is not known here. ``keywords``, ``marks``: expressions of ``-k`` and ``-m``; ``selections``: other options that
    leave tests out.
    """

    paths: tuple[str, ...] = ()
    doubtful_paths: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    ignored_globs: tuple[str, ...] = ()
    deselected: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    selections: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    moving: tuple[str, ...] = ()
    pyargs: bool = False
    doctest_modules: bool = False


class PytestConfig(msgspec.Struct, frozen=True, kw_only=True):
    """``file``: the file that holds the configuration, empty if none does; ``root``: pytest's root folder, ``""`` for
    the checkout itself; ``folder``: where the tests are started. ``problem``: why the file cannot be read."""

    file: str
    root: str
    folder: str
    testpaths: tuple[str, ...] = ()
    python_files: tuple[str, ...] = ("test_*.py", "*_test.py")
    python_classes: tuple[str, ...] = ("Test",)
    python_functions: tuple[str, ...] = ("test",)
    norecursedirs: tuple[str, ...] = NORECURSEDIRS
    options: Options = Options()
    problem: str = ""


def read_config(tree: CommitTree, *, primary_root: str) -> PytestConfig:
    """The configuration of a run that is started in ``primary_root`` (``.`` for the checkout) without arguments."""
    folder = _folder(primary_root)
    for place in _upwards(folder):
        for name in NAMES:
            path = posixpath.join(place, name)
            if path not in tree.files:
                continue
            try:
                values = _values(name, tree.text(path))
                if values is not None:
                    return _made(values, file=path, root=place, folder=folder)
            except (configparser.Error, tomllib.TOMLDecodeError, ValueError) as exc:
                reason = str(exc).splitlines()[0]
                return PytestConfig(file=path, root=place, folder=folder, problem=f"{path} cannot be read: {reason}")
    return PytestConfig(file="", root=_root_without_configuration(tree, folder), folder=folder)


def parse_options(words: Sequence[str]) -> Options:
    """What a list of pytest's command-line words says about the choice of tests."""
    found: dict[str, list[str]] = {name: [] for name in Options.__struct_fields__}
    flags = {"pyargs": False, "doctest_modules": False}
    after_unknown = False
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if not word.startswith("-") or word == "-":
            found["doubtful_paths" if after_unknown else "paths"].append(word)
            after_unknown = False
            continue
        name, value = _split(word)
        after_unknown = False
        if name in WITH_VALUE and value is None:
            value = queue.pop(0) if queue else ""
        elif value is None and name.startswith("--"):
            after_unknown = True
        _note(found, flags, name, value or "")
    lists = {name: tuple(values) for name, values in found.items() if name not in flags}
    return Options(**lists, **flags)  # type: ignore[arg-type]


def matches_name(name: str, patterns: Iterable[str]) -> bool:
    """Whether pytest takes a function's or class's name for one of ``python_functions`` or ``python_classes``."""
    return any(
        name.startswith(pattern) or (any(sign in pattern for sign in "*?[") and fnmatch.fnmatchcase(name, pattern))
        for pattern in patterns
    )


def matches_path(path: str, patterns: Iterable[str]) -> bool:
    """Whether a path fits one of ``python_files`` or ``norecursedirs``: its last name, or all of it for a pattern
    with a slash."""
    return any(
        fnmatch.fnmatchcase("/" + path, pattern if pattern.startswith("/") else "*/" + pattern)
        if "/" in pattern
        else fnmatch.fnmatchcase(posixpath.basename(path), pattern)
        for pattern in patterns
    )


def _note(found: dict[str, list[str]], flags: dict[str, bool], name: str, value: str) -> None:
    lists = {
        "-k": "keywords",
        "-m": "marks",
        "--ignore": "ignored",
        "--ignore-glob": "ignored_globs",
        "--deselect": "deselected",
        "-p": "plugins",
    }
    if name in lists:
        found[lists[name]].append(value)
    if name in ("-o", "--override-ini"):
        found["overridden"].append(value)
    if name in SELECTING:
        found["selections"].append(name)
    if name in MOVING:
        found["moving"].append(name)
    flag = name.removeprefix("--").replace("-", "_")
    if flag in flags:
        flags[flag] = True


def _split(word: str) -> tuple[str, str | None]:
    """An option's name, and its value if that is in the same word."""
    if word.startswith("--"):
        name, sign, value = word.partition("=")
        return name, value if sign else None
    if word[:2] in WITH_VALUE and len(word) > 2:
        return word[:2], word[2:].removeprefix("=")
    return word, None


def _values(name: str, text: str) -> dict[str, object] | None:
    """The settings in a file of that name; ``None`` when it has no section for pytest."""
    if name.endswith(".toml"):
        document = tomllib.loads(text)
        if name != "pyproject.toml":
            return _table(document.get("pytest", {}))
        tool = _table(document.get("tool", {}))
        section = _table(tool.get("pytest", {})) if "pytest" in tool else None
        if section is None or "ini_options" not in section:
            return section
        return _table(section["ini_options"])
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    section_name = "tool:pytest" if name == "setup.cfg" else "pytest"
    if parser.has_section(section_name):
        return dict(parser.items(section_name))
    return {} if name.endswith("pytest.ini") else None


def _table(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError("its section for pytest is no table")  # noqa: TRY004 - reported with the parsers' own errors
    return value


def _made(values: dict[str, object], *, file: str, root: str, folder: str) -> PytestConfig:
    options = parse_options(_words(values.get("addopts", "")))
    for setting in options.overridden:
        name, _, value = setting.partition("=")
        values[name.strip()] = value
    made = PytestConfig(file=file, root=root, folder=folder, options=options)
    names = ("testpaths", "python_files", "python_classes", "python_functions", "norecursedirs")
    return msgspec.structs.replace(made, **{name: tuple(_words(values[name])) for name in names if name in values})


def _words(value: object) -> list[str]:
    if isinstance(value, list):
        return [str(word) for word in value]
    return shlex.split(str(value))


def _folder(primary_root: str) -> str:
    path = posixpath.normpath(primary_root or ".")
    return "" if path == "." else path


def _upwards(folder: str) -> list[str]:
    """A folder and those above it, up to the checkout."""
    places = [folder]
    while places[-1]:
        places.append(posixpath.dirname(places[-1]))
    return places


def _root_without_configuration(tree: CommitTree, folder: str) -> str:
    """The nearest folder upwards that has a ``setup.py``, else the folder itself."""
    return next((place for place in _upwards(folder) if posixpath.join(place, "setup.py") in tree.files), folder)
