"""Virtual sweeps of generated worlds: how long a pull request takes, whether that stays flat, and in how much memory.

Each world is swept in a process of its own, so that its peak memory is its own: 200 pull requests a repository, 3 to 15
environments, agents' success 0.8, 1,000 workers. The time is that of the sweep alone, without making the world.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Protocol

import msgspec

from actors.simulation.engine import Simulation
from actors.simulation.worlds import make_world
from events.work import CascadePolicy
from scripts.bench.figures import Figure
from scripts.simulate import NO_CONTEXT
from store.opening import open_store

__all__ = ["measure"]

PRS = 200
SEED = 1
GOAL_S = 180.0
GOAL_MIB = 4096.0
FLAT = 1.25


class _Options(Protocol):
    @property
    def quick(self) -> bool: ...


class _Run(msgspec.Struct, frozen=True):
    """One sweep: seconds, peak resident memory in MiB, events."""

    seconds: float
    peak_mib: float
    events: int


def measure(options: _Options) -> list[Figure]:
    """Worlds of 10,000 to 1,000,000 pull requests, without a log and with one on SQLite; ``quick``: 2,000."""
    sizes = [2_000] if options.quick else [10_000, 100_000, 1_000_000]
    figures: list[Figure] = []
    for kept in (False, True):
        runs = {size: _in_process(size, kept) for size in sizes}
        figures += _figures(runs, "SQLite log" if kept else "no log")
    return figures


def _figures(runs: dict[int, _Run], log: str) -> Iterator[Figure]:
    for size, run in runs.items():
        goals = size == 1_000_000
        name = f"{size:,} PRs, {log}"
        note = f"{run.seconds / size * 1e6:.0f} µs a PR, {run.events:,} events, world seed {SEED}"
        goal_s, goal_mib = (GOAL_S, GOAL_MIB) if goals else (None, None)
        yield _figure(name, run.seconds, "s", goal_s, note)
        yield _figure(f"{name}: peak memory", run.peak_mib, "MiB", goal_mib, "of the process, world included")
    smallest, largest = min(runs), max(runs)
    if smallest < largest:
        ratio = runs[largest].seconds / largest / (runs[smallest].seconds / smallest)
        yield _figure(f"time a PR, {largest:,} over {smallest:,}, {log}", ratio, "x", FLAT, "flat is 1")


def _figure(name: str, value: float, unit: str, goal: float | None, note: str) -> Figure:
    return Figure(group="simulation", name=name, value=value, unit=unit, goal=goal, at_least=False, note=note)


def _in_process(size: int, kept: bool) -> _Run:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_sweep, size, kept).result()


def _sweep(size: int, kept: bool) -> _Run:
    world = make_world(repositories=size // PRS, prs=PRS, workers=1_000, seed=SEED)
    knobs = CascadePolicy(stock_context=NO_CONTEXT, try_default=False, generate=True)
    with tempfile.TemporaryDirectory() as folder, open_store(f"sqlite:///{folder}/log.db", write=True) as opened:
        started = time.perf_counter()
        summary = Simulation(world, opened.log if kept else None, knobs=knobs).run()
        seconds = time.perf_counter() - started
    scale = 1024 if sys.platform == "linux" else 1024 * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
    return _Run(seconds, peak, summary.events)
