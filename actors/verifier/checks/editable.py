"""The code that build backends leave in site-packages so that an editable install is found, recognised as a whole.

Generated code is compared with its generator: the text, with the generated values taken out, has the digest of a
release of setuptools known here, or equals what the index's release of the backend would write. The values are read as
literals, and may point only into the checkout.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from posixpath import basename, normpath

from actors.verifier.checks.provenance import RUNNER_MODULES
from actors.verifier.checks.truth import IndexTruth, Release
from actors.verifier.image.image_files import FileTooLarge, ImageFiles
from actors.verifier.image.installed import Distribution
from actors.verifier.image.layout import CHECKOUT, Layout
from actors.verifier.suite.syntax import literal, parse

__all__ = ["BACKEND_IS_AWAY", "EditableCode", "in_checkout", "is_namespace_line", "is_starter"]

FINDERS = frozenset(
    {
        "c7386ba4602a8fb77208bb81e16245e47bdb323f02a74059b7d720ba437ca901",
        "ef871cf0a7ab3fda0e400848982c68fc029e5465abd85251753d0983677473cb",
        "3478ada5ed6117a7d6c71819a5102eac0a20e79f244febb291b0b7ca9f36e4ac",
        "eb0ca555b5bd9a5a6fec3f3f17b7e96202a6e2feb9e8f36ebb5a52ae0f9aa1aa",
        "66d533836ef0e3fea09ae81edcb56e54a243e45fde67705d111ae4fac5988d6c",
    }
)
"""SHA-256 of the finder modules of setuptools 64 to 84, values taken out."""
NAMESPACE_LINES = frozenset(
    {
        "89c560156cd110bfa1be24c0b8399a47239e2296d161f4c925d8ef8199c13155",
        "61796df9037ecfbf080f62e8c0139836ff4b6dacaca2541c407a473e896f927e",
        "bf873fec0223f0c6337119bf6a9c92c2152c106f026c49f8c1b5205e29be76bb",
        "5da8ac3c2aa19e67d66a241ce7a73412950581e8bfed2a3113bcdd55fe694d56",
    }
)
"""SHA-256 of the lines of its ``-nspkg.pth`` files, likewise."""
NAMESPACE_ROOT = r"sys\._getframe\(1\)\.f_locals\['sitedir'\]"
NAMESPACE_NAME = re.compile(rf"p = os\.path\.join\((?P<root>{NAMESPACE_ROOT}|'[^']*'), \*(?P<names>\([^()]*\))\)")
FINDER_IMPORT = re.compile(r"import (?P<module>__editable___\w+_finder); (?P=module)\.install\(\)")
PLAIN_IMPORT = re.compile(r"import (?P<module>_\w+)(?:; (?P=module)\.init\(\))?")
VALUE = re.compile(r"(?m)^(?P<name>MAPPING|NAMESPACES|PATH_PLACEHOLDER)(?P<hint>: [\w, \[\]]+)? = (?P<value>.*)$")
REDIRECTION = re.compile(r"F\.map_module\((?P<name>'[\w.]+'), (?P<path>'[^'\\]*')\)")
REDIRECTOR = ("from editables.redirector import RedirectingFinder as F", "F.install()")
LOADERS = {
    "meson-python": "mesonpy/_editable.py",
    "scikit-build-core": "scikit_build_core/resources/_editable_redirect.py",
}
PLAIN_LOADER = re.compile(r"_.*_editable_loader|_editable_skbc_.*")
BACKEND_IS_AWAY = "which needs its build backend; install that into /opt/venv and build without isolation"
STARTERS = (
    "install()",
    "def init():\n    finder = MesonpyMetaFinder()\n    sys.meta_path.insert(0, finder)\n"
    "    sys.path_hooks.insert(0, finder._path_hook)",
)
"""What those backends add to their module, without the values of the call in it."""
STARTUP_MODULES = frozenset({"sitecustomize", "usercustomize"})
MAX_MODULE_BYTES = 1 << 20


def in_checkout(path: str) -> bool:
    """Whether an absolute path lies in the checkout."""
    return path.startswith("/") and f"{normpath(path)}/".startswith(f"/{CHECKOUT}/")


def is_namespace_line(line: str) -> bool:
    """Whether a line of a ``.pth`` file is one that setuptools writes for a namespace package, and nothing more."""
    found = NAMESPACE_NAME.search(line)
    if found is None:
        return False
    try:
        names = literal(found["names"])
    except (ValueError, SyntaxError):
        return False
    if not isinstance(names, tuple) or not all(isinstance(name, str) and name.isidentifier() for name in names):
        return False
    if found["root"].startswith("'") and not in_checkout(found["root"].strip("'")):
        return False
    package, parent = ".".join(names), ".".join(names[:-1])
    plain = line.replace(found[0], "p = os.path.join({root}, *{names})").replace(repr(package), "{package}")
    plain = plain.replace(f"sys.modules[{parent!r}], {names[-1]!r}", "sys.modules[{parent}], {child}")
    return _digest(plain.rstrip("; \n")) in NAMESPACE_LINES


class EditableCode:
    """Recognises the lines and modules of editable installs in one image."""

    def __init__(self, files: ImageFiles, layout: Layout, installed: Sequence[Distribution], truth: IndexTruth) -> None:
        self._files, self._layout, self._installed, self._truth = files, layout, installed, truth

    def problem(self, line: str) -> str | None:
        """What is wrong with a line of code in a ``.pth`` file, taken as one that starts an editable install.

        Raises:
            InfraError: the index, which has to say what a backend writes, cannot be reached.
        """
        finder = FINDER_IMPORT.fullmatch(line)
        found = finder or PLAIN_IMPORT.fullmatch(line)
        if found is None:
            return "is code that no installer writes"
        path = f"{self._layout.site}/{found['module']}.py"
        others = [
            entry.path
            for entry in self._files.children(self._layout.site)
            if basename(entry.path).partition(".")[0] == found["module"]
            and entry.path != path
            and not entry.path.endswith(".pth")
        ]
        try:
            text = self._files.read(path, max_bytes=MAX_MODULE_BYTES).decode("utf-8")
        except (FileNotFoundError, FileTooLarge, UnicodeDecodeError):
            return f"imports {found['module']}, which is no module of site-packages"
        if others:
            return f"imports {found['module']}, which /{others[0]} would be taken for"
        if PLAIN_LOADER.fullmatch(found["module"]) and not any(item.name in LOADERS for item in self._installed):
            return f"imports /{path}, {BACKEND_IS_AWAY}"
        right = self._is_finder(text) if finder else self._is_redirector(text) or self._is_loader(text)
        return None if right else f"imports /{path}, which is not what a build backend writes for the checkout"

    def _is_finder(self, text: str) -> bool:
        values = {found["name"]: found["value"] for found in VALUE.finditer(text)}
        if sorted(values) != ["MAPPING", "NAMESPACES", "PATH_PLACEHOLDER"] or not _is_placeholder(values):
            return False
        try:
            mapping, namespaces = literal(values["MAPPING"]), literal(values["NAMESPACES"])
        except (ValueError, SyntaxError):
            return False
        if not (isinstance(mapping, dict) and isinstance(namespaces, dict)):
            return False
        folders = [*mapping.values(), *(path for paths in namespaces.values() for path in paths)]
        if not all(isinstance(path, str) and in_checkout(path) for path in folders):
            return False
        digest = _digest(_without_values(text))
        return not STARTUP_MODULES & {*mapping, *namespaces} and (
            digest in FINDERS or any(digest == _digest(_without_values(known)) for known in self._finders())
        )

    def _finders(self) -> Iterator[str]:
        """What the releases of setuptools that may have been at work here would write."""
        versions = [item.generator for item in self._installed if item.editable]
        numbers = [found[1] for text in versions if (found := re.fullmatch(r"setuptools \(([\w.]+)\)", text))]
        numbers += [item.version for item in self._installed if item.name == "setuptools"]
        for number in dict.fromkeys(numbers):
            release = self._truth.release("setuptools", number)
            source = _read(release, "setuptools/command/editable_wheel.py")
            for node in ast.walk(parse(source)):
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_FINDER_TEMPLATE":
                    template = ast.literal_eval(node.value)
                    yield template.format(mapping={}, namespaces={}, name="")

    def _is_redirector(self, text: str) -> bool:
        """What the ``editables`` library writes, if that library is the index's own."""
        lines = [line for line in text.split("\n") if line]
        if tuple(lines[: len(REDIRECTOR)]) != REDIRECTOR:
            return False
        for line in lines[len(REDIRECTOR) :]:
            found = REDIRECTION.fullmatch(line)
            if (
                found is None
                or not in_checkout(found["path"].strip("'"))
                or found["name"].strip("'") in STARTUP_MODULES
            ):
                return False
        return self._is_genuine("editables", ("editables/__init__.py", "editables/redirector.py"))

    def _is_genuine(self, name: str, paths: Iterable[str]) -> bool:
        for item in self._installed:
            release = self._truth.release(item.name, item.version, tags=item.tags) if item.name == name else None
            if release is not None:
                site = self._layout.site
                contents = {
                    path: self._files.read(f"{site}/{path}") for path in paths if self._files.entry(f"{site}/{path}")
                }
                return all(
                    path in contents and hashlib.sha256(contents[path]).hexdigest() == release.files.get(path)
                    for path in paths
                )
        return False

    def _is_loader(self, text: str) -> bool:
        """What meson-python and scikit-build-core write: a module of their own, and one call that starts it."""
        for item in self._installed:
            if item.name in LOADERS:
                source = _read(self._truth.release(item.name, item.version, tags=item.tags), LOADERS[item.name])
                if source and text.startswith(source) and is_starter(text.removeprefix(source)):
                    return True
        return False


def _is_placeholder(values: dict[str, str]) -> bool:
    return re.fullmatch(r"""(['"])[\w.+-]*\1 \+ ['"]\.__path_hook__['"]""", values["PATH_PLACEHOLDER"]) is not None


def _without_values(text: str) -> str:
    return VALUE.sub(lambda found: f"{found['name']}{found['hint'] or ''} = ...", text)


def is_starter(text: str) -> bool:
    """Whether a text starts a finder with literals that name no program but ninja, no folder outside the checkout, and
    no module that pytest or the interpreter has: such finders come before all others."""
    try:
        tree = parse(text)
        for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
            if ast.unparse(call.func) in {"install", "MesonpyMetaFinder"} and not call.keywords:
                values = [ast.literal_eval(value) for value in call.args]
                call.args = []
                break
        else:
            return False
    except (SyntaxError, ValueError):
        return False
    commands = _strings([value for value in values if isinstance(value, list)])
    others = _strings([value for value in values if not isinstance(value, list)])
    return (
        ast.unparse(tree) in STARTERS
        and all(_is_modest(value) for value in commands)
        and all(_is_modest(value) or _is_installed(value) for value in others)
    )


def _is_modest(value: str) -> bool:
    if "/" in value:
        return in_checkout(value) or basename(value) in {"ninja", "cmake"}
    top = value.partition(".")[0]
    return top not in RUNNER_MODULES and top not in STARTUP_MODULES and top not in sys.stdlib_module_names


def _is_installed(value: str) -> bool:
    """Whether a string is a path in site-packages, relative to it; ORIGIN judges what is there."""
    return "/" in value and not value.startswith("/") and ".." not in value.split("/")


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings([*value, *value.values()])
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _strings(item)


def _read(release: Release | None, path: str) -> str:
    return release.read(path).decode("utf-8") if release is not None and path in release.files else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
