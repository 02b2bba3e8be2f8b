"""Blobs in a Supabase project: in parts of a mebibyte, sealed when the database has found them to have their digest.

A blob is there whole or not at all; what a writer that died left of one is written over by the next. What is read is
checked again here: other bytes than those that were put are never returned.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, BinaryIO, cast

from events.errors import InputError, LogCorrupt, LogUnavailable
from store.blobs import ListedBlobs, check_digest
from store.supabase.rest import Rest

__all__ = ["SupabaseBlobs"]

PART_BYTES = 1 << 20
IN_MEMORY_BYTES = 8 << 20
"""What is larger is kept in a temporary file on its way."""
SEAL_TRIES = 3
PAGE_ROWS = 1000


class SupabaseBlobs(ListedBlobs):
    """Blobs behind ``rest``. Raises what it raises besides what :class:`store.blobs.BlobStore` says."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    def put(self, data: bytes) -> str:
        return self._store(BytesIO(data), hashlib.sha256(data).hexdigest())

    def put_file(self, path: str | os.PathLike[str]) -> str:
        hasher = hashlib.sha256()
        with SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as copy:
            try:
                with Path(path).open("rb") as file:
                    while chunk := file.read(PART_BYTES):
                        hasher.update(chunk)
                        copy.write(chunk)
            except OSError as exc:
                raise InputError(f"{path} cannot be read: {exc.strerror}; nothing was stored") from exc
            return self._store(copy, hasher.hexdigest())

    def get(self, digest: str) -> bytes:
        return b"".join(self._parts(check_digest(digest)))

    def open(self, digest: str) -> BinaryIO:
        check_digest(digest)
        file = SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115 - handed out
        try:
            for part in self._parts(digest):
                file.write(part)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return cast(BinaryIO, file)

    def has(self, digest: str) -> bool:
        equal = {"digest": check_digest(digest)}
        return bool(self._rest.select("blobs", "digest", equal=equal, order="digest", limit=1))

    def digests(self) -> Iterator[str]:
        after = ""
        while page := self._rest.select("blobs", "digest", above={"digest": after}, order="digest", limit=PAGE_ROWS):
            for row in page:
                yield row["digest"]
            after = page[-1]["digest"]

    def _store(self, file: IO[bytes], digest: str) -> str:
        if self.has(digest):
            return digest
        for _ in range(SEAL_TRIES):
            file.seek(0)
            parts = 0
            while chunk := file.read(PART_BYTES):
                arguments = {"digest": digest, "part": parts, "data": b64encode(chunk).decode()}
                self._rest.rpc("headrace_put_part", arguments)
                parts += 1
            if self._rest.rpc("headrace_seal", {"digest": digest, "parts": parts}):
                return digest
        raise LogUnavailable(f"blob {digest} arrives damaged at {self._rest.url}; nothing was stored, put it again")

    def _parts(self, digest: str) -> Iterator[bytes]:
        """The parts of a blob; what they come to is checked before the last one is handed out."""
        hasher, parts, number = hashlib.sha256(), 1, 0
        part = b""
        while number < parts:
            if number:
                yield part
            answer = self._rest.rpc("headrace_get_part", {"digest": digest, "part": number})
            if answer is None:
                raise LogCorrupt(where=f"blob {digest}", detail=f"it is missing from {self._rest.url}")
            if answer["parts"] and answer["data"] is None:
                raise LogCorrupt(where=f"blob {digest}", detail=f"its part {number} is missing from {self._rest.url}")
            parts, number = answer["parts"], number + 1
            part = b64decode(answer["data"] or "")
            hasher.update(part)
        if hasher.hexdigest() != digest:
            raise LogCorrupt(where=f"blob {digest}", detail="its content does not match its digest")
        yield part
