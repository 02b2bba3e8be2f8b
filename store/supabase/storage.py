"""Supabase Storage, if the project has it: objects named by their digest, in a private bucket of our own.

Every call may be made again: an object is written over by the same bytes. An upload counts only when the object was
read back and found to have its digest. Whether Storage can be used is found out once; where it cannot, that is said
once, and callers keep their bytes elsewhere. What is read is checked: other bytes than were put are never handed out.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from io import BytesIO
from typing import IO, TypeVar

import httpx
import msgspec
from loguru import logger
from storage3.exceptions import StorageApiError

from events.errors import LogCorrupt, LogUnavailable
from store.supabase.rest import OPEN_FOR_S, NotNow, Rest

__all__ = ["BUCKET", "Storage"]

T = TypeVar("T")

BUCKET = "headrace-blobs"
UPLOAD_TRIES = 3
CHUNK_BYTES = 1 << 20
_NO_JSON = "InternalError"
"""What storage3 says where an error is not of Storage, but of something in front of it or in its place."""


class _Refusal(Exception):
    """An answer that no repetition changes."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"HTTP {status}, {code}: {message}")
        self.status = status
        self.bucket_missing = status == 404 and code != _NO_JSON
        self.object_missing = status == 404 and (code in ("not_found", "NoSuchKey") or message == "Object not found")


class _ErrorBody(msgspec.Struct):
    """What Storage says of an error; its HTTP status is often 400, whatever it is."""

    message: str
    error: str
    statusCode: str | int  # noqa: N815 - its name there


class Storage:
    """The bucket of one project; safe to use from several threads. What asks it raises what ``rest`` raises."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._turn = threading.Lock()
        self._usable: bool | None = None
        self._size_told = False

    def usable(self) -> bool:
        """Whether objects can be kept here; the first call asks the project, and makes the bucket if it is missing."""
        with self._turn:
            if self._usable is None:
                why_not = self.why_not(make=True)
                self._usable = not why_not
                if why_not:
                    logger.info("{}: Storage is not used, all blobs go to the table: {}", self._rest.url, why_not)
            return self._usable

    def why_not(self, *, make: bool) -> str:
        """What keeps Storage from being used; empty: nothing. ``make``: a bucket that is missing is made."""
        try:
            public = self._is_public()
            if public is None and make:
                self._make()
                public = self._is_public()
        except (_Refusal, LogUnavailable) as exc:
            return self._rest.hide(str(exc))
        if public:
            return f"its bucket {BUCKET} is public; make it private"
        return f"its bucket {BUCKET} is made, but not found" if make and public is None else ""

    def put(self, digest: str, content: IO[bytes]) -> bool:
        """Keeps ``content`` as the object ``digest``; false: Storage does not take it, nothing that counts was kept.

        Raises:
            LogUnavailable: it gives no answer, or the object arrives damaged; put it again.
        """
        for _ in range(UPLOAD_TRIES):
            try:
                self._ask(lambda: self._upload(digest, content))
                if self._download(digest, None) == digest:
                    return True
            except _Refusal as exc:
                self._give_up(exc)
                return False
        raise LogUnavailable(
            f"blob {digest} arrives damaged in Storage at {self._rest.url}; nothing was stored, put it again"
        )

    def read(self, digest: str, into: IO[bytes]) -> None:
        """Writes the object ``digest`` into an empty file, whose content counts only when this returns.

        Raises:
            LogCorrupt: it is missing, or is not what was put.
            LogUnavailable: Storage is away, or switched off.
        """
        try:
            found = self._download(digest, into)
        except _Refusal as exc:
            if exc.object_missing:
                detail = f"it is missing from the bucket {BUCKET} of {self._rest.url}"
                raise LogCorrupt(where=f"blob {digest}", detail=detail) from exc
            raise LogUnavailable(
                f"blob {digest} is kept in Supabase Storage, and {self._rest.url} does not give it "
                f"({self._rest.hide(str(exc))}); switch Storage on again, with its bucket {BUCKET}"
            ) from exc
        if found != digest:
            raise LogCorrupt(where=f"blob {digest}", detail="its content does not match its digest")

    def _is_public(self) -> bool | None:
        """Whether the bucket can be read by everybody; ``None``: there is none yet."""
        try:
            return self._ask(lambda: self._rest.storage.get_bucket(BUCKET).public, patience_s=self._opening_s)
        except _Refusal as exc:
            if exc.bucket_missing:
                return None
            raise

    def _make(self) -> None:
        try:
            make = self._rest.storage.create_bucket
            self._ask(lambda: make(BUCKET, options={"public": False}), patience_s=self._opening_s)
        except _Refusal as exc:
            if exc.status != 409:  # somebody else, or an earlier try of ours, made it
                raise

    def _upload(self, digest: str, content: IO[bytes]) -> None:
        upload = self._rest.storage.from_(BUCKET).upload
        # No cache in between may answer with what an earlier try left.
        options: dict[str, str] = {"content-type": "application/octet-stream", "cache-control": "0", "upsert": "true"}
        if isinstance(content, BytesIO):
            upload(digest, content.getvalue(), options)  # type: ignore[arg-type]
            return
        descriptor = os.dup(content.fileno())  # the client takes no temporary file
        with os.fdopen(descriptor, "rb") as file:
            content.flush()
            file.seek(0)
            upload(digest, file, options)  # type: ignore[arg-type]

    def _download(self, digest: str, into: IO[bytes] | None) -> str:
        """Writes an object into a file, if one is given, and returns the digest of what came.

        Not by ``download`` of the client, which holds an object in memory as a whole.
        """

        def ask() -> str:
            hasher = hashlib.sha256()
            if into is not None:
                into.seek(0)
                into.truncate()
            with self._rest.stream(f"storage/v1/object/{BUCKET}/{digest}") as answer:
                if not answer.is_success:
                    raise _said_by(answer)
                for chunk in answer.iter_bytes(CHUNK_BYTES):
                    hasher.update(chunk)
                    if into is not None:
                        into.write(chunk)
            return hasher.hexdigest()

        return self._ask(ask)

    def _ask(self, ask: Callable[[], T], *, patience_s: float | None = None) -> T:
        """What ``ask`` returns, repeated as every call of the store; raises ``_Refusal`` too."""

        def asked() -> T:
            try:
                return ask()
            except StorageApiError as exc:
                raise _classified(_status(exc.status), str(exc.code), str(exc.message)) from exc
            except (ValueError, KeyError, TypeError) as exc:
                raise _Refusal(200, type(exc).__name__, "an answer that Storage does not give") from exc

        return self._rest.insist(asked, patience_s=patience_s)

    @property
    def _opening_s(self) -> float:
        return min(OPEN_FOR_S, self._rest.patience_s)

    def _give_up(self, exc: _Refusal) -> None:
        """Says why a blob goes to the table; unless it was too large, all others follow it."""
        said = self._rest.hide(str(exc))
        with self._turn:
            if exc.status == 413:
                if not self._size_told:
                    logger.info("{}: blobs above the size limit of Storage go to the table: {}", self._rest.url, said)
                self._size_told = True
                return
            if self._usable:
                logger.info("{}: Storage is not used any more, blobs go to the table: {}", self._rest.url, said)
            self._usable = False


def _classified(status: int, code: str, message: str) -> Exception:
    """What to raise for an error of Storage: that it be asked again, or that this is no use."""
    said = " ".join(message.split())[:300]
    if status in (408, 423, 425, 429) or (status >= 500 and status != 501):
        return NotNow(f"Storage, HTTP {status}, {code}: {said}")
    return _Refusal(status, code, said)


def _said_by(answer: httpx.Response) -> Exception:
    """The error in an answer that was not read yet."""
    try:
        body = msgspec.json.decode(answer.read(), type=_ErrorBody)
    except msgspec.MsgspecError:
        return _classified(answer.status_code, _NO_JSON, answer.text)
    return _classified(_status(body.statusCode), body.error, body.message)


def _status(said: str | int) -> int:
    return int(said) if str(said).isdigit() else 400
