"""Durable appends through the log writer's actor, by 16 producers that are actors of their own, on a local Ray.

Each producer appends to its own stream through the product's client and counts an event when its append has returned:
then it is committed and synced. Producers begin together and go on until a moment that all were told.
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
    """``each``: events of an append; ``streams``: that a producer appends to at once; times: POSIX seconds."""

    each: int
    streams: int
    begin: float
    end: float


class Produced(msgspec.Struct, frozen=True):
    """What one producer did: events acknowledged, and what each append took, in milliseconds."""

    events: int
    latencies_ms: list[float]


class Producer:
    """A producer. Its streams are its own."""

    def __init__(self, number: int, writer: Ref) -> None:
        self._number, self._log = number, LogClient(writer)
        self._used = 0
        self._versions: dict[str, int] = {}

    async def ready(self) -> bool:
        """Whether it has started and has reached the writer."""
        await self._append(f"repository:bench/p{self._number}-warm", 1)
        return True

    async def produce(self, plan: Plan) -> Produced:
        """Appends from ``begin`` to ``end``."""
        await asyncio.sleep(max(0.0, plan.begin - time.time()))
        names = [f"repository:bench/p{self._number}-{plan.each}-{index}" for index in range(plan.streams)]
        found = await asyncio.gather(*(self._until(plan, name) for name in names))
        latencies = [one for some in found for one in some]
        return Produced(len(latencies) * plan.each, latencies)

    async def _until(self, plan: Plan, stream: str) -> list[float]:
        latencies = []
        while time.time() < plan.end:
            begun = time.perf_counter()
            await self._append(stream, plan.each)
            latencies.append((time.perf_counter() - begun) * 1e3)
        return latencies

    async def _append(self, stream: str, count: int) -> None:
        first = self._number * 10_000_000 + self._used
        self._used += count
        known = self._versions.get(stream, 0)
        appended = await self._log.append(stream, known, small_events(count, first=first), at=time.time())
        self._versions[stream] = appended.version


def measure(options: Options) -> list[Figure]:
    """One event an append, then five, as an actor's decision has; then four streams to a producer."""
    return asyncio.run(_measure(options))


async def _measure(options: Options) -> list[Figure]:
    producers = 2 if options.quick else PRODUCERS
    gateway.connect(address=None, namespace="bench", runner_slots=2)
    try:
        path = options.folder / "writer.db"
        writer = gateway.spawn(LogWriter, f"sqlite:///{path}", "bench", name="log")
        await writer.call("open")
        refs = [gateway.spawn(Producer, number, writer, name=f"producer:{number}") for number in range(producers)]
        await asyncio.wait_for(asyncio.gather(*(ref.call("ready") for ref in refs)), START_S)
        figures = []
        for each, streams in ((1, 1), (5, 1), (1, 4)):
            figures += await _run(options, refs, each=each, streams=streams)
        await writer.call("close")
    finally:
        gateway.disconnect()
    _check(path, refs)
    return figures


async def _run(options: Options, refs: list[Ref], *, each: int, streams: int) -> list[Figure]:
    seconds = 0.5 if options.quick else 6.0
    begin = time.time() + 0.5
    plan = Plan(each=each, streams=streams, begin=begin, end=begin + seconds)
    found: list[Produced] = await asyncio.gather(*(ref.call("produce", plan) for ref in refs))
    latencies = [one for produced in found for one in produced.latencies_ms]
    events = sum(produced.events for produced in found)
    what = f"{len(refs)} producers, {each} {'event' if each == 1 else 'events'} an append"
    what += f", {streams} appends at once each" if streams > 1 else ""
    return [
        Figure(
            group=GROUP,
            name=what,
            value=round(events / seconds),
            unit="events/s",
            goal=GOAL_PER_S,
            percentiles={key: round(value, 2) for key, value in percentiles(latencies, 50, 90, 99).items()},
            note=f"acknowledged and durable, in {seconds:.1f} s; percentiles: ms of an append",
        )
    ]


def _check(path: Path, refs: list[Ref]) -> None:
    """What was acknowledged is in the log, and the log is whole."""
    with open_store(f"sqlite:///{path}", write=False) as store:
        if len(store.log.verify()) < len(refs):
            raise RuntimeError(f"{path}: streams of producers are missing")
