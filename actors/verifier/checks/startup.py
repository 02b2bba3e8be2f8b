"""Nothing but what the index served runs when an image's interpreter starts, and its path leads nowhere else.

Before a program's first line Python imports ``sitecustomize`` and ``usercustomize`` from wherever its path has them,
and works through the ``.pth`` files of site-packages: lines that begin with ``import`` are run, others are folders for
the path. Each is judged as a whole: a file that a wheel of the index has, byte for byte; folders in the checkout or in
site-packages; code that a build backend writes for an editable install of the checkout.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from posixpath import basename, dirname, join, normpath

from actors.verifier.checks.editable import (
    BACKEND_IS_AWAY,
    STARTUP_MODULES,
    EditableCode,
    in_checkout,
    is_namespace_line,
)
from actors.verifier.checks.provenance import placed
from actors.verifier.checks.truth import IndexTruth
from actors.verifier.defences import Defence, Finding
from actors.verifier.image.image_files import Entry, FileTooLarge, ImageFiles
from actors.verifier.image.installed import Distribution
from actors.verifier.image.layout import VENV, Layout, layout_of
from events.work import FailureClass

__all__ = ["check_startup"]

USER_SITE = re.compile(r"root/\.local/lib/python[^/]*/.+")
OTHER_SITES = re.compile(rf"{VENV}/(?:local|lib/python3|lib64/python3)/.+")
"""Folders that Debian's interpreter adds to its path if they are there, beside site-packages."""
MAX_PTH_BYTES = 1 << 16
UNUSUAL = re.compile("[\x00-\x08\x0b-\x1f\x7f\x85\u2028\u2029]")
"""What some releases of Python take for the end of a line, and others do not."""
REORDERING = (
    "import sys; sys.__plen = len(sys.path)",
    "import sys; new=sys.path[sys.__plen:]; del sys.path[sys.__plen:]; p=getattr(sys,'__egginsert',0); "
    "sys.path[p:p]=new; sys.__egginsert = p+len(new)",
)
"""First and last line of an ``easy-install.pth`` of setuptools before 2016: what it names comes first in the path."""
MAX_FINDINGS = 20


def check_startup(files: ImageFiles, installed: Sequence[Distribution], truth: IndexTruth) -> list[Finding]:
    """What would run when the interpreter starts, or be found in a place where nothing should be looked for.

    Args:
        files: the image.
        installed: its distributions (``read_installed``), which say what to ask the index for.
        truth: the index.

    Raises:
        ImageRefused: the parent has no virtual environment.
        InfraError: the index cannot be reached.
    """
    check = _Startup(files, layout_of(files), installed, truth)
    messages = list(check.messages())
    if len(messages) > MAX_FINDINGS:
        messages[MAX_FINDINGS - 1 :] = [
            f"{len(messages) - MAX_FINDINGS + 1} more files would run or be found at start-up"
        ]
    return [
        Finding(
            defence=Defence.STARTUP,
            message=message,
            failure_class=FailureClass.RECIPE if BACKEND_IS_AWAY in message else FailureClass.TAMPER,
        )
        for message in messages
    ]


class _Startup:
    def __init__(self, files: ImageFiles, layout: Layout, installed: Sequence[Distribution], truth: IndexTruth) -> None:
        self._files, self._layout, self._installed, self._truth = files, layout, installed, truth
        self._editable = EditableCode(files, layout, installed, truth)

    def messages(self) -> Iterator[str]:
        for path, entry in self._files.changed().items():
            if entry is not None:
                yield from self._changed(path, entry)
        for entry in self._files.children(self._layout.site):
            if entry.path.endswith(".pth"):
                yield from (f"/{entry.path} {problem}; remove it" for problem in self._pth(entry))

    def _changed(self, path: str, entry: Entry) -> Iterator[str]:
        name, folder = basename(path), dirname(path)
        beside = path.startswith(f"{dirname(self._layout.site)}/") and not f"{path}/".startswith(
            f"{self._layout.site}/"
        )
        if entry.kind != "folder" and (USER_SITE.fullmatch(path) or OTHER_SITES.fullmatch(path) or beside):
            yield f"/{path} lies where the interpreter may look for modules; install into /opt/venv with pip"
        elif name.partition(".")[0] in STARTUP_MODULES and self._is_searched(folder):
            if entry.kind != "file" or path.endswith((".py", ".so", ".pyc")):
                yield f"/{path} would run whenever the interpreter starts; remove it"
        elif self._is_bare_bytecode(path) and not self._is_of_index(path):
            yield f"/{path} is compiled code without its source; remove it"

    def _is_bare_bytecode(self, path: str) -> bool:
        inside = path.startswith(f"{self._layout.site}/") and path.endswith(".pyc")
        return inside and basename(dirname(path)) != "__pycache__"

    def _is_searched(self, folder: str) -> bool:
        """Whether the interpreter of the environment, or the one that it was made from, looks for modules there."""
        version = self._layout.version
        return folder in {
            self._layout.site,
            self._layout.stdlib,
            f"{self._layout.stdlib}/lib-dynload",
            f"etc/python{version}",
            "usr/lib/python3/dist-packages",
            f"usr/local/lib/python{version}/dist-packages",
            f"usr/local/lib/python{version}/site-packages",
        }

    def _pth(self, entry: Entry) -> Iterator[str]:
        if entry.kind != "file":
            yield f"is a {entry.kind}, not a file"
            return
        try:
            text = self._files.read(entry.path, max_bytes=MAX_PTH_BYTES).decode("utf-8-sig")
        except (UnicodeDecodeError, FileTooLarge):
            yield "is no text of ordinary size"
            return
        lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
        if UNUSUAL.search("\n".join(lines)):
            yield "has control characters, which hide lines"
            return
        code = [line for line in lines if line.startswith(("import ", "import\t"))]
        if code and self._is_of_index(entry.path):
            return
        folders = [line for line in lines if line.strip() and not line.startswith("#") and line not in code]
        yield from (problem for line in folders if (problem := self._folder(line, first=bool(code))))
        for line in code:
            if not is_namespace_line(line) and line not in REORDERING and (problem := self._editable.problem(line)):
                yield problem

    def _folder(self, line: str, *, first: bool) -> str | None:
        """What is wrong with a folder for the path; ``first``: its file has code too, which may put it at the front."""
        path = normpath(join("/", self._layout.site, line))
        entry = self._files.entry(path.strip("/"))
        if in_checkout(path):
            return self._customizes(path.strip("/"))
        if not first and f"{path}/".startswith(f"/{self._layout.site}/"):
            return None if entry is None or entry.kind == "folder" else f"puts {path} on the path, which is no folder"
        if not first and path.startswith("/usr/") and entry is not None and self._is_parents(path.strip("/")):
            return None
        return f"puts {path} on the interpreter's path"

    def _customizes(self, folder: str) -> str | None:
        """A folder of the checkout that would be asked for ``sitecustomize``, and has one that the parent has not."""
        for entry in self._files.children(folder):
            if basename(entry.path).partition(".")[0] in STARTUP_MODULES and entry.path in self._files.changed():
                return f"makes the interpreter run /{entry.path} when it starts"
        return None

    def _is_parents(self, folder: str) -> bool:
        return self._files.parent_entry(folder) is not None and not any(
            path == folder or path.startswith(f"{folder}/") for path in self._files.changed()
        )

    def _is_of_index(self, path: str) -> bool:
        """Whether an installed distribution's wheel, as the index serves it, has exactly this file."""
        try:
            digest = hashlib.sha256(self._files.read(path)).hexdigest()
        except (FileNotFoundError, FileTooLarge):
            return False
        for item in self._installed:
            if path in (item.record or ()) and not item.of_checkout:
                release = self._truth.release(item.name, item.version, tags=item.tags)
                if release is not None and release.is_wheel and placed(release, self._layout).get(path) == digest:
                    return True
        return False
