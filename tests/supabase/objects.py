"""What Supabase Storage does, as far as the store uses it: objects in a folder, ``FOLDER/PROJECT/BUCKET/NAME``.

It does, below ``/PROJECT/storage/v1/``: ``GET bucket/ID`` and ``POST bucket``, ``POST object/BUCKET/NAME`` (a form with
one file, ``x-upsert``), ``GET object/BUCKET/NAME``, ``GET object/public/BUCKET/NAME`` of a public bucket, the limit of
an object's size, errors as Storage words them: HTTP 400 with the status that is meant in the body.

It does not: policies (whoever is not ``service_role`` gets nothing but what is public), lists, moves, copies, removal,
signed addresses, resumable uploads, ranges, images, ETags, metadata, caches in between, the S3 protocol, durability,
more of atomic writes than renaming a file. What it does not know it answers with 501.

``POST /PROJECT/_storage`` sets :class:`StorageFaults`.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from email import message_from_bytes
from email.message import Message
from email.policy import HTTP
from pathlib import Path

import msgspec

from tests.supabase.answers import CutOff, CutShort, Refused, who_of

__all__ = ["Objects", "StorageFaults"]

PUBLIC = ".public"


class StorageFaults(msgspec.Struct, kw_only=True):
    """What goes wrong. ``off``: there is no Storage (404). ``forbidden``: the key is refused. ``unavailable``: so many
    requests get 503. ``cut_uploads``: so many objects are kept without an answer. ``damage_uploads``: so many are kept
    with a byte changed. ``cut_downloads``: so many objects are answered with their first half. ``limit_bytes``: the
    largest object that is taken."""

    off: bool = False
    forbidden: bool = False
    unavailable: int = 0
    cut_uploads: int = 0
    damage_uploads: int = 0
    cut_downloads: int = 0
    limit_bytes: int = 50 << 20


class _Failed(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.body = json.dumps({"statusCode": str(status), "error": error, "message": message}).encode()


class Objects:
    """Storage of one project, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._faults = StorageFaults()
        self._turn = threading.Lock()

    def answer(self, method: str, path: str, *, headers: Message[str, str], body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to a request below ``storage/v1/``, or below ``_storage``."""
        if path == "_storage":
            self._faults = msgspec.json.decode(body, type=StorageFaults)
            return 200, b"{}"
        if self._faults.off:
            return 404, b'{"message":"no Route matched with those values"}'
        if self._spend("unavailable"):
            return 503, b"<html>503 Service Temporarily Unavailable</html>"
        try:
            return self._answer(method, path.removeprefix("storage/v1/").split("/"), headers, body)
        except _Failed as exc:
            return 400, exc.body

    def _answer(self, method: str, parts: list[str], headers: Message[str, str], body: bytes) -> tuple[int, bytes]:
        if {"", ".", "..", PUBLIC} & set(parts):
            raise _Failed(400, "InvalidKey", "Invalid key")
        if method == "GET" and parts[:2] == ["object", "public"]:
            return self._download(*parts[2:], public=True)
        try:
            role = who_of(headers.get("Authorization")).role
        except Refused as exc:
            raise _Failed(403, "Unauthorized", str(exc)) from exc
        if role != "service_role" or self._faults.forbidden:
            raise _Failed(403, "Unauthorized", "new row violates row-level security policy")
        match method, parts:
            case "GET", ["bucket", bucket]:
                return self._bucket(bucket)
            case "POST", ["bucket"]:
                return self._create(json.loads(body))
            case "POST", ["object", bucket, name]:
                form = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + body
                return self._upload(bucket, name, form=form, over=headers.get("x-upsert") == "true")
            case "GET", ["object", bucket, name]:
                return self._download(bucket, name)
            case _:
                raise _Failed(501, "NotImplemented", f"{method} {'/'.join(parts)} is not implemented here")

    def _bucket(self, bucket: str) -> tuple[int, bytes]:
        folder = self._folder / bucket
        if not folder.is_dir():
            raise _Failed(404, "Bucket not found", "Bucket not found")
        at = "2026-11-01T00:00:00.000Z"
        found = {"id": bucket, "name": bucket, "owner": "", "public": (folder / PUBLIC).exists()}
        more = {"file_size_limit": None, "allowed_mime_types": None, "created_at": at, "updated_at": at}
        return 200, json.dumps(found | more).encode()

    def _create(self, asked: dict[str, object]) -> tuple[int, bytes]:
        folder = self._folder / str(asked["id"])
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise _Failed(409, "Duplicate", "The resource already exists") from None
        if asked.get("public"):
            (folder / PUBLIC).touch()
        return 200, json.dumps({"name": asked["name"]}).encode()

    def _upload(self, bucket: str, name: str, *, form: bytes, over: bool) -> tuple[int, bytes]:
        if not (self._folder / bucket).is_dir():
            raise _Failed(404, "Bucket not found", "Bucket not found")
        files = [part for part in message_from_bytes(form, policy=HTTP).walk() if part.get_filename()]
        content = files[0].get_payload(decode=True)
        assert isinstance(content, bytes)
        if len(content) > self._faults.limit_bytes:
            raise _Failed(413, "Payload too large", "The object exceeded the maximum allowed size")
        target = self._folder / bucket / name
        if target.exists() and not over:
            raise _Failed(409, "Duplicate", "The resource already exists")
        if self._spend("damage_uploads"):
            content = content[:-1] + bytes([content[-1] ^ 1])
        temporary = self._folder / uuid.uuid4().hex
        temporary.write_bytes(content)
        os.replace(temporary, target)  # noqa: PTH105
        if self._spend("cut_uploads"):
            raise CutOff
        return 200, json.dumps({"Id": uuid.uuid4().hex, "Key": f"{bucket}/{name}"}).encode()

    def _download(self, bucket: str, name: str, *, public: bool = False) -> tuple[int, bytes]:
        folder = self._folder / bucket
        if not folder.is_dir() or (public and not (folder / PUBLIC).exists()):
            raise _Failed(404, "Bucket not found", "Bucket not found")
        if not (folder / name).is_file():
            raise _Failed(404, "not_found", "Object not found")
        content = (folder / name).read_bytes()
        if self._spend("cut_downloads"):
            raise CutShort(content)
        return 200, content

    def _spend(self, fault: str) -> bool:
        with self._turn:
            left = int(getattr(self._faults, fault))
            setattr(self._faults, fault, max(0, left - 1))
            return left > 0
