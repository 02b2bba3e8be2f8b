"""Blobs in a Supabase project: large ones in Storage if it has that, the others in a table, in parts of a mebibyte.

A blob is there when its row is, which says where its content lies, and is written when that was found to have its
digest: by the database, or for Storage by reading it back. So it is there whole or not at all; what a writer that died
left of one is written over by the next. What is read is checked again here: other bytes than those that were put are
never returned.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64decode, b64encode
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, BinaryIO, cast

from events.errors import InputError, LogCorrupt, LogUnavailable
from store.blobs import ListedBlobs, check_digest
from store.supabase.rest import Rest
from store.supabase.storage import Storage

__all__ = ["LARGE_BYTES", "SupabaseBlobs"]

LARGE_BYTES = 4 << 20
"""What is larger goes to Storage, where that can be used."""
PART_BYTES = 1 << 20
IN_MEMORY_BYTES = 8 << 20
"""What is larger is kept in a temporary file on its way."""
SEAL_TRIES = 3
PAGE_ROWS = 1000


class SupabaseBlobs(ListedBlobs):
    """Blobs behind ``rest``. Raises what it raises besides what :class:`store.blobs.BlobStore` says."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._storage = Storage(rest)

    def put(self, data: bytes) -> str:
        return self._store(BytesIO(data), hashlib.sha256(data).hexdigest(), size=len(data))

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
            return self._store(copy, hasher.hexdigest(), size=copy.tell())

    def get(self, digest: str) -> bytes:
        file = BytesIO()
        self._fill(file, check_digest(digest))
        return file.getvalue()

    def open(self, digest: str) -> BinaryIO:
        check_digest(digest)
        file = SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115 - handed out
        try:
            self._fill(file, digest)
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

    def _store(self, file: IO[bytes], digest: str, *, size: int) -> str:
        if self.has(digest):
            return digest
        if size > LARGE_BYTES and self._storage.usable() and self._storage.put(digest, file):
            self._rest.rpc("headrace_seal_stored", {"digest": digest, "size": size})
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

    def _fill(self, file: IO[bytes], digest: str) -> None:
        """Writes the content of a blob into an empty file; it is checked when this returns."""
        first = self._part(digest, 0)
        if first["parts"] == 0 and first["size"] > 0:
            (row,) = self._rest.select("blobs", "stored_in", equal={"digest": digest}, order="digest", limit=1)
            if row["stored_in"] != "storage":
                raise LogCorrupt(where=f"blob {digest}", detail=f"it has no parts at {self._rest.url}")
            self._storage.read(digest, file)
            return
        hasher, part = hashlib.sha256(), first
        for number in range(max(1, first["parts"])):
            if number:
                part = self._part(digest, number)
            if first["parts"] and part["data"] is None:
                raise LogCorrupt(where=f"blob {digest}", detail=f"its part {number} is missing from {self._rest.url}")
            data = b64decode(part["data"] or "")
            hasher.update(data)
            file.write(data)
        if hasher.hexdigest() != digest:
            raise LogCorrupt(where=f"blob {digest}", detail="its content does not match its digest")

    def _part(self, digest: str, number: int) -> dict[str, Any]:
        answer: dict[str, Any] | None = self._rest.rpc("headrace_get_part", {"digest": digest, "part": number})
        if answer is None:
            raise LogCorrupt(where=f"blob {digest}", detail=f"it is missing from {self._rest.url}")
        return answer
