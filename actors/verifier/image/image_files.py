"""An image's file system, seen from outside: nothing of the image is run, no link of it is followed.

Paths are relative to the image's root, without a leading slash, and never go through a link: what lies behind one is
found under its own path.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Literal, Self

import msgspec

__all__ = ["MAX_READ_BYTES", "Entry", "FileTooLarge", "ImageConfig", "ImageFiles"]

MAX_READ_BYTES = 64 * 1024 * 1024


class FileTooLarge(Exception):
    """A file is larger than the caller wants to read; the text names it."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One path of an image. ``mode``: permission bits, set-user-id and the like included; ``target``: of a link."""

    path: str
    kind: Literal["file", "folder", "link", "other"]
    mode: int
    size: int = 0
    target: str = ""


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an image's configuration would give a container. ``environment`` is in the order of the image;
    ``parent_environment`` is what the trusted parent's configuration sets."""

    environment: dict[str, str]
    volumes: list[str]
    parent_environment: dict[str, str] = {}


class ImageFiles(ABC):
    """The files of one image, beside those of the trusted parent that it was built on; a context manager."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees what reading the image took; nothing may be asked afterwards."""
        return

    @property
    @abstractmethod
    def config(self) -> ImageConfig:
        """The image's configuration."""

    @abstractmethod
    def changed(self) -> Mapping[str, Entry | None]:
        """What differs from the parent: paths that were added or replaced, and ``None`` for those that are gone.

        A path that was written again with the kind, mode and content that the parent has is left out. Of a removed
        folder, everything that it held is named too.
        """

    @abstractmethod
    def entry(self, path: str) -> Entry | None:
        """What the image has at a path; ``None`` if nothing."""

    @abstractmethod
    def parent_entry(self, path: str) -> Entry | None:
        """What the parent has at a path; ``None`` if nothing."""

    @abstractmethod
    def walk(self, folder: str) -> Iterator[Entry]:
        """Everything below a folder of the image (not the folder itself), in the order of the paths."""

    def children(self, folder: str) -> list[Entry]:
        """What a folder of the image holds itself, in the order of the names; nothing if it is no folder."""
        depth = folder.count("/") + 1 if folder else 0
        return [entry for entry in self.walk(folder) if entry.path.count("/") == depth]

    @abstractmethod
    def read(self, path: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """The content of a regular file of the image.

        Raises:
            FileNotFoundError: there is no regular file at that path.
            FileTooLarge: it is larger than ``max_bytes``.
        """

    @abstractmethod
    def read_parent(self, path: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """The same of the parent."""
