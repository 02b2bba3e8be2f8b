"""What the dynamic loader will make of an image: its cache of libraries, and which libraries a program needs."""

from __future__ import annotations

import re
import struct
from collections import deque
from functools import cached_property
from posixpath import basename, dirname

from actors.verifier.image.image_files import FileTooLarge, ImageFiles
from actors.verifier.image.layout import Layout

__all__ = ["CACHE", "CacheUnreadable", "ParentLibraries", "read_cache"]

CACHE = "etc/ld.so.cache"
MAGIC = b"glibc-ld.so.cache1.1"
HEADER_BYTES, ENTRY_BYTES = 48, 24
ELF64_LITTLE = b"\x7fELF\x02\x01"
SEGMENT_LOAD, SEGMENT_DYNAMIC = 1, 2
TAG_NEEDED, TAG_STRINGS = 1, 5


class CacheUnreadable(Exception):
    """The loader's cache is not in the form that ldconfig of glibc 2.2 and later writes."""


def read_cache(data: bytes) -> list[tuple[str, str]]:
    """Pairs of a library's name, in the form in which the loader compares it, and the path that it would load.

    Raises:
        CacheUnreadable: the data has another form.
    """
    if not data.startswith(MAGIC) or len(data) < HEADER_BYTES:
        raise CacheUnreadable("it does not begin like one")
    (count,) = struct.unpack_from("<I", data, len(MAGIC))
    if HEADER_BYTES + count * ENTRY_BYTES > len(data):
        raise CacheUnreadable("it is cut short")
    found = []
    for place in range(HEADER_BYTES, HEADER_BYTES + count * ENTRY_BYTES, ENTRY_BYTES):
        _, key, value = struct.unpack_from("<iII", data, place)
        found.append((comparable(_string(data, key)), _string(data, value).strip("/")))
    return found


def comparable(name: str) -> str:
    """A library's name as the loader compares it: runs of digits by their value."""
    return re.sub(r"\d+", lambda digits: str(int(digits[0])), name)


def _string(data: bytes, place: int) -> str:
    end = data.find(b"\0", place)
    if not 0 <= place < len(data) or end < 0:
        raise CacheUnreadable("a name lies outside of it")
    return data[place:end].decode("utf-8", "surrogateescape")


class ParentLibraries:
    """The libraries of the trusted parent, and those of them that its interpreter may load. Reads on demand."""

    def __init__(self, files: ImageFiles, layout: Layout) -> None:
        self._files, self._layout = files, layout

    @cached_property
    def paths(self) -> dict[str, set[str]]:
        """Paths by name, from the parent's own cache."""
        found: dict[str, set[str]] = {}
        try:
            cache = read_cache(self._files.read_parent(CACHE))
        except (FileNotFoundError, CacheUnreadable):
            return found
        for name, path in cache:
            found.setdefault(name, set()).add(path)
        return found

    @cached_property
    def folders(self) -> set[str]:
        """The folders that the loader looks into, by their usual names and behind the links of a merged /usr."""
        folders = {dirname(path) for paths in self.paths.values() for path in paths}
        folders |= {"lib", "lib64", "usr/lib", "usr/lib64", "usr/local/lib", "usr/local/lib/x86_64-linux-gnu"}
        return folders | {f"usr/{folder}" for folder in folders if folder.startswith("lib")}

    @cached_property
    def of_interpreter(self) -> set[str]:
        """Names of the libraries that the interpreter and its standard library need, directly or not."""
        dynamic = f"{self._layout.stdlib}/lib-dynload"
        start = [f"{self._layout.home}/python{self._layout.version}"]
        start += [entry.path for entry in self._files.children(dynamic) if entry.path.endswith(".so")]
        names = {"libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1"}
        left = deque([*start, *(path for name in names for path in self.paths.get(name, ()))])
        while left:
            for name in map(comparable, self._needed(left.popleft())):
                if name not in names:
                    names.add(name)
                    left += self.paths.get(name, ())
        return names

    def is_of_interpreter(self, path: str) -> bool:
        """Whether a file of a library folder is, by its name, one that the interpreter loads; also under a name with
        the full version, to which the name that programs ask for is a link."""
        name = comparable(basename(path))
        stems = {known.partition(".so")[0] for known in self.of_interpreter}
        return name.startswith("ld-linux") or name.partition(".so")[0] in stems

    def _needed(self, path: str) -> list[str]:
        real = f"usr/{path}" if path.startswith("lib") else path
        for _ in range(5):
            entry = self._files.parent_entry(real)
            if entry is None or entry.kind != "link":
                break
            target = entry.target
            real = target.strip("/") if target.startswith("/") else f"{dirname(real)}/{target}"
        try:
            return _needed(self._files.read_parent(real))
        except (FileNotFoundError, FileTooLarge, struct.error):
            return []


def _needed(data: bytes) -> list[str]:
    """The names in a 64-bit ELF file's list of needed libraries."""
    if not data.startswith(ELF64_LITTLE):
        return []
    (headers,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQ", data, headers + size * place) for place in range(count)]
    tags = []
    for kind, _, offset, _, _, length in segments:
        if kind == SEGMENT_DYNAMIC:
            tags = [struct.unpack_from("<qQ", data, offset + place) for place in range(0, length, 16)]
    table = next((value for tag, value in tags if tag == TAG_STRINGS), 0)
    for kind, _, offset, address, _, length in segments:
        if kind == SEGMENT_LOAD and address <= table < address + length:
            strings = table - address + offset
            return [_string(data, strings + value) for tag, value in tags if tag == TAG_NEEDED]
    return []
