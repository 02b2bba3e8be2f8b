"""Durable appends through the log writer's actor, by 16 producers that are actors of their own, on a local Ray.

Each producer appends to its own stream through the product's client and counts an event when its append has returned:
then it is committed and synced. Producers begin together and go on until a moment that all were told. On the writer's
node appends take its lane, a socket; a writer without one shows what Ray's calls alone allow.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import msgspec

from actors import gateway
from actors.gateway import Ref
from actors.log_client import LogClient
from actors.log_writer import LogWriter
from scripts.bench.figures import Figure
from scripts.bench.material import small_events
from scripts.bench.options import Options
from scripts.bench.sampling import percentiles
from store.opening import open_store

__all__ = ["Producer", "measure"]

GROUP = "writer"
GOAL_PER_S = 3000.0
PRODUCERS = 16
START_S = 120.0


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """``each``: events of an append; ``lane``: through the writer that has one; times: POSIX seconds."""

    each: int
    lane: bool
    begin: float
    end: float


class Produced(msgspec.Struct, frozen=True):
    """What one producer did: events acknowledged, and what each append took, in milliseconds."""

    events: int
    latencies_ms: list[float]


class Producer:
    """A producer. Its streams are its own."""

    def __init__(self, number: int, writer: Ref, calls_only: Ref) -> None:
        self._number = number
        self._logs = {True: LogClient(writer), False: LogClient(calls_only)}
        self._used = 0

    async def ready(self) -> bool:
        """Whether it has started and has reached both writers."""
        for lane in self._logs:
            await self._append(lane, f"repository:bench/p{self._number}-warm", 0, 1)
        return True

    async def produce(self, plan: Plan) -> Produced:
        """Appends from ``begin`` to ``end``."""
        await asyncio.sleep(max(0.0, plan.begin - time.time()))
        stream, version = f"repository:bench/p{self._number}-{plan.each}", 0
        latencies = []
        while time.time() < plan.end:
            begun = time.perf_counter()
            version = await self._append(plan.lane, stream, version, plan.each)
            latencies.append((time.perf_counter() - begun) * 1e3)
        return Produced(len(latencies) * plan.each, latencies)

    async def _append(self, lane: bool, stream: str, version: int, count: int) -> int:
        events = small_events(count, first=self._number * 10_000_000 + self._used)
        self._used += count
        return (await self._logs[lane].append(stream, version, events, at=time.time())).version


def measure(options: Options) -> list[Figure]:
    """One event an append, then five, as an actor's decision has; over the lane, then by Ray calls."""
    return asyncio.run(_measure(options))


async def _measure(options: Options) -> list[Figure]:
    producers = 2 if options.quick else PRODUCERS
    paths = {True: options.folder / "lane.db", False: options.folder / "calls.db"}
    gateway.connect(address=None, namespace="bench", runner_slots=2)
    try:
        writers = {
            lane: gateway.spawn(LogWriter, f"sqlite:///{path}", "bench", open_store, lane, name=f"log:{path.stem}")
            for lane, path in paths.items()
        }
        for writer in writers.values():
            await writer.call("open")
        refs = [
            gateway.spawn(Producer, number, writers[True], writers[False], name=f"producer:{number}")
            for number in range(producers)
        ]
        await asyncio.wait_for(asyncio.gather(*(ref.call("ready") for ref in refs)), START_S)
        figures = [
            await _run(options, refs, each=each, lane=lane)
            for each, lane in ((1, True), (5, True), (1, False), (5, False))
        ]
        for writer in writers.values():
            await writer.call("close")
    finally:
        gateway.disconnect()
    for path in paths.values():
        _check(path, refs)
    return figures


async def _run(options: Options, refs: list[Ref], *, each: int, lane: bool) -> Figure:
    seconds = 0.5 if options.quick else 6.0
    begin = time.time() + 0.5
    plan = Plan(each=each, lane=lane, begin=begin, end=begin + seconds)
    found: list[Produced] = await asyncio.gather(*(ref.call("produce", plan) for ref in refs))
    latencies = [one for produced in found for one in produced.latencies_ms]
    events = sum(produced.events for produced in found)
    size = "1 event" if each == 1 else f"{each} events"
    return Figure(
        group=GROUP,
        name=f"{len(refs)} producers, {size} an append, {'over the lane' if lane else 'by Ray calls alone'}",
        value=round(events / seconds),
        unit="events/s",
        goal=GOAL_PER_S if lane else None,
        percentiles={key: round(value, 2) for key, value in percentiles(latencies, 50, 90, 99).items()},
        note=f"acknowledged and durable, in {seconds:.1f} s; percentiles: ms of an append",
    )


def _check(path: Path, refs: list[Ref]) -> None:
    """What was acknowledged is in the log, and the log is whole."""
    with open_store(f"sqlite:///{path}", write=False) as store:
        if len(store.log.verify()) < len(refs):
            raise RuntimeError(f"{path}: streams of producers are missing")
