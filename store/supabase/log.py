"""The event log in a Supabase project, written by any number of processes at once.

An ``append`` that returned is committed by the database. One that raised ``LogUnavailable`` may have happened: repeat
it with the same event ids. Conflicts, repetitions and refusals come back as data of one function, which holds the
log's one lock: ``seq`` has no gaps, and a reader that goes on from the last one misses nothing.

A group of batches travels in as few calls as its size allows, each a transaction of its own; a batch is never split.
Who drives a log (a sweep, or a command that changes one) holds its lock and proves its epoch with each append. The lock
is free again when its holder gives it back, when its process is seen to be gone by another one on its machine, or some
seconds after its last sign of life; one who lost it so is refused with ``LogLocked`` from then on and records nothing.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from loguru import logger

from events.errors import EventIdReused, HeadraceError, LogLocked, LogUnavailable, UnknownEventType, VersionConflict
from events.replay import Stored
from store.log import (
    Append,
    Appended,
    EventLog,
    RecordedEvent,
    Refused,
    Snapshot,
    StreamInfo,
    check_batch,
    microseconds,
    resolve_repeat,
)
from store.read_models import decode_projected, project
from store.supabase.rest import OPEN_FOR_S, Rest
from store.supabase.rows import Batch, Puts, RowCache

__all__ = ["SupabaseLog"]

PAGE_ROWS = 1000
MAX_EVENTS_PER_CALL = 500
MAX_BYTES_PER_CALL = 2 << 20
"""A call beyond one of these goes in several: each has to end well within the server's 8 s for a statement."""
STALE_TRIES = 20
"""How often a batch is computed anew because others changed the rows that it reads, before it is given up."""
LOCK_TTL_S = 12.0
"""How long after its last sign of life a driver is taken for dead by one on another machine."""
LOCK_PATIENCE_S = 2.0
"""How long a lock is tried for: a process that was killed is not gone at once."""
LOCK_PAUSE_S = 0.25
BEAT_S = 3.0

_EVENT = "seq,stream,version,event_id,type,schema,recorded_us,data,hash"
_STORED = "version,type,schema,data"


class SupabaseLog(EventLog):
    """An event log behind ``rest`` (see the module). ``holder``: what is driven, in words: takes the lock of the log.

    Raises:
        LogLocked: somebody who lives has the lock.
        EnvironmentNotReady, LogUnavailable: as :class:`store.supabase.rest.Rest`.
    """

    def __init__(self, rest: Rest, *, log_id: str, holder: str = "") -> None:
        self.log_id = log_id
        self._rest, self._rows = rest, RowCache()
        self._done = threading.Event()
        self._epoch: int | None = None
        if holder:
            self._epoch = self._acquire(f"process {os.getpid()} on {socket.gethostname()} ({holder})")
            threading.Thread(target=self._beat, name="store lock", daemon=True).start()

    def append_many(self, batches: Sequence[Append]) -> list[Appended | Refused]:
        for batch in batches:
            _check(batch)
        results: list[Appended | Refused] = []
        tries = 0
        while len(results) < len(batches):
            found = self._send(_call(batches[len(results) :]))
            tries = 0 if found else tries + 1
            if tries > STALE_TRIES:
                raise LogUnavailable(
                    f"{self._rest.url}: others change the rows of stream {batches[len(results)].stream} all the time; "
                    f"the batch may be repeated"
                )
            results += found
        return results

    def read_stream(self, stream: str, *, after: int = 0, limit: int | None = None) -> Iterator[RecordedEvent]:
        left = limit
        while left is None or left > 0:
            page = self._rest.select(
                "events",
                _EVENT,
                equal={"stream": stream},
                above={"version": after},
                order="version",
                limit=PAGE_ROWS if left is None else min(PAGE_ROWS, left),
            )
            if not page:
                return
            yield from map(_recorded, page)
            after = page[-1]["version"]
            left = None if left is None else left - len(page)

    def read_all(self, *, after: int = 0, limit: int | None = None) -> Iterator[RecordedEvent]:
        end, left = self.last_seq(), limit
        while after < end and (left is None or left > 0):
            page = self._rest.select(
                "events",
                _EVENT,
                above={"seq": after},
                most={"seq": end},
                order="seq",
                limit=PAGE_ROWS if left is None else min(PAGE_ROWS, left),
            )
            if not page:
                return
            yield from map(_recorded, page)
            after = page[-1]["seq"]
            left = None if left is None else left - len(page)

    def payloads(self, stream: str, *, after: int = 0) -> Iterator[Stored]:
        while page := self._rest.select(
            "events",
            _STORED,
            equal={"stream": stream},
            above={"version": after},
            order="version",
            limit=PAGE_ROWS,
        ):
            for row in page:
                yield row["version"], row["type"], row["schema"], row["data"].encode()
            after = page[-1]["version"]

    def hash_at(self, stream: str, version: int) -> str | None:
        found = self._rest.select(
            "events", "hash", equal={"stream": stream, "version": version}, order="version", limit=1
        )
        return str(found[0]["hash"]) if found else None

    def snapshot(self, stream: str) -> Snapshot | None:
        columns = "stream,version,hash,shape,state,digest"
        found = self._rest.select("snapshots", columns, equal={"stream": stream}, order="stream", limit=1)
        if not found:
            return None
        row = found[0]
        state = bytes.fromhex(row["state"].removeprefix("\\x"))
        return Snapshot(row["stream"], row["version"], row["hash"], row["shape"], state, row["digest"])

    def put_snapshot(self, snapshot: Snapshot) -> None:
        arguments: dict[str, object] = {
            **msgspec.structs.asdict(snapshot),
            "state": b64encode(snapshot.state).decode(),
        }
        if not self._rest.rpc("headrace_put_snapshot", arguments):
            raise ValueError(f"stream {snapshot.stream} is pruned beyond version {snapshot.version}")

    def head(self, stream: str) -> int:
        found = self._rest.select("streams", "version", equal={"stream": stream}, order="stream", limit=1)
        return int(found[0]["version"]) if found else 0

    def pruned(self) -> dict[str, StreamInfo]:
        return {info.stream: info for info in self._infos("pruned", "")}

    def remove_below(self, stream: str, version: int) -> int:
        removed = self._rest.rpc("headrace_prune", {"stream": stream, "version": version})
        if removed is None:
            raise ValueError(f"stream {stream}: no snapshot covers what is below version {version}")
        return int(removed)

    def streams(self, prefix: str = "") -> list[StreamInfo]:
        return list(self._infos("streams", prefix))

    def last_seq(self) -> int:
        return int(self._rest.select("headrace_meta", "seq", order="one", limit=1)[0]["seq"])

    def close(self) -> None:
        """Gives the lock and the connections up; closing twice is harmless."""
        if self._done.is_set():
            return
        self._done.set()
        if self._epoch is not None:
            try:
                self._rest.rpc("headrace_beat", {"epoch": self._epoch, "release": True}, patience_s=BEAT_S)
            except HeadraceError as exc:
                logger.warning("the lock of {} is not given back, it lapses by itself: {}", self._rest.url, exc)
        self._rest.close()

    def _infos(self, table: str, prefix: str) -> Iterator[StreamInfo]:
        above: dict[str, object] = {}
        while page := self._rest.select(
            table,
            "stream,version,hash",
            least={"stream": prefix} if prefix else None,
            above=above,
            order="stream",
            limit=PAGE_ROWS,
        ):
            for row in page:
                if not row["stream"].startswith(prefix):
                    return
                yield StreamInfo(row["stream"], row["version"], row["hash"])
            above = {"stream": page[-1]["stream"]}

    def _send(self, batches: Sequence[Append]) -> list[Appended | Refused]:
        """Sends batches in one call; what became of those that the database looked at."""
        before = Puts()
        tables: list[Batch] = []
        problems: list[UnknownEventType | None] = []
        for batch in batches:
            rows = Batch(self._rows, before)
            problems.append(_project(batch, rows))
            before.update(rows.puts)
            tables.append(rows)
        request = [
            _packed(batch, rows, unreadable=problem is not None)
            for batch, rows, problem in zip(batches, tables, problems, strict=True)
        ]
        answer = self._rest.rpc("headrace_append", {"request": {"epoch": self._epoch, "batches": request}})
        if answer["status"] == "fenced":
            raise LogLocked(path=self._rest.url, holder=answer["holder"])
        results: list[Appended | Refused] = []
        for batch, rows, problem, (status, *rest) in zip(batches, tables, problems, answer["results"], strict=False):
            match status:
                case "appended":
                    rows.learn_recorded()
                    results.append(Appended(batch.stream, *rest))
                case "conflict":
                    actual = int(rest[0])
                    results.append(VersionConflict(stream=batch.stream, expected=batch.expected_version, actual=actual))
                case "known":
                    results.append(_repeated(batch, rest[0]))
                case "unreadable" if problem is not None:
                    results.append(problem)
                case _:
                    rows.learn_stale(rest[0])
        return results

    def _acquire(self, holder: str) -> int:
        machine, deadline = socket.gethostname(), time.monotonic() + LOCK_PATIENCE_S
        arguments = {
            "token": secrets.token_hex(16),
            "holder": holder,
            "machine": machine,
            "pid": os.getpid(),
            "ttl_s": LOCK_TTL_S,
            "over": None,
        }
        while True:
            answer = self._rest.rpc("headrace_acquire", arguments, patience_s=OPEN_FOR_S)
            if answer["status"] == "held":
                return int(answer["epoch"])
            if answer["machine"] == machine and _is_gone(int(answer["pid"])):
                arguments["over"] = answer["epoch"]
            elif time.monotonic() > deadline:
                told = f"{answer['holder']}, last heard of {answer['seen_s']:.0f} s ago"
                raise LogLocked(path=self._rest.url, holder=told)
            else:
                time.sleep(LOCK_PAUSE_S)

    def _beat(self) -> None:
        while not self._done.wait(BEAT_S):
            try:
                if not self._rest.rpc("headrace_beat", {"epoch": self._epoch, "release": False}, patience_s=BEAT_S):
                    return  # fenced: the next append says so
            except HeadraceError as exc:
                logger.debug("no sign of life reaches {}: {}", self._rest.url, exc)


def _is_gone(pid: int) -> bool:
    """Whether no process of this machine has this id, or one that only waits to be buried."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] == "Z"
        )
    except OSError:
        return True


def _check(batch: Append) -> None:
    """Raises ``ValueError`` for what no backend, or PostgreSQL, can store."""
    check_batch(batch)
    texts = [batch.stream, *(text for event in batch.events for text in (event.event_id, event.type))]
    if any("\0" in text for text in texts) or any(b"\0" in event.data for event in batch.events):
        raise ValueError(f"stream {batch.stream!r}: an event has the character U+0000, which PostgreSQL cannot store")


def _call(batches: Sequence[Append]) -> Sequence[Append]:
    """The first of ``batches``, as many as one call takes; at least one."""
    events = size = 0
    for count, batch in enumerate(batches):
        events += len(batch.events)
        size += sum(len(event.data) for event in batch.events)
        if count and (events > MAX_EVENTS_PER_CALL or size > MAX_BYTES_PER_CALL):
            return batches[:count]
    return batches


def _project(batch: Append, rows: Batch) -> UnknownEventType | None:
    """Puts what a batch changes in the read models; what keeps one from reading an event."""
    at = microseconds(batch.at) / 1_000_000
    try:
        decoded = [decode_projected(event.type, event.schema, event.data) for event in batch.events]
    except UnknownEventType as refusal:
        return refusal
    for event, projected in zip(batch.events, decoded, strict=True):
        if projected is not None:
            rows.changed_by = event.event_id
            project(stream=batch.stream, at=at, event=projected, tables=rows)
    return None


def _packed(batch: Append, rows: Batch, *, unreadable: bool) -> dict[str, object]:
    return {
        "stream": batch.stream,
        "expected": batch.expected_version,
        "at_us": microseconds(batch.at),
        "ids": [event.event_id for event in batch.events],
        "types": [event.type for event in batch.events],
        "schemas": [event.schema for event in batch.events],
        "data": [event.data.decode() for event in batch.events],
        "unreadable": unreadable,
        **rows.packed(),
    }


def _repeated(batch: Append, records: Sequence[Sequence[Any]]) -> Appended | EventIdReused:
    known = {
        event_id: RecordedEvent(seq, stream, version, event_id, type_, schema, 0.0, data.encode(), hash_)
        for event_id, seq, stream, version, type_, schema, data, hash_ in records
    }
    return resolve_repeat(batch, [known.get(event.event_id) for event in batch.events])


def _recorded(row: Mapping[str, Any]) -> RecordedEvent:
    return RecordedEvent(
        row["seq"],
        row["stream"],
        row["version"],
        row["event_id"],
        row["type"],
        row["schema"],
        row["recorded_us"] / 1_000_000,
        row["data"].encode(),
        row["hash"],
    )
