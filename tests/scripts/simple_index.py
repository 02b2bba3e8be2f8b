"""A package index on 127.0.0.1 for tests: the JSON simple API over files that the test makes.

It does not do: HTML, authentication, separate metadata files, range requests, or uploads. It serves what a test gives
it and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import unquote

MEDIA_TYPE = "application/vnd.pypi.simple.v1+json"


class SimpleIndex:
    """A context manager; ``url`` is the index's address. ``requests`` lists the paths that were asked for."""

    def __init__(self) -> None:
        self.media_type = MEDIA_TYPE
        self.requests: list[str] = []
        self.failures: list[int] = []
        """Status codes with which the next requests are answered instead."""
        self._projects: dict[str, list[dict[str, object]]] = {}
        self._content: dict[str, bytes] = {}
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index._answer(self)

            def do_HEAD(self) -> None:
                index._answer(self)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/simple"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, project: str, filename: str, content: bytes, *, uploaded: str | None, **more: object) -> None:
        """Serves a file from now on; ``more`` are further keys of its entry, which win."""
        self._content[filename] = content
        entry: dict[str, object] = {
            "filename": filename,
            "url": f"../../files/{filename}",
            "hashes": {"sha256": hashlib.sha256(content).hexdigest()},
            "yanked": False,
        }
        if uploaded is not None:
            entry["upload-time"] = uploaded
        self._projects.setdefault(project, []).append({**entry, **more})

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append(handler.path)
        kind, _, name = unquote(handler.path).strip("/").partition("/")
        status, body, media_type = 404, b"", "text/plain"
        if self.failures:
            status = self.failures.pop(0)
        elif kind == "simple" and name in self._projects:
            files = self._projects[name]
            page = {"meta": {"api-version": "1.1"}, "name": name, "files": files}
            status, body, media_type = 200, json.dumps(page).encode(), self.media_type
        elif kind == "files" and name in self._content:
            status, body, media_type = 200, self._content[name], "application/octet-stream"
        handler.send_response(status)
        handler.send_header("Content-Type", media_type)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)


def sdist(name: str, version: str, files: Mapping[str, str]) -> bytes:
    """A gzipped tar of a source distribution, with a ``PKG-INFO``."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        everything = {"PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", **files}
        for path, text in everything.items():
            member = tarfile.TarInfo(f"{name}-{version}/{path}")
            content = text.encode()
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def wheel(name: str, version: str, *, requires: tuple[str, ...] = (), requires_python: str = "") -> bytes:
    """A pure wheel that holds nothing but its metadata."""
    folder = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += f"Requires-Python: {requires_python}\n" if requires_python else ""
    metadata += "".join(f"Requires-Dist: {entry}\n" for entry in requires)
    files = {
        f"{folder}/METADATA": metadata,
        f"{folder}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as bundle:
        record = ""
        for path, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{path},sha256={digest},{len(text)}\n"
            bundle.writestr(path, text)
        bundle.writestr(f"{folder}/RECORD", f"{record}{folder}/RECORD,,\n")
    return out.getvalue()
