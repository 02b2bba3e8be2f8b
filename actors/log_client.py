"""How actors reach the log: streams with an expected version, repeated with the same ids until the answer is known.

A :class:`StreamWriter` holds one stream: it loads it, folds nothing itself, and appends events under the version that
it knows. What it promises: when ``append`` returns, the events are durable, exactly once, directly behind what was
loaded. When somebody else has appended to the stream meanwhile, it raises ``VersionConflict`` and stays unusable: its
owner is stale and has to stop.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from actors.gateway import ActorGone, Ref
from actors.log_writer import pack, unpack_events
from events import codec
from events.errors import LogUnavailable
from events.types import Event, OutcomeReported
from events.work import Outcome
from store.blobs import BlobStore
from store.log import Append, Appended, NewEvent
from store.read_models import CachedContext

__all__ = ["LogClient", "RemoteBlobs", "StreamWriter", "insist", "new_event"]

RETRY_S = 0.2
RETRY_FOR_S = 120.0


def new_event(event: Event, event_id: str) -> NewEvent:
    """``event`` as the log takes it."""
    return NewEvent(event_id, type(event).__name__, codec.schema_of(event), codec.encode(event))


class LogClient:
    """The log writer as seen from an actor. Calls survive the writer's death: they wait for it to come back."""

    def __init__(self, writer: Ref) -> None:
        self.writer = writer

    async def append(self, stream: str, expected_version: int, events: list[NewEvent], *, at: float) -> Appended:
        """Appends one batch.

        Raises:
            VersionConflict, EventIdReused: as ``EventLog.append``.
            LogUnavailable: the log could not be written for two minutes.
        """
        batch = pack([Append(stream, expected_version, events, at)])
        (result,) = await self._insist("append", batch)
        if isinstance(result, Appended):
            return result
        raise result

    async def read(self, stream: str, *, after: int = 0) -> AsyncIterator[Event]:
        """The events of a stream, decoded, in order."""
        while True:
            page = unpack_events(await self._insist("read", stream, after))
            if not page:
                return
            for one in page:
                yield codec.decode(one.type, one.schema, one.data)
            after = page[-1].version

    async def reported_outcome(self, attempt_id: str) -> Outcome | None:
        """What a runner left in the mailbox of an attempt."""
        async for event in self.read(f"attempt:{attempt_id}"):
            if isinstance(event, OutcomeReported):
                return event.outcome
        return None

    async def contexts_of(self, owner: str, repo: str) -> list[CachedContext]:
        """What the build-context cache knows of a repository."""
        found: list[CachedContext] = await self._insist("contexts_of", owner, repo)
        return found

    async def get_blob(self, digest: str) -> bytes:
        """The content of a blob."""
        data: bytes = await self._insist("get_blob", digest)
        return data

    async def put_blob(self, data: bytes) -> str:
        """Stores a blob; returns its digest."""
        digest: str = await self._insist("put_blob", data)
        return digest

    async def _insist(self, method: str, *args: object) -> Any:
        deadline = time.monotonic() + RETRY_FOR_S
        while True:
            try:
                return await self.writer.call(method, *args)
            except (ActorGone, LogUnavailable) as exc:
                if time.monotonic() > deadline:
                    raise LogUnavailable(f"the log could not be reached for {RETRY_FOR_S:.0f} s: {exc}") from exc
                await asyncio.sleep(RETRY_S)


class StreamWriter:
    """One stream, written by one actor. ``version`` is the head as far as this writer knows."""

    def __init__(self, log: LogClient, stream: str, *, clock: Callable[[], float], new_id: Callable[[], str]) -> None:
        self.log, self.stream, self.version = log, stream, 0
        self._clock, self._new_id = clock, new_id

    async def load(self) -> AsyncIterator[Event]:
        """The whole stream from its start; afterwards ``version`` is its head."""
        self.version = 0
        async for event in self.log.read(self.stream):
            self.version += 1
            yield event

    async def append(self, events: Sequence[Event]) -> None:
        """Appends behind what this writer knows; raises ``VersionConflict`` when it is stale."""
        if not events:
            return
        batch = [new_event(event, self._new_id()) for event in events]
        appended = await self.log.append(self.stream, self.version, batch, at=self._clock())
        self.version = appended.version


class RemoteBlobs(BlobStore):
    """Blobs of a store on another node, through its log writer; the content crosses whole, in memory."""

    def __init__(self, writer: Ref) -> None:
        self._writer = writer

    def put(self, data: bytes) -> str:
        digest: str = insist(self._writer, "put_blob", data)
        return digest

    def put_file(self, path: str | os.PathLike[str]) -> str:
        return self.put(Path(path).read_bytes())

    def get(self, digest: str) -> bytes:
        data: bytes = insist(self._writer, "get_blob", digest)
        return data

    def open(self, digest: str) -> BinaryIO:
        return BytesIO(self.get(digest))

    def has(self, digest: str) -> bool:
        return bool(insist(self._writer, "has_blob", digest))


def insist(ref: Ref, method: str, *args: object) -> Any:
    """Asks from a thread, again and again while the actor is away; for calls that may be repeated.

    Raises:
        LogUnavailable: it stayed away for two minutes.
    """
    deadline = time.monotonic() + RETRY_FOR_S
    while True:
        try:
            return ref.ask(method, *args)
        except (ActorGone, LogUnavailable) as exc:
            if time.monotonic() > deadline:
                raise LogUnavailable(f"{ref.name} could not be reached for {RETRY_FOR_S:.0f} s: {exc}") from exc
            time.sleep(RETRY_S)
