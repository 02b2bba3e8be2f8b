"""The commit that an image claims to hold, read from the host's own mirror: the truth that images are compared with."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cached_property

import msgspec

from store.sources import Mirror

__all__ = ["CommitTree", "TreeFile"]


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
        return self.read(path).decode("utf-8", "replace") if path in self.files else ""
