"""The commit that an image claims to hold, read from the host's own mirror: the truth that images are compared with."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from functools import cached_property

import msgspec

from store.sources import Mirror

__all__ = ["EXECUTABLE", "LINK", "SUBMODULE", "CommitTree", "TreeFile"]

EXECUTABLE, LINK, SUBMODULE = "100755", "120000", "160000"
SHA256_DIGITS = 64


class TreeFile(msgspec.Struct, frozen=True):
    """One file of a commit. ``mode``: ``100644``, ``100755``, ``120000`` (a link) or ``160000`` (a submodule);
    ``blob``: its object id."""

    mode: str
    blob: str
    size: int


class CommitTree:
    """The files of one commit. Reads from the mirror on demand; ``InfraError`` when git fails."""

    def __init__(self, mirror: Mirror, commit: str) -> None:
        self.mirror, self.commit = mirror, commit
        self._read: dict[str, bytes] = {}

    @cached_property
    def files(self) -> dict[str, TreeFile]:
        """All files by path, in the order of the paths."""
        found = {}
        listed = self.mirror.git("ls-tree", "-r", "-l", "-z", "--full-tree", self.commit)
        for line in listed.split(b"\0"):
            if line:
                header, _, name = line.partition(b"\t")
                mode, _, blob, size = header.decode("ascii").split()
                found[os.fsdecode(name)] = TreeFile(mode, blob, 0 if size == "-" else int(size))
        return dict(sorted(found.items()))

    @cached_property
    def folders(self) -> frozenset[str]:
        """All folders that hold a file, at whatever depth; the root is the empty string."""
        found = set()
        for path in self.files:
            folder = path.rpartition("/")[0]
            while folder not in found:
                found.add(folder)
                folder = folder.rpartition("/")[0]
        return frozenset(found | {""})

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """Paths of files by their last part."""
        found: dict[str, list[str]] = {}
        for path in self.files:
            found.setdefault(path.rpartition("/")[2], []).append(path)
        return found

    @cached_property
    def blobs(self) -> frozenset[str]:
        """The object ids of all files."""
        return frozenset(file.blob for file in self.files.values())

    def blob_id(self, content: bytes) -> str:
        """The object id that a file with this content has in this repository, whose ids are SHA-1 or SHA-256."""
        digits = len(next(iter(self.blobs), self.commit))
        hashed = hashlib.sha256() if digits == SHA256_DIGITS else hashlib.sha1(usedforsecurity=False)
        hashed.update(b"blob %d\0" % len(content))
        hashed.update(content)
        return hashed.hexdigest()

    def prefetch(self, paths: Iterable[str]) -> None:
        """Reads many files in one call of git; later calls of ``read`` find them. Unknown paths are passed over."""
        wanted = [p for p in dict.fromkeys(paths) if p in self.files and p not in self._read and self._is_blob(p)]
        if not wanted:
            return
        names = "".join(f"{self.files[path].blob}\n" for path in wanted)
        answer = self.mirror.git("cat-file", "--batch", stdin=names.encode())
        start = 0
        for path in wanted:
            header_end = answer.index(b"\n", start)
            size = int(answer[start:header_end].split()[2])
            self._read[path] = answer[header_end + 1 : header_end + 1 + size]
            start = header_end + 1 + size + 1

    def _is_blob(self, path: str) -> bool:
        return self.files[path].mode != SUBMODULE

    def read(self, path: str) -> bytes:
        """The content of a file of this commit.

        Raises:
            KeyError: the commit has no such file.
        """
        if path not in self._read:
            self._read[path] = self.mirror.git("cat-file", "blob", self.files[path].blob)
        return self._read[path]

    def preload(self, paths: Iterable[str]) -> None:
        """Reads many files with one call of git; ``read`` then has them at hand. Paths must be the commit's."""
        wanted = [path for path in paths if path not in self._read and self.files[path].mode != "160000"]
        names = "".join(f"{self.files[path].blob}\n" for path in wanted)
        answer = self.mirror.git("cat-file", "--batch", stdin=names.encode()) if wanted else b""
        position = 0
        for path in wanted:
            begin = answer.index(b"\n", position) + 1
            position = begin + self.files[path].size
            self._read[path] = answer[begin:position]
            position += 1

    def text(self, path: str) -> str:
        """The same as text; what is not UTF-8 is replaced. Empty for a file that the commit does not have."""
        known = path in self.files and self._is_blob(path)
        return self.read(path).decode("utf-8", "replace") if known else ""
