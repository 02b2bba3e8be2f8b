"""A model server on loopback that answers as a script says: the common part of the four protocols.

A script is JSON, ``{"turns": [TURN, …], "session": REGEX}``. The turns of a conversation are taken in order, one per
request of the CLI that offers tools; the last one is repeated for ever. A ``TURN`` is one of

- ``{"say": TEXT}``: the model answers with text and is done;
- ``{"run": COMMAND, "say": TEXT}``: it calls the CLI's shell tool (``say`` is optional);
- ``{"tool": NAME, "input": JSON}``: it calls another tool of the CLI's (claude only);
- ``{"status": CODE, "error": JSON, "headers": {…}}``: an HTTP error; ``error`` is the body;
- ``{"stall_s": SECONDS}``: nothing for that long, then the connection is closed;
- ``{"cut": true}``: the answer begins and breaks off;
- ``{"fail": JSON}``: the answer begins, then says in its stream that it failed.

Each may have ``"times": N`` (used for N requests) and ``"headers"``. ``session`` finds in the request's body what tells
conversations apart (its first group); without it the first message of the user does.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import threading
from collections.abc import Iterable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self

__all__ = ["Json", "ModelHandler", "ModelServer", "Recorded"]

Json = dict[str, Any]


class Recorded:
    """One request as it came in. ``turn`` is the turn that answered it, ``None`` for a side request."""

    def __init__(self, *, path: str, headers: Mapping[str, str], body: Json, turn: Json | None) -> None:
        self.path, self.headers, self.body, self.turn = path, headers, body, turn


class ModelServer:
    """Serves one protocol until the ``with`` block ends. ``url`` is its address without a path."""

    handler: ClassVar[type[ModelHandler]]

    def __init__(self, script: Json, *, port: int = 0) -> None:
        self.script = script
        self.requests: list[Recorded] = []
        self.closing = threading.Event()
        self._used: dict[str, int] = {}
        self._lock = threading.Lock()
        bound = type("Bound", (self.handler,), {"model": self})
        self._http = _Server(("127.0.0.1", port), bound)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def model_calls(self) -> list[Recorded]:
        """The requests that a turn answered."""
        return [request for request in self.requests if request.turn is not None]

    def take(self, *, conversation: str, raw: str) -> Json:
        """The turn for the next request of a conversation."""
        pattern = self.script.get("session")
        found = re.search(pattern, raw) if pattern else None
        key = found.group(1) if found else hashlib.sha256(conversation.encode()).hexdigest()
        with self._lock:
            number = self._used.get(key, 0)
            self._used[key] = number + 1
        turns: list[Json] = self.script["turns"]
        for turn in turns:
            number -= int(turn.get("times", 1))
            if number < 0:
                return turn
        return turns[-1]

    def record(self, request: Recorded) -> None:
        """Notes a request."""
        with self._lock:
            self.requests.append(request)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A CLI that is ended in mid-request is no error here."""


class ModelHandler(BaseHTTPRequestHandler):
    """Parses requests and sends answers; subclasses know one protocol."""

    protocol_version = "HTTP/1.1"
    model: ModelServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Silent."""

    def do_GET(self) -> None:
        """Lists, health checks and the like."""
        self.handle_request({}, "")

    def do_HEAD(self) -> None:
        """Some CLIs look whether the server is there."""
        self.model.record(Recorded(path=self.path, headers=dict(self.headers.items()), body={}, turn=None))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        """A model call, most likely."""
        raw = self._body()
        try:
            body = json.loads(raw or "{}")
        except ValueError:
            body = {}
        self.handle_request(body, raw)

    def handle_request(self, body: Json, raw: str) -> None:
        """Finds the turn and answers with it."""
        path = self.path.split("?")[0]
        turn = None
        if self.is_model_call(path, body):
            turn = self.model.take(conversation=self.conversation(body), raw=raw)
        self.model.record(Recorded(path=self.path, headers=dict(self.headers.items()), body=body, turn=turn))
        if turn is None:
            self.answer_aside(path, body)
        elif "status" in turn:
            self.send_json(turn["status"], turn.get("error", {}), turn.get("headers", {}))
        elif "stall_s" in turn:
            self.model.closing.wait(turn["stall_s"])
            self.close_connection = True
        else:
            self.answer(path, body, turn)

    def is_model_call(self, path: str, body: Json) -> bool:
        """Does this request take a turn of the script?"""
        raise NotImplementedError

    def conversation(self, body: Json) -> str:
        """What tells this conversation from others."""
        raise NotImplementedError

    def answer(self, path: str, body: Json, turn: Json) -> None:
        """Answers as the model: text, a tool call, a failure in the stream, a cut."""
        raise NotImplementedError

    def answer_aside(self, path: str, body: Json) -> None:
        """Answers what is no model call."""
        self.send_json(404, {"error": {"message": f"no such path {path}"}}, {})

    def send_json(self, status: int, body: Json, headers: Mapping[str, object]) -> None:
        """One JSON answer."""
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(data), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def send_events(self, events: Iterable[Json], *, named: bool, done: bool, headers: Mapping[str, object]) -> None:
        """Server-sent events, then the connection is closed."""
        self.close_connection = True
        self.send_response(200)
        for name, value in {"Content-Type": "text/event-stream", "Connection": "close", **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        for event in events:
            if named:
                self.wfile.write(f"event: {event['type']}\n".encode())
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
        if done:
            self.wfile.write(b"data: [DONE]\n\n")

    def _body(self) -> str:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            data = gzip.decompress(data)
        return data.decode("utf-8", "replace")
