"""The log's single writer: an actor that owns the store and commits for everybody, in groups.

Guarantees: an ``append`` that returns is durable; batches that arrive while a commit is under way share the next one
(one fsync for all of them), whether they come by a call or over the lane. If the process dies, callers get
``ActorGone`` and repeat with the same event ids: nothing is recorded twice. The lock on the log dies with the process,
so the restarted writer opens it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import msgspec

from actors import faults
from actors.log_lane import LaneServer
from store.blobs import FileBlobs
from store.log import Append, Appended, RecordedEvent, Refused, Snapshot
from store.opening import Store, open_store
from store.read_models import AttemptRow, CachedContext
from store.snapshots import find_snapshot, save_snapshot

__all__ = ["LogWriter", "OpenedLog", "pack", "unpack_events", "unpack_snapshot"]

T = TypeVar("T")
READ_PAGE = 2_000
_encoder = msgspec.msgpack.Encoder()
_appends = msgspec.msgpack.Decoder(list[Append])
_events = msgspec.msgpack.Decoder(list[RecordedEvent])
_snapshot = msgspec.msgpack.Decoder(Snapshot)


def pack(value: object) -> bytes:
    """msgspec bytes of structs, as they cross between actors."""
    return _encoder.encode(value)


def unpack_events(data: bytes) -> list[RecordedEvent]:
    """What :meth:`LogWriter.read` returned."""
    return _events.decode(data)


def unpack_snapshot(data: bytes) -> Snapshot | None:
    """What :meth:`LogWriter.snapshot` returned."""
    return _snapshot.decode(data) if data else None


class OpenedLog(msgspec.Struct, frozen=True):
    """What a log calls itself, and where its blobs are: a folder as its own node sees it, the name of blobs that every
    node reaches (``store.opening.open_shared_blobs``), or nothing."""

    log_id: str
    blob_root: str


class LogWriter:
    """Owns one store. ``url`` and ``holder`` are those of ``open_store``, for which ``opener`` may stand in.

    ``lane``: takes appends of processes on its node over a socket too (:mod:`actors.log_lane`).
    """

    def __init__(self, url: str, holder: str, opener: Callable[..., Store] = open_store, lane: bool = False) -> None:
        self._url, self._holder, self._opener = url, holder, opener
        self._store: Store | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="log")
        self._readers: ThreadPoolExecutor | None = None
        self._waiting: list[tuple[list[Append], asyncio.Future[list[Appended | Refused]]]] = []
        self._committer: asyncio.Task[None] | None = None
        self._lane = LaneServer(self._submit) if lane else None

    def __repr__(self) -> str:
        return f"LogWriter({self._url})"

    async def open(self) -> OpenedLog:
        """Opens the store, creating it if need be; raises what ``open_store`` raises."""
        store = await self._in_thread(self._opened)
        root = str(store.blobs.root) if isinstance(store.blobs, FileBlobs) else store.shared_blobs
        return OpenedLog(store.log.log_id, root)

    async def append(self, batches: bytes) -> list[Appended | Refused]:
        """Commits a packed ``list[Append]``; one result each, in order. Raises ``LogUnavailable`` if none is sure."""
        return await self._submit(_appends.decode(batches))

    async def lane(self) -> str:
        """Where callers on this node may append too; empty: nowhere."""
        return await self._lane.path() if self._lane is not None else ""

    async def read(self, stream: str, after: int) -> bytes:
        """One packed page of a stream's events with a version above ``after``; an empty page is the end."""

        def page() -> bytes:
            return pack(list(self._opened().log.read_stream(stream, after=after, limit=READ_PAGE)))

        return await self._aside(page)

    async def snapshot(self, stream: str) -> bytes:
        """The packed snapshot of a stream, or nothing."""

        def found() -> bytes:
            snapshot = find_snapshot(self._opened().log, stream)
            return b"" if snapshot is None else pack(snapshot)

        return await self._aside(found)

    async def put_snapshot(self, stream: str, version: int, shape: str, state: bytes) -> None:
        """Stores a snapshot; raises as ``save_snapshot``."""
        await self._aside(lambda: save_snapshot(self._opened().log, stream, version=version, shape=shape, state=state))

    async def contexts_of(self, owner: str, repo: str) -> list[CachedContext]:
        """What the build-context cache knows of a repository."""
        return await self._aside(lambda: self._opened().models.contexts_of(owner, repo))

    async def attempts_of(self, owner: str, repo: str, issue_number: int) -> list[AttemptRow]:
        """The attempts on one pull request."""

        def found() -> list[AttemptRow]:
            return self._opened().models.attempts(owner=owner, repo=repo, issue_number=issue_number)

        return await self._in_thread(found)

    async def put_blob(self, data: bytes) -> str:
        """Stores a blob; returns its digest."""
        return await self._aside(lambda: self._opened().blobs.put(data))

    async def get_blob(self, digest: str) -> bytes:
        """The content of a blob."""
        return await self._aside(lambda: self._opened().blobs.get(digest))

    async def has_blob(self, digest: str) -> bool:
        """Whether a blob is there."""
        return await self._aside(lambda: self._opened().blobs.has(digest))

    async def close(self) -> None:
        """Gives the log and its lock up, after what is under way."""
        if self._lane is not None:
            self._lane.close()
        if self._committer is not None:
            await self._committer
        await self._in_thread(lambda: self._store.close() if self._store else None)

    def _submit(self, batches: list[Append]) -> asyncio.Future[list[Appended | Refused]]:
        """What becomes of ``batches``, which go into the next commit."""
        future: asyncio.Future[list[Appended | Refused]] = asyncio.get_running_loop().create_future()
        self._waiting.append((batches, future))
        if self._committer is None or self._committer.done():
            self._committer = asyncio.create_task(self._commit())
        return future

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _aside(self, work: Callable[[], T]) -> T:
        """Work that is no append: beside others where the store is the better for it."""
        return await asyncio.get_running_loop().run_in_executor(self._readers or self._thread, work)

    def _opened(self) -> Store:
        if self._store is None:
            self._store = self._opener(self._url, write=True, holder=self._holder)
            if self._store.calls_at_once > 1:
                self._readers = ThreadPoolExecutor(self._store.calls_at_once, thread_name_prefix="log reader")
        return self._store

    def _append(self, batches: list[Append]) -> list[Appended | Refused]:
        faults.hit(faults.WRITER_BEFORE_COMMIT)
        results = self._opened().log.append_many(batches)
        faults.hit(faults.WRITER_AFTER_COMMIT)
        return results

    async def _commit(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            batches = [batch for given, _ in group for batch in given]
            try:
                results = await self._in_thread(partial(self._append, batches))
            except Exception as exc:
                for _, future in group:
                    future.set_exception(exc)
                continue
            for given, future in group:
                future.set_result(results[: len(given)])
                results = results[len(given) :]
