"""What dpkg's own records in an image say of a file: evidence that honest package installations leave behind.

The records lie in the image, so whoever built it could have written them: they explain a change, they do not excuse one
to what a verdict rests on.
"""

from __future__ import annotations

import hashlib
from functools import cached_property

import msgspec

from actors.verifier.image.image_files import Entry, FileTooLarge, ImageFiles

__all__ = ["PackageRecords"]

STATUS = "var/lib/dpkg/status"
INFO = "var/lib/dpkg/info"
MERGED = ("bin/", "sbin/", "lib/", "lib32/", "lib64/", "libx32/")


class _Package(msgspec.Struct, frozen=True):
    name: str
    architecture: str
    version: str


class PackageRecords:
    """The packages that an image has otherwise than its parent, and their files. Reads on demand."""

    def __init__(self, files: ImageFiles) -> None:
        self._files = files

    def explains(self, path: str, entry: Entry | None) -> bool:
        """Whether a package that was installed, upgraded or removed since the parent accounts for a change.

        ``entry``: what is now at the path; a file must have the content that the package's checksums tell.
        """
        path = _merged(path)
        if entry is None:
            return path in self._left
        if entry.kind == "file" and path in self._checksums:
            try:
                content = self._files.read(entry.path)
            except FileTooLarge:
                return False
            return hashlib.md5(content, usedforsecurity=False).hexdigest() == self._checksums[path]
        return entry.kind != "file" and path in self._listed

    @cached_property
    def _image(self) -> set[_Package]:
        return _packages(_text(self._files, STATUS, of_parent=False))

    @cached_property
    def _parent(self) -> set[_Package]:
        return _packages(_text(self._files, STATUS, of_parent=True))

    @cached_property
    def _checksums(self) -> dict[str, str]:
        found = {}
        for package in self._image - self._parent:
            for line in self._info(package, "md5sums", of_parent=False):
                digest, _, path = line.partition("  ")
                found[_merged(path)] = digest
            for line in _conffiles(_text(self._files, STATUS, of_parent=False), package.name):
                path, _, digest = line.partition(" ")
                found[_merged(path.strip("/"))] = digest
        return found

    @cached_property
    def _listed(self) -> set[str]:
        packages = self._image - self._parent
        return {_merged(p.strip("/")) for package in packages for p in self._info(package, "list", of_parent=False)}

    @cached_property
    def _left(self) -> set[str]:
        packages = self._parent - self._image
        return {_merged(p.strip("/")) for package in packages for p in self._info(package, "list", of_parent=True)}

    def _info(self, package: _Package, kind: str, *, of_parent: bool) -> list[str]:
        names = (f"{package.name}.{kind}", f"{package.name}:{package.architecture}.{kind}")
        return [
            line for name in names for line in _text(self._files, f"{INFO}/{name}", of_parent=of_parent).split("\n")
        ]


def _text(files: ImageFiles, path: str, *, of_parent: bool) -> str:
    try:
        content = files.read_parent(path) if of_parent else files.read(path)
    except (FileNotFoundError, FileTooLarge):
        return ""
    return content.decode("utf-8", "surrogateescape")


def _packages(status: str) -> set[_Package]:
    found = set()
    for stanza in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.split("\n") if ": " in line and line[0] != " ")
        if fields.get("Status", "").endswith(" installed"):
            found.add(_Package(fields.get("Package", ""), fields.get("Architecture", ""), fields.get("Version", "")))
    return found


def _conffiles(status: str, name: str) -> list[str]:
    place = f"\n{status}".find(f"\nPackage: {name}\n")
    stanza = status[place:].split("\n\n", 1)[0] if place >= 0 else ""
    _, _, listed = stanza.partition("\nConffiles:\n")
    lines = []
    for line in listed.split("\n"):
        if not line.startswith(" "):
            break
        lines.append(line.strip())
    return lines


def _merged(path: str) -> str:
    """The path in a system whose ``/bin`` and ``/lib`` are links into ``/usr``."""
    return f"usr/{path}" if path.startswith(MERGED) else path
