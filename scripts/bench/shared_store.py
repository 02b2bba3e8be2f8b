"""Appends to a Supabase project: beside a bare insert and an HTTP round trip, then by 16 writers in 4 processes.

Measured on the project that ``SUPABASE_URL``, ``SUPABASE_KEY`` and ``SUPABASE_DB_URL`` name; a scratch one on this
machine: ``python -m tests.supabase python -m scripts.bench --only supabase``. The bare insert is one transaction of
psycopg into a table with the same columns and indexes, without expected versions, hashes and locks; the round trip is a
read of one row through the same API. Turns are taken in an order drawn anew.

The writers append batches of five events, as an actor's decision has, first one a call, then several streams' batches
together, as a client shared by a host's actors sends them. An event counts when its append has returned. Afterwards the
log is read whole: versions without gaps, nothing lost, nothing doubled.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import islice
from random import Random
from time import perf_counter

import msgspec

from scripts.bench.figures import Figure
from scripts.bench.material import detailed_stream, new_events, small_events
from scripts.bench.options import Options
from scripts.bench.sampling import percentiles
from store.log import Append, Appended, EventLog
from store.opening import open_store

__all__ = ["Plan", "Produced", "measure", "write_in_processes"]

GROUP = "supabase"
VARIABLES = ("SUPABASE_URL", "SUPABASE_KEY", "SUPABASE_DB_URL")
GOAL_PER_S = 1500.0
GOAL_RATIO = 2.0
PROCESSES = 4
THREADS = 4
EACH = 5
"""Events of a batch."""
TOGETHER = 4
"""Batches of as many streams in one call."""
RUN_S = 60.0
ROUNDS = 400
START_S = 10.0
BARE_TABLE = """
    CREATE TABLE public.bare (
        seq bigint PRIMARY KEY, stream text COLLATE "C" NOT NULL, version bigint NOT NULL,
        event_id text COLLATE "C" NOT NULL UNIQUE, type text NOT NULL, schema integer NOT NULL,
        recorded_us bigint NOT NULL, data text NOT NULL, hash text NOT NULL, UNIQUE (stream, version)
    )
"""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a process of writers does: ``together`` batches of ``each`` events a call, until ``end`` (POSIX
    seconds), and at least one."""

    name: str
    process: int
    threads: int
    each: int
    together: int
    begin: float
    end: float


class Produced(msgspec.Struct, frozen=True):
    """What one writer did: the ids that were acknowledged, and what each call took, in milliseconds."""

    ids: list[str]
    latencies_ms: list[float]


def measure(options: Options) -> list[Figure]:
    """The side-by-side figures, then the writers'."""
    absent = [name for name in VARIABLES if not os.environ.get(name)]
    if absent:
        note = f"set {', '.join(absent)}, or run it by `python -m tests.supabase`"
        return [Figure(group=GROUP, name="left out", value=0.0, unit="", note=note)]
    figures = _side_by_side(options)
    for together in (1, TOGETHER):
        figures.append(_writers(options, together=together))
    return figures


def _side_by_side(options: Options) -> list[Figure]:
    import psycopg

    from store.supabase.credentials import credentials_of
    from store.supabase.rest import Rest

    count = 5 if options.quick else ROUNDS
    rest = Rest(credentials_of())
    taken: dict[str, list[float]] = {"append": [], "attempts": [], "insert": [], "round trip": []}
    stream, run = f"bench-{uuid.uuid4().hex}", Random(options.seed)  # noqa: S311 - the order of turns, no secret
    attempts = new_events(list(detailed_stream(EACH * (count + 1))), prefix=stream)
    with (
        open_store("supabase", write=True) as store,
        psycopg.connect(os.environ["SUPABASE_DB_URL"], autocommit=True) as connection,
    ):
        connection.execute("DROP TABLE IF EXISTS public.bare")
        connection.execute(BARE_TABLE)
        for number in range(count + 1):
            events = small_events(EACH, first=run.getrandbits(80))
            version = number * EACH
            rows: list[tuple[object, ...]] = [
                (version + n, stream, version + n, one.event_id, one.type, one.schema, 0, one.data.decode(), "f" * 64)
                for n, one in enumerate(events, start=1)
            ]

            def insert(rows: list[tuple[object, ...]] = rows) -> None:
                with connection.transaction(), connection.cursor() as cursor:
                    cursor.executemany(f"INSERT INTO public.bare VALUES ({', '.join(['%s'] * 9)})", rows)  # noqa: S608

            some = list(islice(attempts, EACH))
            turns: dict[str, Callable[[], object]] = {
                "attempts": lambda version=version, some=some: store.log.append(  # type: ignore[misc]
                    Append(f"repository:bench/{stream}", version, some, time.time())
                ),
                "append": lambda version=version, events=events: store.log.append(  # type: ignore[misc]
                    Append(stream, version, events, time.time())
                ),
                "insert": insert,
                "round trip": lambda: rest.select("headrace_meta", "seq", order="one", limit=1),
            }
            order = list(turns)
            run.shuffle(order)
            for name in order:
                begun = perf_counter()
                turns[name]()
                if number:  # the first round warms up
                    taken[name].append((perf_counter() - begun) * 1e3)
        connection.execute("DROP TABLE public.bare")
    rest.close()
    return _compared(taken, count)


def _compared(taken: dict[str, list[float]], count: int) -> list[Figure]:
    p50 = {name: percentiles(values, 50)["p50"] for name, values in taken.items()}
    names = {
        "append": f"append of {EACH} events, one writer",
        "attempts": f"append of {EACH} events of attempts, with their rows of read models",
        "insert": f"bare psycopg insert of the same {EACH} events",
        "round trip": "one HTTP round trip through the API",
    }
    note = f"{count} rounds in turns"
    figures = [
        Figure(
            group=GROUP,
            name=f"{names[name]}: time",
            value=round(p50[name], 2),
            unit="ms",
            percentiles={key: round(value, 2) for key, value in percentiles(values, 50, 90, 99).items()},
            note=note,
        )
        for name, values in taken.items()
    ]
    ratio = Figure(
        group=GROUP,
        name="append over bare insert plus round trip, p50",
        value=round(p50["append"] / (p50["insert"] + p50["round trip"]), 2),
        unit="x",
        goal=GOAL_RATIO,
        at_least=False,
        note=note,
    )
    return [*figures, ratio]


def _writers(options: Options, *, together: int) -> Figure:
    seconds = 1.0 if options.quick else RUN_S
    produced = write_in_processes(f"bench-{uuid.uuid4().hex}", seconds=seconds, together=together)
    latencies = [one for writer in produced for one in writer.latencies_ms]
    events = sum(len(writer.ids) for writer in produced)
    return Figure(
        group=GROUP,
        name=f"{PROCESSES * THREADS} writers in {PROCESSES} processes, {together} × {EACH} events a call",
        value=round(events / seconds),
        unit="events/s",
        goal=GOAL_PER_S,
        percentiles={key: round(value, 2) for key, value in percentiles(latencies, 50, 90, 99).items()},
        note=f"acknowledged, in {seconds:.0f} s, read back whole; percentiles: ms of a call",
    )


def write_in_processes(name: str, *, seconds: float, together: int) -> list[Produced]:
    """Has 16 writers in 4 processes append for some seconds, and reads back what became of it.

    Raises:
        RuntimeError: an acknowledged event is missing or there twice.
        LogCorrupt: versions have gaps or hashes do not fit.
    """
    begin = time.time() + START_S
    plans = [
        Plan(
            name=name,
            process=process,
            threads=THREADS,
            each=EACH,
            together=together,
            begin=begin,
            end=begin + seconds,
        )
        for process in range(PROCESSES)
    ]
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        produced = [one for found in pool.map(write, plans) for one in found]
    with open_store("supabase", write=False) as store:
        store.log.verify()
        stored = Counter(event.event_id for event in store.log.read_all() if event.stream.startswith(name))
    acknowledged = Counter(event_id for one in produced for event_id in one.ids)
    if stored != acknowledged:
        lost, doubled = acknowledged - stored, stored - acknowledged
        raise RuntimeError(
            f"{lost.total()} events were acknowledged and are lost, {doubled.total()} are there too many"
        )
    return produced


def write(plan: Plan) -> list[Produced]:
    """One process: its threads share a store, as the actors of a process do."""
    with open_store("supabase", write=True) as store, ThreadPoolExecutor(plan.threads) as pool:
        return list(pool.map(lambda thread: _write(store.log, plan, thread), range(plan.threads)))


def _write(log: EventLog, plan: Plan, thread: int) -> Produced:
    streams = [f"{plan.name}-{plan.process}-{thread}-{n}" for n in range(plan.together)]
    first = (uuid.uuid4().int >> 64) << 32
    version, ids, latencies = 0, list[str](), list[float]()
    time.sleep(max(0.0, plan.begin - time.time()))
    while not latencies or time.time() < plan.end:
        events = small_events(plan.each * plan.together, first=first + len(ids))
        batches = [
            Append(stream, version, events[n * plan.each : (n + 1) * plan.each], time.time())
            for n, stream in enumerate(streams)
        ]
        begun = perf_counter()
        results = log.append_many(batches)
        latencies.append((perf_counter() - begun) * 1e3)
        if not all(isinstance(one, Appended) for one in results):
            raise RuntimeError(f"refused: {results}")
        version += plan.each
        ids += [event.event_id for event in events]
    return Produced(ids, latencies)
