"""Replay of one repository's stream from SQLite: read, decode and fold, as loading a stream does without a snapshot.

``eventsourcing`` reads the same facts through its own repository, mapper and JSON transcoder. Its aggregate is folded
by the product's own transitions, and must come to the same state; a second one, which only keeps each pull request's
last event, shows what the package takes by itself. All of it is work of one thread, and seconds are those of a core
that the thread had (its CPU time), so that what else runs on the machine is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import thread_time

from events.streams import digest_of
from events.types import Event
from scripts.bench.figures import Figure
from scripts.bench.foreign import Foreign, is_installed, missing
from scripts.bench.material import detailed_stream, new_events, simulated_stream
from scripts.bench.options import Options
from scripts.bench.sampling import median, paired, percentiles, rounds
from store.log import Append, EventLog
from store.opening import open_store
from store.snapshots import load

__all__ = ["fill", "measure"]

GROUP = "replay"
GOAL_PER_S = 400_000.0
GOAL_RATIO = 10.0
AT = 1_760_000_000.0
BATCH = 500


def fill(log: EventLog, stream: str, events: Iterable[Event]) -> int:
    """Appends ``events`` to an empty stream; returns how many."""
    new = list(new_events(list(events), prefix=stream))
    for start in range(0, len(new), BATCH):
        log.append(Append(stream, start, new[start : start + BATCH], AT + start))
    return len(new)


def measure(options: Options) -> list[Figure]:
    """A stream as the simulator writes it, and one with an event a transition and runners' outcomes."""
    prs = 50 if options.quick else 2000
    kinds = {
        f"simulated, {prs} PRs": simulated_stream(prs, seed=options.seed),
        f"detailed, {prs} PRs": list(detailed_stream(prs)),
    }
    figures: list[Figure] = []
    for number, (kind, events) in enumerate(kinds.items()):
        figures += _figures(options, kind, events, stream=f"repository:bench/replay{number}")
    return figures if is_installed() else [*figures, missing(GROUP)]


def _figures(options: Options, kind: str, events: list[Event], *, stream: str) -> list[Figure]:
    path = options.folder / "replay.db"
    with open_store(f"sqlite:///{path}", write=True, holder="bench") as store:
        count = fill(store.log, stream, events)
    foreign = Foreign(options.folder / f"{stream.rpartition('/')[2]}.db") if is_installed() else None
    store = open_store(f"sqlite:///{path}", write=False)
    try:
        subjects: dict[str, Callable[[], float]] = {"log": _timed(lambda: load(store.log, stream).state.version, count)}
        if foreign is not None:
            subjects |= _foreign(foreign, store.log, events, stream=stream)
        repetitions = 2 if options.quick else 25
        found = rounds(subjects, count=repetitions, seed=options.seed)
    finally:
        store.close()
        if foreign is not None:
            foreign.close()
    note = f"{count} events; {repetitions} rounds in turns, seed {options.seed}"
    names = {"log": "the log", "equal": "eventsourcing, equal fold", "light": "eventsourcing, light fold"}
    figures = [
        Figure(
            group=GROUP,
            name=f"{kind}: {names[name]}",
            value=round(median(values)),
            unit="events/s",
            goal=GOAL_PER_S if name == "log" else None,
            percentiles={key: round(value) for key, value in percentiles(values, 10, 90, 100).items()},
            note=note,
        )
        for name, values in found.items()
    ]
    for other, goal in (("equal", GOAL_RATIO), ("light", None)):
        if other in found:
            ratios = paired(found["log"], found[other])
            figures.append(
                Figure(
                    group=GROUP,
                    name=f"{kind}: the log over {names[other]}",
                    value=round(median(ratios), 1),
                    unit="x",
                    goal=goal,
                    percentiles={key: round(value, 1) for key, value in percentiles(ratios, 10, 90).items()},
                    note="median of the ratios of each round",
                )
            )
    return figures


def _foreign(foreign: Foreign, log: EventLog, events: list[Event], *, stream: str) -> dict[str, Callable[[], float]]:
    name = stream.removeprefix("repository:")
    equal, light = (foreign.write(name, events, light=light) for light in (False, True))
    if digest_of(foreign.replay(equal).state) != digest_of(load(log, stream).state):
        raise RuntimeError(f"{stream}: eventsourcing and the log come to different states")
    return {
        "equal": _timed(lambda: int(foreign.replay(equal).version) - 1, len(events)),
        "light": _timed(lambda: int(foreign.replay(light).version) - 1, len(events)),
    }


def _timed(read: Callable[[], int], count: int) -> Callable[[], float]:
    def turn() -> float:
        begun = thread_time()
        version = read()
        took = thread_time() - begun
        if version != count:
            raise RuntimeError(f"replay read up to version {version} of {count}")
        return count / took

    return turn
