"""How actors reach the log: streams with an expected version, repeated with the same ids until the answer is known.

A :class:`StreamWriter` holds one stream: it loads its state, from a snapshot where there is one, and appends events
under the version that it knows. What it promises: when ``append`` returns, the events are durable, exactly once,
directly behind what was loaded. When somebody else has appended to the stream meanwhile, it raises ``VersionConflict``
and stays unusable: its owner is stale and has to stop.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from loguru import logger

from actors import faults
from actors.gateway import ActorGone, Ref
from actors.log_lane import LaneClient
from actors.log_writer import pack, unpack_events, unpack_snapshot
from events import codec
from events.errors import LogCorrupt, LogError, LogUnavailable, VersionConflict
from events.replay import StreamFold
from events.streams import State, machine_of
from events.types import Event
from events.work import Outcome
from store.blobs import BlobStore
from store.log import Append, Appended, NewEvent, RecordedEvent, Refused, Snapshot
from store.read_models import AttemptRow, CachedContext
from store.snapshots import start_is_gone, usable_state

__all__ = ["LogClient", "RemoteBlobs", "StreamWriter", "insist", "new_event"]

RETRY_S = 0.2
RETRY_FOR_S = 120.0
SNAPSHOT_EVERY = 1_000
"""Events between two snapshots of a stream: what opening it reads at most beyond the snapshot."""


def new_event(event: Event, event_id: str) -> NewEvent:
    """``event`` as the log takes it."""
    return NewEvent(event_id, type(event).__name__, codec.schema_of(event), codec.encode(event))


class LogClient:
    """The log writer as seen from an actor. Calls survive the writer's death: they wait for it to come back.

    Batches that are appended while an append is on its way share the next one: each client has one under way at most,
    however many streams are written through it. ``linger_s``: how long it first waits for others to share it. Appends
    take the writer's lane where it has one that leads here (:mod:`actors.log_lane`), all else goes through Ray.
    """

    def __init__(self, writer: Ref, *, linger_s: float = 0.0) -> None:
        self.writer, self._linger_s = writer, linger_s
        self._waiting: list[tuple[Append, asyncio.Future[Appended | Refused]]] = []
        self._appending: asyncio.Task[None] | None = None
        self._lane: LaneClient | None = None
        self._connecting = asyncio.Lock()
        self._reachable = True

    async def append(self, stream: str, expected_version: int, events: list[NewEvent], *, at: float) -> Appended:
        """Appends one batch.

        Raises:
            VersionConflict, EventIdReused: as ``EventLog.append``.
            LogUnavailable: the log could not be written for two minutes.
        """
        future: asyncio.Future[Appended | Refused] = asyncio.get_running_loop().create_future()
        self._waiting.append((Append(stream, expected_version, events, at), future))
        if self._appending is None or self._appending.done():
            self._appending = asyncio.create_task(self._append_waiting())
        result = await future
        if isinstance(result, Appended):
            return result
        raise result

    async def _append_waiting(self) -> None:
        while self._waiting:
            if self._linger_s:
                await asyncio.sleep(self._linger_s)
            group, self._waiting = self._waiting, []
            try:
                packed = pack([batch for batch, _ in group])
                results = await self._by_lane(packed) or await self._insist("append", packed)
            except Exception as exc:
                for _, future in group:
                    if not future.done():
                        future.set_exception(exc)
                continue
            for (_, future), result in zip(group, results, strict=True):
                if not future.done():
                    future.set_result(result)

    async def read(self, stream: str, *, after: int = 0) -> AsyncIterator[list[RecordedEvent]]:
        """The events of a stream, in order, in pages."""
        while page := unpack_events(await self._insist("read", stream, after)):
            yield page
            after = page[-1].version

    async def snapshot(self, stream: str) -> Snapshot | None:
        """The snapshot of a stream, if there is one that belongs to its history."""
        return unpack_snapshot(await self._insist("snapshot", stream))

    async def put_snapshot(self, stream: str, *, version: int, shape: str, state: bytes) -> None:
        """Stores a snapshot in place of the stream's last one."""
        await self._insist("put_snapshot", stream, version, shape, state)

    async def reported_outcome(self, attempt_id: str) -> Outcome | None:
        """What a runner left in the mailbox of an attempt."""
        fold = StreamFold(f"attempt:{attempt_id}")
        async for page in self.read(fold.stream):
            fold.take_all((one.version, one.type, one.schema, one.data) for one in page)
        outcome: Outcome | None = fold.state.outcome
        return outcome

    async def contexts_of(self, owner: str, repo: str) -> list[CachedContext]:
        """What the build-context cache knows of a repository."""
        found: list[CachedContext] = await self._insist("contexts_of", owner, repo)
        return found

    async def attempts_of(self, owner: str, repo: str, issue_number: int) -> list[AttemptRow]:
        """The attempts on one pull request, by their start."""
        found: list[AttemptRow] = await self._insist("attempts_of", owner, repo, issue_number)
        return found

    async def get_blob(self, digest: str) -> bytes:
        """The content of a blob."""
        data: bytes = await self._insist("get_blob", digest)
        return data

    async def put_blob(self, data: bytes) -> str:
        """Stores a blob; returns its digest."""
        digest: str = await self._insist("put_blob", data)
        return digest

    async def _by_lane(self, batch: bytes) -> list[Appended] | None:
        """Appends over the lane; ``None``: there is none, or it has no answer, and the batch may be repeated."""
        if self._reachable and (self._lane is None or self._lane.lost):
            async with self._connecting:
                if self._lane is None or self._lane.lost:
                    await self._connect()
        return None if self._lane is None else await self._lane.append(batch)

    async def _connect(self) -> None:
        self._lane = None
        try:
            path = await self.writer.call("lane")
        except (ActorGone, LogUnavailable):
            return
        self._lane = await LaneClient.connect(path) if path else None
        self._reachable = self._lane is not None

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
        self._kept = 0
        self._clock, self._new_id = clock, new_id

    async def load(self) -> Any:
        """The state of the stream at its head, as its machine folds it; afterwards ``version`` is that head.

        Raises:
            UnknownEventType, ReplayDivergence: naming stream and version.
            LogCorrupt: the stream was pruned, and the snapshot that covers what is gone cannot be used.
            LogUnavailable: the log could not be read for two minutes.
        """
        fold = StreamFold(self.stream, state=usable_state(await self.log.snapshot(self.stream)))
        self._kept = fold.state.version
        async for page in self.log.read(self.stream, after=fold.state.version):
            if not fold.state.version and page[0].version > 1:
                detail = start_is_gone(page[0].version - 1)
                raise LogCorrupt(where=f"stream {self.stream}", detail=detail)
            fold.take_all((one.version, one.type, one.schema, one.data) for one in page)
        self.version = fold.state.version
        return fold.state

    async def claim(self, incarnation: str, adopt: Callable[[Any], Awaitable[None]]) -> None:
        """Loads the stream and has ``adopt`` take its state over and append the claim of ``incarnation`` to it.

        An earlier incarnation that still appends meanwhile only has the stream read anew; a later one that has claimed
        it meanwhile (ids grow with time) keeps it.

        Raises:
            VersionConflict: a later incarnation has the stream.
        """
        seen = ""
        conflict: VersionConflict | None = None
        while True:
            state = await self.load()
            if conflict is not None and seen != state.incarnation > incarnation:
                raise conflict
            seen = state.incarnation
            try:
                await adopt(state)
            except VersionConflict as exc:
                conflict = exc
                logger.info("{}: another incarnation still writes; reading again ({})", self.stream, exc)
            else:
                return

    async def keep(self, state: State, *, every: int = SNAPSHOT_EVERY) -> None:
        """Stores ``state``, which is that of ``version``, as a snapshot, if ``every`` events came since the last one.

        A failure is only warned of: the events are in the log, the next snapshot comes later.
        """
        if self.version - self._kept < every:
            return
        found = machine_of(self.stream)
        assert found is not None  # noqa: S101 - what a stream writer loads has a machine
        machine, self._kept = found[0], self.version
        try:
            await self.log.put_snapshot(
                self.stream, version=self.version, shape=machine.shape, state=machine.pack(state)
            )
        except LogError as exc:
            logger.warning("no snapshot of {} at version {}: {}", self.stream, self.version, exc)

    async def append(self, events: Sequence[Event]) -> None:
        """Appends behind what this writer knows; raises ``VersionConflict`` when it is stale."""
        if not events:
            return
        batch = [new_event(event, self._new_id()) for event in events]
        faults.hit(faults.STREAM_BEFORE_APPEND)
        appended = await self.log.append(self.stream, self.version, batch, at=self._clock())
        faults.hit(faults.STREAM_AFTER_APPEND)
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
