"""Judges what lies in a checkout and not in its commit: a build product, or something that changes what tests say?

Names come first and nothing excuses them: test modules, ``conftest.py``, configuration, start-up files, modules that
take the place of the runner's or of the standard library's. A byte-identical copy of a file of the commit under its own
name passes, as builds make them. Then build folders and build products pass, and Python files by what they contain.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase

from actors.verifier.checks.declared import CONFIGURATION, Declared, below, is_extension
from actors.verifier.checks.generated import is_generator_output, is_literal, reaches
from actors.verifier.image.image_files import Entry
from actors.verifier.suite.commit import CommitTree

__all__ = ["Untracked"]

BUILD_FOLDERS = frozenset(
    {"build", "dist", ".eggs", "__pycache__", "_skbuild", "target", "node_modules", "CMakeFiles", ".pytest_cache"}
    | {".mypy_cache", ".ruff_cache", ".hypothesis", ".tox", ".nox", ".cache", "wheelhouse", "htmlcov", ".benchmarks"}
    | {"builddir", "_build", ".pybuild", ".asv", ".cython", ".git", ".pdm-build"}
)
BUILD_FOLDER = re.compile(r"\.mesonpy.*|cmake-build-.*|build-.*")
METADATA_FOLDER = re.compile(r".*\.(egg-info|dist-info)|__pycache__")
BUILD_SUBFOLDER = re.compile(r"(lib|temp|bdist|scripts|cp3|__editable__).*")
NOT_COLLECTED = frozenset({".eggs", ".tox", ".nox", ".pybuild", "node_modules"})
"""Folders that hold other projects, tests and all; the runner does not look into them."""
TESTS_FOLDER = re.compile(r"tests?|.*_tests?|tests?_.*|testsuite|benchmarks?|benches", re.IGNORECASE)
RUNNER_MODULES = frozenset(
    {"pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "exceptiongroup", "tomli", "pygments", "colorama"}
    | {"attr", "attrs", "xdist", "execnet", "coverage", "hypothesis", "mock", "nose", "sitecustomize", "usercustomize"}
)
SHADOWED = RUNNER_MODULES | sys.stdlib_module_names
SCRATCH = frozenset({".pdm-build"})
"""Folders in which a back end puts together what it installs, path files too; no interpreter looks there."""
STARTUP = frozenset({"sitecustomize", "usercustomize"})
DOCTEST = re.compile(rb"^\s*>>> ", re.MULTILINE)
UNCHECKED = 0b01
"""Low two bits of the flags of a ``.pyc`` that is never compared with its source."""
ENTRY_POINTS = "entry_points.txt"
Read = Callable[[], bytes]


class Untracked:
    """The rules for one commit. ``judge`` says why a path is refused, in words that follow its name."""

    def __init__(self, tree: CommitTree, *, declared: Declared, ignored: frozenset[str]) -> None:
        self._tree, self._declared, self._ignored = tree, declared, ignored

    def judge(self, entry: Entry, path: str, read: Read) -> str | None:  # noqa: PLR0911 - a return for each rule
        """Why a file, link or other thing at ``path`` of the checkout is refused; ``None``: it may be there.

        Args:
            entry: what it is.
            path: relative to the checkout.
            read: gives the content of a regular file.
        """
        folder, name = posixpath.split(path)
        built = self._build_folder(path)
        if entry.kind == "link":
            return None if _stays(entry, path, built) else f"is a link to {entry.target} that the commit has not"
        if entry.kind == "other":
            return "is neither file, folder nor link"
        why = self._by_name(folder, name, read, built=built)
        if why is not None:
            return None if self._is_copy(name, read) else why
        if name == ENTRY_POINTS:
            missing = self._declared.plugins_not_declared(read().decode("utf-8", "replace"))
            return f"registers a pytest plug-in that the commit does not declare: {missing[0]}" if missing else None
        if name.endswith(".pyc") and "-pytest-" not in name:  # those have a header of pytest's own
            never = int.from_bytes(read()[4:8], "little") & 0b11 == UNCHECKED
            return "is bytecode that is never compared with its source" if never else None
        if built is not None:
            return None
        if name.endswith((".so", ".pyd")):
            return self._extension(folder, name)
        return self._python(path, read) if name.endswith((".py", ".pyw")) else None

    def _build_folder(self, path: str) -> str | None:
        """The outermost folder of a path into which builds write; one that the commit uses itself is none."""
        parts = path.split("/")
        for number, part in enumerate(parts[:-1]):
            folder = "/".join(parts[: number + 1])
            if METADATA_FOLDER.fullmatch(part):
                return folder
            if part not in BUILD_FOLDERS and not BUILD_FOLDER.fullmatch(part):
                continue
            if folder not in self._tree.folders or BUILD_SUBFOLDER.fullmatch(parts[number + 1]):
                return folder
        return None

    def _by_name(  # noqa: PLR0911 - a return for each rule
        self, folder: str, name: str, read: Read, *, built: str | None
    ) -> str | None:
        scratch = built is not None and built.rpartition("/")[2] in SCRATCH
        if name.split(".", maxsplit=1)[0] in STARTUP or (name.endswith(".pth") and not scratch):
            return "runs when an interpreter starts, and the commit has it not"
        if name.endswith((".pyc", ".pyo")) and folder.rpartition("/")[2] != "__pycache__":
            return "is compiled Python without a source"
        if built is not None and built.rpartition("/")[2] in NOT_COLLECTED:
            return None
        if name in CONFIGURATION:
            return "configures tests or builds, and the commit has it not"
        if name.endswith(".py") and any(fnmatchcase(name, p) for p in self._declared.python_files[:2]):
            return "is a test module that the commit has not"
        if fnmatchcase(name, "test*.txt") and DOCTEST.search(read()):
            return "has doctests that would be collected, and the commit has it not"
        if built is not None:
            return None
        return self._by_patterns(folder, name, read) or self._shadow(folder, name) or self._tests(folder, name, read)

    def _by_patterns(self, folder: str, name: str, read: Read) -> str | None:
        """What the commit's own configuration makes of a file's name."""
        if name.endswith(".py"):
            patterns = self._declared.python_files[2:]
            if any(fnmatchcase(f"/{folder}/{name}", f"*/{p}") for p in patterns) and not is_literal(read()):
                return "is a test module by the commit's python_files, and the commit has it not"
        elif name.endswith((".txt", ".rst", ".md")) and self._declared.collects_documents and DOCTEST.search(read()):
            return "has doctests that would be collected, and the commit has it not"
        return None

    def _shadow(self, folder: str, name: str) -> str | None:
        """Whether a file is imported in place of another module: of the runner, the library or the commit itself."""
        package, module = folder, is_extension(name) or name.removesuffix(".py")
        if not name.endswith((".py", ".so")):
            return None
        if module == "__init__":
            package, module = posixpath.split(folder)
            if f"{folder}.py" in self._tree.files:
                return f"takes the place of the module {folder}.py"
            if not folder:
                return "makes the checkout itself a package"
        in_package = f"{package}/__init__.py".lstrip("/") in self._tree.files
        if module in SHADOWED and not in_package:
            return f"would be imported in place of the module {module}"
        if name.endswith(".so"):
            twin = f"{folder}/{module}.py".lstrip("/")
            init = f"{folder}/{module}/__init__.py".lstrip("/")
            if (twin in self._tree.files or init in self._tree.files) and not self._compiles(folder, module):
                return f"would be imported in place of {twin}"
        return None

    def _compiles(self, folder: str, module: str) -> bool:
        return self._declared.compiles_python or self._declared.has_source_of(folder, module)

    def _tests(self, folder: str, name: str, read: Read) -> str | None:
        if not any(TESTS_FOLDER.fullmatch(part) for part in folder.split("/")):
            return None
        if name.endswith(".py"):
            proto = f"{folder}/{re.sub(r'_pb2(_grpc)?$', '', name.removesuffix('.py'))}.proto"
            if proto in self._tree.files and reaches(read()) is None:
                return None
            return "is Python code in a folder of tests, and the commit has it not"
        if name.endswith((".so", ".pyd")):
            module = is_extension(name) or ""
            if self._declared.has_source_of(folder, module):
                return None
            return "is compiled code in a folder of tests, without a source in the commit"
        return None

    def _extension(self, folder: str, name: str) -> str | None:
        if self._declared.is_native or is_extension(name) is None:
            return None
        return f"is compiled code, and the commit has no native source ({folder or 'top folder'})"

    def _python(self, path: str, read: Read) -> str | None:
        source = read()
        if is_literal(source) or self._is_copy(posixpath.basename(path), read):
            return None
        why = reaches(source)
        if why is not None:
            return f"is Python code that the commit has not, and {why}"
        if path in self._ignored or path in self._declared.version_files or is_generator_output(source):
            return None
        return "is Python code that the commit has not and that no generator wrote"

    def _is_copy(self, name: str, read: Read) -> bool:
        if name not in self._tree.by_name:
            return False
        blob = self._tree.blob_id(read())
        return any(self._tree.files[path].blob == blob for path in self._tree.by_name[name])


def _stays(entry: Entry, path: str, folder: str | None) -> bool:
    """Whether a link lies in a build folder and leads to what is beside it there."""
    if folder is None or entry.target.startswith("/"):
        return False
    return below(posixpath.normpath(posixpath.join(posixpath.dirname(path), entry.target)), folder)
