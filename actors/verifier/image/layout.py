"""Where a trusted parent image keeps its interpreter, read from the pyvenv.cfg of its virtual environment."""

from __future__ import annotations

import re
from posixpath import dirname, join, normpath

import msgspec

from actors.verifier.defences import Defence, Finding
from actors.verifier.image.exported import ImageRefused
from actors.verifier.image.image_files import ImageFiles
from events.work import FailureClass

__all__ = ["CHECKOUT", "VENV", "VENV_BIN", "Layout", "layout_of", "resolved"]

VENV = "opt/venv"
VENV_BIN = f"{VENV}/bin"
CHECKOUT = "workspace/repo"
MAX_LINKS = 40


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """Paths without a leading slash. ``version``: ``3.11``; ``home``: the folder of the interpreter itself;
    ``stdlib``: its standard library; ``site``: the environment's site-packages."""

    version: str
    home: str
    stdlib: str
    site: str

    @property
    def zipped_stdlib(self) -> str:
        """The archive that comes before the standard library on the interpreter's path, and normally is not there."""
        return join(dirname(self.stdlib), f"python{self.version.replace('.', '')}.zip")


def layout_of(files: ImageFiles) -> Layout:
    """The layout of the parent's interpreter.

    Raises:
        ImageRefused: the parent has no virtual environment in ``/opt/venv``.
    """
    try:
        text = files.read_parent(f"{VENV}/pyvenv.cfg", max_bytes=1 << 16).decode("utf-8", "replace")
    except FileNotFoundError:
        text = ""
    home = re.search(r"(?m)^home\s*=\s*/(\S+)\s*$", text)
    version = re.search(r"(?m)^version(?:_info)?\s*=\s*(\d+\.\d+)\b", text)
    if home is None or version is None:
        raise ImageRefused(
            Finding(
                defence=Defence.TOOLS,
                message="the base tier left no virtual environment in /opt/venv; correct docker_build_base.sh",
                failure_class=FailureClass.RECIPE,
            )
        )
    return Layout(
        version=version[1],
        home=home[1],
        stdlib=f"{dirname(home[1])}/lib/python{version[1]}",
        site=f"{VENV}/lib/python{version[1]}/site-packages",
    )


def resolved(files: ImageFiles, path: str) -> str | None:
    """The path that an image's path leads to when all links are followed inside the image; ``None`` if nowhere."""
    left, done = path.strip("/").split("/"), ""
    for _ in range(MAX_LINKS):
        while left:
            step = normpath(join("/", done, left.pop(0))).strip("/")
            entry = files.entry(step) if step else None
            if step and entry is None:
                return None
            if entry is not None and entry.kind == "link":
                base = "" if entry.target.startswith("/") else done
                left = [*join(base, entry.target.strip("/")).split("/"), *left]
                done = ""
                break
            done = step
        else:
            return done
    return None
