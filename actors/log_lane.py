"""The log's lane: appends of actors on the log writer's own node, over a Unix socket instead of a Ray call.

A Ray call costs the two processes of it more than a millisecond of a core, an append over the lane a tenth of that. The
lane carries good news only: what comes back over it is recorded and durable. Whatever else happens (a batch is refused,
the log cannot be written, the writer dies, the caller is on another node) the answer is that there is none, and the
caller repeats the same batch through Ray, which recognises what is recorded already and tells errors as themselves.

A frame is the length of its content and a number that the caller chose (4 bytes each, big-endian), then the content:
a packed ``list[Append]`` there, a packed ``list[Appended]`` back, empty for no answer. The socket is in a folder that
only the writer's user may enter.
"""

from __future__ import annotations

import asyncio
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from store.log import Append, Appended, Refused

__all__ = ["LaneClient", "LaneServer"]

_HEAD = struct.Struct(">II")
_encode = msgspec.msgpack.Encoder().encode
_batches = msgspec.msgpack.Decoder(list[Append])
_results = msgspec.msgpack.Decoder(list[Appended])

Answer = asyncio.Future[list[Appended | Refused]]
Submit = Callable[[list[Append]], Answer]


class _Frames(asyncio.Protocol):
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what a Unix socket has
        self._transport = transport

    def send(self, number: int, content: bytes) -> None:
        """Sends one frame, unless the connection is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(_HEAD.pack(len(content), number) + content)

    def frames(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The frames that are complete with ``data``."""
        buffer, start = self._buffer, 0
        buffer += data
        while len(buffer) - start >= _HEAD.size:
            length, number = _HEAD.unpack_from(buffer, start)
            end = start + _HEAD.size + length
            if len(buffer) < end:
                break
            yield number, bytes(buffer[start + _HEAD.size : end])
            start = end
        del buffer[:start]


class _Caller(_Frames):
    """One connection, as the writer sees it."""

    def __init__(self, submit: Submit) -> None:
        super().__init__()
        self._submit = submit

    def data_received(self, data: bytes) -> None:
        for number, content in self.frames(data):
            try:
                answer = self._submit(_batches.decode(content))
            except msgspec.DecodeError:
                self.send(number, b"")
                continue
            answer.add_done_callback(lambda done, number=number: self._answer(number, done))  # type: ignore[misc]

    def _answer(self, number: int, done: Answer) -> None:
        failed = done.cancelled() or done.exception() is not None
        results: Sequence[Appended | Refused] = () if failed else done.result()
        good = bool(results) and all(isinstance(one, Appended) for one in results)
        self.send(number, _encode(results) if good else b"")


class LaneServer:
    """The writer's end. ``submit`` takes batches and returns what becomes of them."""

    def __init__(self, submit: Submit) -> None:
        self._submit = submit
        self._folder: Path | None = None
        self._server: asyncio.Server | None = None
        self._opening = asyncio.Lock()

    async def path(self) -> str:
        """Where the lane is, which is opened by the first call; empty: this machine has none."""
        async with self._opening:
            if self._server is None:
                with suppress(OSError):  # everything works without a lane
                    await self._open()
        return str(self._folder / "lane") if self._server is not None and self._folder is not None else ""

    async def _open(self) -> None:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="headrace-log-"))
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Caller(self._submit), self._folder / "lane")

    def close(self) -> None:
        """Takes no more callers and removes the socket."""
        if self._server is not None:
            self._server.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class LaneClient(_Frames):
    """A caller's end; used in the event loop that it was connected in."""

    def __init__(self) -> None:
        super().__init__()
        self._number = 0
        self._waiting: dict[int, asyncio.Future[list[Appended] | None]] = {}
        self.lost = False

    @classmethod
    async def connect(cls, path: str) -> LaneClient | None:
        """A connection to the lane at ``path``; ``None``: it does not lead there from here."""
        try:
            _, client = await asyncio.get_running_loop().create_unix_connection(cls, path)
        except OSError:
            return None
        return client

    async def append(self, batches: bytes) -> list[Appended] | None:
        """Where a packed ``list[Append]`` was recorded, durably; ``None``: to be repeated through Ray."""
        if self.lost:
            return None
        self._number = (self._number + 1) & 0xFFFFFFFF
        number = self._number
        answer: asyncio.Future[list[Appended] | None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self.send(number, batches)
        try:
            return await answer
        finally:
            self._waiting.pop(number, None)

    def data_received(self, data: bytes) -> None:
        for number, content in self.frames(data):
            answer = self._waiting.get(number)
            if answer is not None and not answer.done():
                answer.set_result(_results.decode(content) if content else None)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self.lost = True
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_result(None)
