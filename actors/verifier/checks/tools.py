"""Interpreter, libraries and tools of an image are those of its trusted parent, and nothing is found before them.

Judged is what differs from the parent in the folders where programs, libraries and the standard library lie. Packages
that apt installed, upgraded or removed may change such files too; but what the interpreter and the shell consist of has
to be the parent's, whatever dpkg's records say: they lie in the image. Compiled Python in ``__pycache__`` folders is
never read by a verification and not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from posixpath import basename, dirname

from actors.verifier.containers.container import ENVIRONMENT
from actors.verifier.defences import Defence, Finding
from actors.verifier.image.console_script import is_console_script
from actors.verifier.image.dpkg import PackageRecords
from actors.verifier.image.image_files import Entry, FileTooLarge, ImageFiles
from actors.verifier.image.layout import CHECKOUT, VENV, VENV_BIN, Layout, layout_of, resolved
from actors.verifier.image.loader import CACHE, CacheUnreadable, ParentLibraries, comparable, read_cache
from events.work import FailureClass

__all__ = ["MAX_FINDINGS", "PATH_FOLDERS", "check_channel", "check_tools"]

PATH_FOLDERS = tuple(folder.strip("/") for folder in ENVIRONMENT["PATH"].split(":"))
MAX_FINDINGS = 20
"""How many changed files are named; the last finding counts the rest."""
FIXED_FOLDERS = (
    *("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"),
    *("usr/local", "usr/local/bin", "usr/local/sbin", "usr/local/lib", "etc", "opt", VENV, VENV_BIN, f"{VENV}/lib"),
    *(f"{VENV}/lib64", "workspace", CHECKOUT, "root", "tmp", "var"),
)
"""Which folders there are, and which links stand for folders, is the parent's."""
CORE_TOOLS = frozenset(
    (  # noqa: SIM905 - a list literal of them would fill a page
        "[ arch awk base64 basename bash cat chmod chown cp cut date dash dd dirname echo env expr false find gawk "
        "git grep head hostname id install ln ls mawk mkdir mktemp mv nice nohup nproc od perl pip printf ps pwd "
        "readlink realpath rm rmdir sed seq sh sleep sort stat stdbuf sync tail tar tee test timeout touch tr true "
        "tty uname uniq wc which who whoami xargs yes "
    ).split()
)
"""What scripts and test suites call by name most of all."""
PYTHON_NAME = re.compile(r"(?:python|pip)[\d.]*t?(?:-config)?")
LIBRARY = re.compile(r"(?:\.so(?:\.[\w.]+)?|/ld-linux[\w.-]*|/ld-[\d.]+\.so)$")
LIBRARY_ROOTS = ("usr/lib/", "usr/lib32/", "usr/lib64/", "usr/libx32/", "usr/local/lib/", "lib/", "lib64/")
LANDMARKS = frozenset({"pyvenv.cfg", "pybuilddir.txt", "lib", "lib64", "Modules", "Lib"})
"""What the interpreter, before anything else, looks for beside itself to find its library."""
CONSOLE_SCRIPTS = {"pytest": ("pytest", "_pytest", "py.test"), "py.test": ("pytest", "_pytest", "py.test")}
SEPARATE_STDLIB = frozenset(
    {"tkinter", "turtledemo", "turtle.py", "idlelib", "distutils", "lib2to3", "venv", "ensurepip"}
)
"""Parts of the standard library that Debian packages on their own: they may come when the parent had none of them."""
SEPARATE_MODULES = re.compile(r"lib-dynload/(?:_tkinter|_gdbm|_dbm)\.cpython-[\w-]+\.so")
OPENSSL_CONFIGURATION = "etc/ssl/openssl.cnf"
LOADS_CODE = re.compile(r"(?im)^\s*(?:dynamic_path|module|so_path|engine_id|engines?)\s*=.*|^\s*\.include.*")
ALTERNATIVES = "etc/alternatives"
"""Where Debian keeps links from a tool's name to the program that does it; packages change them."""
LOADER_PRELOAD = "etc/ld.so.preload"


def check_channel(files: ImageFiles) -> list[Finding]:
    """Nothing of the image lies where results and scripts are mounted, and no volume hides what was scanned."""
    findings = []
    if files.entry("headrace") is not None:
        findings.append(_finding("/headrace is in the image; that is where the verifier's own files go, remove it"))
    if files.config.volumes:
        named = ", ".join(files.config.volumes)
        findings.append(_finding(f"the image declares volumes ({named}), which would hide what it holds; remove them"))
    return [Finding(defence=Defence.CHANNEL, message=finding.message) for finding in findings]


def check_tools(files: ImageFiles) -> list[Finding]:
    """Everything that runs before the tests do is the parent's.

    Returns:
        At most ``MAX_FINDINGS``. Class ``recipe`` where a package manager accounts for a change that cannot be allowed
        all the same, or a tool is only gone; ``tamper`` otherwise.

    Raises:
        ImageRefused: the parent has no virtual environment.
    """
    judge = _Tools(files, layout_of(files))
    findings = [finding for path, entry in files.changed().items() for finding in judge.judge(path, entry)]
    findings.sort(key=lambda finding: finding.failure_class is not FailureClass.TAMPER)
    if len(findings) > MAX_FINDINGS:
        rest = len(findings) - MAX_FINDINGS + 1
        findings[MAX_FINDINGS - 1 :] = [_finding(f"{rest} more files of the system are not the parent's")]
    return findings


def _finding(message: str, *, failure_class: FailureClass = FailureClass.TAMPER) -> Finding:
    return Finding(defence=Defence.TOOLS, message=message, failure_class=failure_class)


def _is_alternative(entry: Entry | None) -> bool:
    return entry is not None and entry.kind == "link" and entry.target.startswith(f"/{ALTERNATIVES}/")


class _Tools:
    """Judges one changed path after the other."""

    def __init__(self, files: ImageFiles, layout: Layout) -> None:
        self._files, self._layout = files, layout
        self._libraries = ParentLibraries(files, layout)
        self._records = PackageRecords(files)
        self._fixed = {*FIXED_FOLDERS, f"{VENV}/lib/python{layout.version}", layout.site, layout.stdlib, layout.home}
        self._programs = {folder: set[str]() for folder in PATH_FOLDERS}

    def judge(self, path: str, entry: Entry | None) -> Iterator[Finding]:
        folder, name = dirname(path), basename(path)
        if path in self._fixed:
            yield from self._folder(path, entry)
        elif path == LOADER_PRELOAD:
            yield _finding(f"/{path} makes every program load libraries; remove it")
        elif path == CACHE:
            yield from self._cache(entry)
        elif path == OPENSSL_CONFIGURATION:
            yield from self._openssl(path, entry)
        elif path.startswith((f"{VENV}/pyvenv.cfg", self._layout.zipped_stdlib)):
            yield _finding(f"/{path} decides what the interpreter loads, and is not the parent's; leave it as it was")
        elif path.startswith(f"{self._layout.stdlib}/"):
            yield from self._stdlib(path, entry)
        elif folder == ALTERNATIVES:
            yield from self._alternative(path, entry)
        elif folder in PATH_FOLDERS:
            yield from self._program(path, entry)
        elif path.startswith(LIBRARY_ROOTS) and not self._is_python_package(path):
            yield from self._library(path, entry)
        elif folder == self._layout.home and name in LANDMARKS:
            yield _finding(f"/{path} would move the interpreter's library; remove it")

    def _folder(self, path: str, entry: Entry | None) -> Iterator[Finding]:
        before = self._files.parent_entry(path)
        same = entry is not None and before is not None and (entry.kind, entry.target) == (before.kind, before.target)
        folder = entry is not None and entry.kind == "folder"
        added = before is None and (folder or self._records.explains(path, entry))
        if not same and not added:
            now = "gone" if entry is None else f"a {entry.kind}" + (f" to {entry.target}" if entry.target else "")
            yield _finding(f"/{path} is not the parent's any more ({now}); leave it as it was")

    def _program(self, path: str, entry: Entry | None) -> Iterator[Finding]:
        name, before = basename(path), self._files.parent_entry(path)
        if entry is not None and name in LANDMARKS and dirname(path) in {VENV_BIN, self._layout.home}:
            yield _finding(f"/{path} would move the interpreter's library; remove it")
        elif name in CONSOLE_SCRIPTS or (before is not None and path.startswith(f"{VENV_BIN}/pip")):
            if entry is not None and path.startswith(f"{VENV_BIN}/"):
                yield from self._console_script(path, entry)
            elif entry is not None and self._shadowed(path) is not None:
                yield self._shadow(path, entry)
        elif _is_alternative(before) and (entry is None or _is_alternative(entry)):
            return
        elif before is not None and (before.kind != "file" or before.mode & 0o111):
            yield from self._altered(path, entry, core=name in CORE_TOOLS or bool(PYTHON_NAME.fullmatch(name)))
        elif entry is not None and before is None and self._shadowed(path) is not None:
            if entry.kind == "file" and not entry.mode & 0o111:
                return
            if entry.kind != "link" or resolved(self._files, path) != resolved(self._files, self._shadowed(path) or ""):
                yield self._shadow(path, entry)

    def _alternative(self, path: str, entry: Entry | None) -> Iterator[Finding]:
        """A tool's link leads to a program of the parent or of a package."""
        target = None if entry is None else resolved(self._files, path)
        changed = target is not None and target in self._files.changed()
        if changed and not self._records.explains(target or "", self._files.entry(target or "")):
            yield _finding(f"/{path} leads to /{target}, which no package brought; leave it as it was")

    def _console_script(self, path: str, entry: Entry) -> Iterator[Finding]:
        modules = CONSOLE_SCRIPTS.get(basename(path), ("pip",))
        try:
            text = self._files.read(path, max_bytes=1 << 16) if entry.kind == "file" else b""
        except FileTooLarge:
            text = b""
        if not is_console_script(text, modules=modules):
            yield _finding(f"/{path} is not a script that pip or uv generate for it; install {modules[0]} with pip")

    def _shadowed(self, path: str) -> str | None:
        """The parent's tool that would be found if this file were not there."""
        folder, name = dirname(path), basename(path)
        later = PATH_FOLDERS[PATH_FOLDERS.index(folder) + 1 :]
        tools = (f"{other}/{name}" for other in later)
        return next((tool for tool in tools if self._files.parent_entry(tool) is not None), None)

    def _shadow(self, path: str, entry: Entry) -> Finding:
        name = basename(path)
        core = name in CORE_TOOLS or PYTHON_NAME.fullmatch(name) or self._is_script_of_shell(entry)
        return _finding(
            f"/{path} is found before the parent's /{self._shadowed(path)}; remove it",
            failure_class=FailureClass.TAMPER if core else FailureClass.RECIPE,
        )

    def _is_script_of_shell(self, entry: Entry) -> bool:
        return entry.kind == "file" and entry.size < 1 << 20 and self._files.read(entry.path).startswith(b"#!/bin/")

    def _altered(self, path: str, entry: Entry | None, *, core: bool) -> Iterator[Finding]:
        """A file of the parent is another or gone: allowed if dpkg says why, and it is nothing a verdict rests on."""
        explained = self._records.explains(path, entry)
        if explained and not core:
            return
        what = "is gone" if entry is None else "is not the parent's"
        if explained:
            advice = "its package was changed, but the verifier needs it as it was; leave it, or renew the base image"
        else:
            advice = "leave it as it was"
        honest = explained or (entry is None and not core)
        yield _finding(
            f"/{path} {what}; {advice}", failure_class=FailureClass.RECIPE if honest else FailureClass.TAMPER
        )

    def _is_python_package(self, path: str) -> bool:
        return "/site-packages/" in path or "/dist-packages/" in path

    def _library(self, path: str, entry: Entry | None) -> Iterator[Finding]:
        before = self._files.parent_entry(path)
        is_library = LIBRARY.search(f"/{path}") is not None
        if before is not None:
            if is_library or (before.kind == "file" and before.mode & 0o111):
                core = is_library and self._libraries.is_of_interpreter(path)
                yield from self._altered(path, entry, core=core)
            elif entry is not None and entry.kind == "link" and before.kind == "folder":
                yield _finding(f"/{path}, a folder of libraries, was replaced by a link; leave it as it was")
        elif entry is not None and is_library and entry.kind != "folder":
            yield from self._added_library(path, entry)
        elif entry is not None and "/gconv/" in path and not self._records.explains(path, entry):
            yield _finding(f"/{path} makes the C library load further code; remove it")

    def _added_library(self, path: str, entry: Entry) -> Iterator[Finding]:
        name = comparable(basename(path))
        folder = re.sub(r"/(?:glibc-hwcaps|tls|haswell|x86_64|x86-64|avx512_1)(?:/.*)?$", "", dirname(path))
        if folder in self._libraries.folders and name in self._libraries.paths:
            core = self._libraries.is_of_interpreter(path)
            if core or not self._records.explains(path, entry):
                yield _finding(f"/{path} can be loaded instead of the parent's library of that name; remove it")
        elif (name.startswith("libnss_") or "/gconv/" in path) and not self._records.explains(path, entry):
            yield _finding(f"/{path} is loaded by the C library itself, and no package brought it; remove it")

    def _cache(self, entry: Entry | None) -> Iterator[Finding]:
        if entry is None:
            return
        try:
            found = read_cache(self._files.read(CACHE)) if entry.kind == "file" else []
        except (CacheUnreadable, FileTooLarge) as exc:
            yield _finding(f"/{CACHE} is not one that ldconfig wrote ({exc}); run ldconfig")
            return
        for name, path in found:
            if name in self._libraries.paths and path not in self._libraries.paths[name]:
                yield _finding(f"/{CACHE} makes programs load /{path} as {name}; remove that library")

    def _openssl(self, path: str, entry: Entry | None) -> Iterator[Finding]:
        if entry is None or self._records.explains(path, entry):
            return
        text = self._files.read(path).decode("utf-8", "replace") if entry.kind == "file" else ".include"
        if set(LOADS_CODE.findall(text)) - set(LOADS_CODE.findall(self._parent_openssl)):
            yield _finding(f"/{path} makes OpenSSL load further code into the interpreter; leave it as it was")

    @cached_property
    def _parent_openssl(self) -> str:
        if self._files.parent_entry(OPENSSL_CONFIGURATION) is None:
            return ""
        return self._files.read_parent(OPENSSL_CONFIGURATION).decode("utf-8", "replace")

    def _stdlib(self, path: str, entry: Entry | None) -> Iterator[Finding]:
        inner = path.removeprefix(f"{self._layout.stdlib}/")
        top = inner.partition("/")[0]
        if "__pycache__" in inner.split("/") and (entry is None or entry.kind == "folder" or path.endswith(".pyc")):
            return
        if top in {"site-packages", "dist-packages"} and inner != top:
            return
        before = self._files.parent_entry(path)
        if before is None and self._is_separate(inner, top) and self._records.explains(path, entry):
            return
        if before is not None and entry is not None and before.kind == entry.kind == "folder":
            return
        yield from (
            self._altered(path, entry, core=True)
            if before is not None
            else [_finding(f"/{path} was added to the interpreter's standard library; remove it")]
        )

    def _is_separate(self, inner: str, top: str) -> bool:
        new = self._files.parent_entry(f"{self._layout.stdlib}/{top}") is None
        return (new and top in SEPARATE_STDLIB) or SEPARATE_MODULES.fullmatch(inner) is not None
