"""What a commit's own configuration declares about its build: names, generated version files, native code, plug-ins.

Read from the files as text, never run; what only a run of ``setup.py`` could tell stays unknown, and callers then take
the strict side.
"""

from __future__ import annotations

import configparser
import posixpath
import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import cached_property

from actors.verifier.suite.commit import SUBMODULE, CommitTree

__all__ = ["CODE_SUFFIXES", "CONFIGURATION", "PYTEST_GROUP", "Declared", "below", "canonical", "is_extension"]

CODE_SUFFIXES = (".py", ".pyc", ".pyo", ".so", ".pyd")
CONFIGURATION = frozenset(
    {"pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg", "pyproject.toml", "setup.py"}
    | {"asv.conf.json", "asv.conf.jsonc", ".coveragerc", ".coveragerc.toml", "noxfile.py", "conftest.py", "tox.toml"}
)
"""Names of files that configure tests or benchmarks."""
PYTEST_GROUP = "pytest11"
BUILD_FILES = frozenset(
    {"pyproject.toml", "setup.py", "setup.cfg", "meson.build", "CMakeLists.txt", "Cargo.toml", "hatch_build.py"}
    | {"build.py", "_custom_build.py", "setupext.py", "entry_points.txt", "PKG-INFO"}
)
NATIVE = (
    *(".c", ".cc", ".cpp", ".cxx", ".pyx", ".pyx.in", ".rs", ".f", ".f90", ".f95", ".for", ".cu", ".m", ".mm"),
    *(".zig", ".go", ".i", ".pyf", ".d", ".nim", ".hs"),
)
NATIVE_BUILD = re.compile(r"cythonize|mypyc|ext_modules|cffi_modules|maturin|setuptools[_-]rust|pybind11|nanobind")
COMPILES_PYTHON = re.compile(r"cythoni[sz]e|mypyc|nuitka|hatch-cython|Cython", re.IGNORECASE)
VERSION_FILE = re.compile(
    r"""['"]?(?:write_to|version_file|version-file|build_to|versionfile_source|versionfile_build)['"]?"""
    r"""\s*[:=]\s*f?['"]([^'"\n]+)['"]"""
)
SETUP_NAME = re.compile(r"""(?:^|[\s(,{])['"]?name['"]?\s*[=:]\s*['"]([A-Za-z0-9][A-Za-z0-9._-]*)['"]""")
EXTENSION = re.compile(r"(?P<stem>[^.]+)(\.[A-Za-z0-9_-]+)*\.(so|pyd)")


def canonical(name: str) -> str:
    """A distribution's name as the packaging standards compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def below(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies below it; everything lies below the empty folder."""
    return folder in ("", ".") or path == folder or path.startswith(f"{folder}/")


def is_extension(name: str) -> str | None:
    """The module's name if a file name is that of a compiled extension module."""
    match = EXTENSION.fullmatch(name)
    return match["stem"] if match else None


class Declared:
    """What one commit declares. Reads on demand; ``InfraError`` when git fails."""

    def __init__(self, tree: CommitTree) -> None:
        self.tree = tree

    @cached_property
    def build_files(self) -> Mapping[str, str]:
        """Texts of the files that configure builds, wherever they lie."""
        paths = [path for name in BUILD_FILES for path in self.tree.by_name.get(name, [])]
        self.tree.prefetch(paths)
        return {path: self.tree.text(path) for path in sorted(paths)}

    @cached_property
    def names(self) -> frozenset[str]:
        """Canonical names of the distributions that static metadata name; empty if only a run could tell."""
        found = set()
        for path, text in self.build_files.items():
            match posixpath.basename(path):
                case "pyproject.toml":
                    found |= set(_project_names(text))
                case "setup.cfg":
                    found |= {_ini(text).get("metadata", {}).get("name", "")}
                case "setup.py":
                    found |= set(SETUP_NAME.findall(text))
                case "PKG-INFO":
                    found |= set(re.findall(r"^Name: *(\S+)", text, re.MULTILINE)[:1])
        return frozenset(canonical(name) for name in found if name)

    @cached_property
    def version_files(self) -> frozenset[str]:
        """Paths of the files into which version plug-ins of this commit write."""
        found = set()
        for path, text in self.build_files.items():
            folder = posixpath.dirname(path)
            if posixpath.basename(path) in {"pyproject.toml", "setup.py", "setup.cfg"}:
                found |= {posixpath.normpath(posixpath.join(folder, name)) for name in VERSION_FILE.findall(text)}
            if posixpath.basename(path) == "setup.cfg":
                named = re.findall(r"^versionfile_(?:source|build)\s*=\s*(\S+)", text, re.MULTILINE)
                found |= {posixpath.normpath(posixpath.join(folder, name)) for name in named}
        return frozenset(found)

    @cached_property
    def is_native(self) -> bool:
        """Whether this commit compiles anything into extension modules."""
        return any(path.endswith(NATIVE) for path in self.tree.files) or any(
            NATIVE_BUILD.search(text) for text in self.build_files.values()
        )

    @cached_property
    def compiles_python(self) -> bool:
        """Whether this commit's build compiles Python files themselves (mypyc, Cython's pure mode)."""
        return any(COMPILES_PYTHON.search(text) for text in self.build_files.values())

    def has_source_of(self, folder: str, module: str) -> bool:
        """Whether a native source of that module lies in that folder of the commit."""
        return any(f"{folder}/{module}{suffix}".lstrip("/") in self.tree.files for suffix in NATIVE)

    @cached_property
    def python_files(self) -> tuple[str, ...]:
        """Patterns of the names of test modules: pytest's own ones and those of the commit's configuration."""
        found = ["test_*.py", "*_test.py"]
        for values in self._pytest_sections():
            value = values.get("python_files", "")
            found += [str(item) for item in value] if isinstance(value, list) else str(value).split()
        return tuple(dict.fromkeys(found))

    @cached_property
    def collects_documents(self) -> bool:
        """Whether the commit's configuration has doctests collected from text files of other names."""
        return any("doctest-glob" in str(values.get("addopts", "")) for values in self._pytest_sections())

    def plugins_not_declared(self, entry_points: str) -> list[str]:
        """pytest plug-ins that an ``entry_points.txt`` registers and that the commit's build files do not name."""
        group = _ini(entry_points).get(PYTEST_GROUP, {})
        declaring = [text for text in self.build_files.values() if PYTEST_GROUP in text]
        missing = []
        for name, value in group.items():
            module = value.split(":")[0].strip()
            if not any(re.search(rf"(?<![\w.]){re.escape(module)}(?![\w.])", text) for text in declaring):
                missing.append(f"{name} = {value}")
        return missing

    def _pytest_sections(self) -> Iterator[Mapping[str, object]]:
        sections = {
            **dict.fromkeys(("pytest.ini", ".pytest.ini", "tox.ini"), "pytest"),
            "setup.cfg": "tool:pytest",
        }
        for name, section in sections.items():
            for path in self.tree.by_name.get(name, []):
                yield dict(_ini(self.tree.text(path)).get(section, {}))
        for path in self.tree.by_name.get("pyproject.toml", []):
            tool = _table(_toml(self.tree.text(path)), "tool", "pytest")
            yield {**tool, **_table(tool, "ini_options")}
        for name in ("pytest.toml", ".pytest.toml"):
            for path in self.tree.by_name.get(name, []):
                yield _table(_toml(self.tree.text(path)), "pytest")

    @cached_property
    def submodules(self) -> frozenset[str]:
        """Paths at which the commit has other repositories."""
        return frozenset(path for path, file in self.tree.files.items() if file.mode == SUBMODULE)


def _project_names(text: str) -> Iterator[str]:
    document = _toml(text)
    for keys in (("project",), ("tool", "poetry"), ("tool", "flit", "metadata")):
        table = _table(document, *keys)
        for key in ("name", "dist-name", "module"):
            if isinstance(name := table.get(key), str):
                yield name


def _toml(text: str) -> Mapping[str, object]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return {}


def _table(document: Mapping[str, object], *keys: str) -> Mapping[str, object]:
    for key in keys:
        inner = document.get(key)
        if not isinstance(inner, dict):
            return {}
        document = inner
    return document


def _ini(text: str) -> Mapping[str, Mapping[str, str]]:
    """Sections by name; of a file that is none, what can be read of it line by line."""
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True, delimiters=("=", ":"))
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    try:
        parser.read_string(text)
    except configparser.Error:
        return _lenient_ini(text)
    return {name: {key: value or "" for key, value in parser.items(name)} for name in parser.sections()}


def _lenient_ini(text: str) -> Mapping[str, Mapping[str, str]]:
    found: dict[str, dict[str, str]] = {}
    section = ""
    for line in text.splitlines():
        if match := re.fullmatch(r"\s*\[(.+)\]\s*", line):
            section = match[1].strip()
        elif "=" in line:
            key, _, value = line.partition("=")
            found.setdefault(section, {})[key.strip()] = value.strip()
    return found
