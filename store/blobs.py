"""Blobs: bytes of any size, named by the SHA-256 of their content.

A blob is there whole or not at all, and is durable when ``put`` returns; putting it twice is the same as once. What is
read is checked against its name: other bytes than those that were put are never returned. ``FileBlobs`` may be used by
any number of processes at once and needs no lock; a crash leaves at most a file in its ``tmp`` folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import BinaryIO

from events.errors import InputError, LogCorrupt, LogUnavailable

__all__ = ["BlobStore", "FileBlobs", "ListedBlobs", "MemoryBlobs", "check_digest"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_CHUNK_BYTES = 1 << 20


class BlobStore(ABC):
    """Content-addressed bytes."""

    @abstractmethod
    def put(self, data: bytes) -> str:
        """Stores ``data`` and returns its digest.

        Raises:
            LogUnavailable: the disk is full or the folder cannot be written.
        """

    @abstractmethod
    def put_file(self, path: str | os.PathLike[str]) -> str:
        """Stores what the file at ``path`` holds now, without loading it whole, and returns its digest.

        Raises:
            InputError: the file cannot be read.
            LogUnavailable: the disk is full or the folder cannot be written.
        """

    @abstractmethod
    def get(self, digest: str) -> bytes:
        """The content of a blob.

        Raises:
            LogCorrupt: it is missing, or is not what was put.
            ValueError: ``digest`` is not 64 lower-case hexadecimal digits.
        """

    @abstractmethod
    def open(self, digest: str) -> BinaryIO:
        """The content of a blob as a file, checked before it is handed out. Raises what ``get`` raises."""

    @abstractmethod
    def has(self, digest: str) -> bool:
        """Whether the blob is here; its content is not looked at."""


class ListedBlobs(BlobStore):
    """Blobs that can be counted up."""

    @abstractmethod
    def digests(self) -> Iterator[str]:
        """The digests of all blobs, in their order; one that is put meanwhile may be missing."""


class MemoryBlobs(ListedBlobs):
    """Blobs in a dictionary, for tests."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self._blobs[digest] = bytes(data)
        return digest

    def put_file(self, path: str | os.PathLike[str]) -> str:
        return self.put(b"".join(_chunks_of(Path(path))))

    def get(self, digest: str) -> bytes:
        data = self._blobs.get(check_digest(digest))
        if data is None:
            raise LogCorrupt(where=f"blob {digest}", detail="it is missing")
        return data

    def open(self, digest: str) -> BinaryIO:
        return BytesIO(self.get(digest))

    def has(self, digest: str) -> bool:
        return check_digest(digest) in self._blobs

    def digests(self) -> Iterator[str]:
        yield from sorted(self._blobs)


class FileBlobs(ListedBlobs):
    """One file a blob, at ``ROOT/ab/cdef…``; the folder is made by the first ``put``."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        if not self._holds(digest, len(data)):
            self._store((data,))
        return digest

    def put_file(self, path: str | os.PathLike[str]) -> str:
        return self._store(_chunks_of(Path(path)))

    def get(self, digest: str) -> bytes:
        with self._file(digest) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != digest:
            raise self._damaged(digest)
        return data

    def open(self, digest: str) -> BinaryIO:
        file = self._file(digest)
        with ExitStack() as closing:
            closing.callback(file.close)
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise self._damaged(digest)
            file.seek(0)
            closing.pop_all()
        return file

    def has(self, digest: str) -> bool:
        return self.path_of(digest).is_file()

    def digests(self) -> Iterator[str]:
        for folder in sorted(self.root.glob("[0-9a-f][0-9a-f]")):
            for name in sorted(path.name for path in folder.iterdir()):
                if _DIGEST.fullmatch(folder.name + name):
                    yield folder.name + name

    def path_of(self, digest: str) -> Path:
        """The file of a blob, for people to look at; whether it is there is not checked."""
        return self.root / check_digest(digest)[:2] / digest[2:]

    def _file(self, digest: str) -> BufferedReader:
        path = self.path_of(digest)
        try:
            return path.open("rb")
        except FileNotFoundError as exc:
            raise LogCorrupt(where=f"blob {digest}", detail=f"it is missing from {self.root}") from exc
        except OSError as exc:
            raise LogUnavailable(f"blob {path} cannot be read: {exc.strerror}; check its permissions") from exc

    def _damaged(self, digest: str) -> LogCorrupt:
        return LogCorrupt(where=f"blob {self.path_of(digest)}", detail="its content does not match its digest")

    def _holds(self, digest: str, size: int) -> bool:
        try:
            return self.path_of(digest).stat().st_size == size
        except OSError:
            return False

    def _store(self, chunks: Iterable[bytes]) -> str:
        temporary = self.root / "tmp" / f"{os.getpid()}-{secrets.token_hex(8)}"
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            digest, size = _write_durably(temporary, chunks)
            if self._holds(digest, size):
                temporary.unlink()
                return digest
            path = self.path_of(digest)
            if not path.parent.is_dir():
                path.parent.mkdir(exist_ok=True)
                _sync_folder(self.root)
            temporary.replace(path)
            _sync_folder(path.parent)
        except OSError as exc:
            with suppress(OSError):
                temporary.unlink()
            raise LogUnavailable(
                f"blobs in {self.root} cannot be written: {exc.strerror}; free some space or correct its permissions, "
                f"nothing was stored"
            ) from exc
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        return digest


def check_digest(digest: str) -> str:
    """``digest``; raises ``ValueError`` unless it is 64 lower-case hexadecimal digits."""
    if not _DIGEST.fullmatch(digest):
        raise ValueError(f"{digest!r} is no SHA-256 digest: 64 lower-case hexadecimal digits")
    return digest


def _chunks_of(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    except OSError as exc:
        raise InputError(f"{path} cannot be read: {exc.strerror}; nothing was stored") from exc


def _write_durably(path: Path, chunks: Iterable[bytes]) -> tuple[str, int]:
    hasher, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for chunk in chunks:
            hasher.update(chunk)
            size += len(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return hasher.hexdigest(), size


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
