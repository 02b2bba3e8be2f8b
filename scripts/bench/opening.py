"""Opening a sweep of a million events, from its events alone and from snapshots, each in a fresh process.

Two logs: one of some 200 repositories with streams as the simulator writes them and a governor's stream, and one whose
million events are a single repository's. Snapshots are where the actors put them: at every thousandth version, so that
up to 999 events come after each. What opening does is told in :mod:`scripts.bench.opened`. The page cache is warm.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from time import perf_counter

import msgspec

from actors.log_client import SNAPSHOT_EVERY
from actors.simulation.measure import KNOBS
from events import codec
from events.replay import StreamFold
from events.types import (
    Account,
    AccountsConfigured,
    Event,
    GovernorClaimed,
    Lease,
    LeasesGranted,
    LeasesReleased,
    RepositoriesAdmitted,
    RepositoryActivated,
    RepositoryRows,
    SweepDefined,
    SweepRunStarted,
)
from events.work import VerificationRules
from scripts.bench.figures import Figure
from scripts.bench.material import SWEEP, detailed_stream, simulated_stream
from scripts.bench.opened import Opened
from scripts.bench.options import Options
from scripts.bench.sampling import median
from store.log import Append, EventLog, NewEvent
from store.opening import open_store
from store.snapshots import save_snapshot

__all__ = ["measure"]

GROUP = "opening"
WITH_S, WITHOUT_S, MEMORY_MIB = 3.0, 10.0, 1024.0
AT = 1_760_000_000.0
BATCH = 1000
GOVERNOR_SHARE = 10
"""One event in so many is the governor's."""


def measure(options: Options) -> list[Figure]:
    """Both logs, without snapshots first."""
    events = 3_000 if options.quick else 1_000_000
    figures = _of_log(options, "many repositories", _many(options, events))
    return figures + _of_log(options, "one repository", _single(options, events))


def _of_log(options: Options, name: str, streams: Mapping[str, Iterable[Event]]) -> list[Figure]:
    path = options.folder / f"opening-{name.replace(' ', '-')}.db"
    url = f"sqlite:///{path}"
    begun = perf_counter()
    with open_store(url, write=True, holder="bench") as store:
        kept = [_fill(store.log, stream, events) for stream, events in streams.items()]
    took = perf_counter() - begun
    count = sum(total for _, total in kept)
    size = f"{count} events, {path.stat().st_size / 2**20:.0f} MiB, written in {took:.0f} s"
    without = _openings(url, options, count)
    with open_store(url, write=True, holder="bench") as store:
        for fold, _ in kept:
            if fold.state.version:
                state = fold.machine.pack(fold.state)
                save_snapshot(store.log, fold.stream, version=fold.state.version, shape=fold.machine.shape, state=state)
    snapshots = sum(fold.state.version > 0 for fold, _ in kept)
    from_snapshots = _openings(url, options, count)
    for leftover in options.folder.glob(f"{path.name}*"):
        if leftover.is_file():
            leftover.unlink()
    return [
        *_figures(f"{name}: without snapshots", without, WITHOUT_S, size),
        *_figures(f"{name}: with snapshots", from_snapshots, WITH_S, f"{snapshots} snapshots; {size}"),
    ]


def _figures(name: str, found: list[Opened], goal_s: float, note: str) -> list[Figure]:
    seconds, peaks = [one.seconds for one in found], [one.peak_mib for one in found]
    return [
        Figure(
            group=GROUP,
            name=f"{name}: time",
            value=median(seconds),
            unit="s",
            goal=goal_s,
            at_least=False,
            percentiles={"best": min(seconds), "worst": max(seconds), "CPU": median([one.cpu_s for one in found])},
            note=f"{len(found)} fresh processes; CPU: of those seconds, with a core; {note}",
        ),
        Figure(
            group=GROUP,
            name=f"{name}: peak memory",
            value=max(peaks),
            unit="MiB",
            goal=MEMORY_MIB,
            at_least=False,
            note="resident, the largest of these processes, all states kept",
        ),
    ]


def _openings(url: str, options: Options, count: int) -> list[Opened]:
    found = []
    for _ in range(1 if options.quick else 3):
        command = [sys.executable, "-m", "scripts.bench.opened", url]
        run = subprocess.run(command, capture_output=True, check=False, cwd=Path(__file__).parents[2])
        if run.returncode:
            raise RuntimeError(f"opening {url} failed: {run.stderr.decode()}")
        opened = msgspec.json.decode(run.stdout, type=Opened)
        if opened.events != count:
            raise RuntimeError(f"opening {url} folded {opened.events} of {count} events")
        found.append(opened)
    return found


def _fill(log: EventLog, stream: str, events: Iterable[Event]) -> tuple[StreamFold, int]:
    """Appends a stream; returns its fold at the version of its last snapshot, and its length."""
    fold = StreamFold(stream)
    pending: list[NewEvent] = []
    version = 0
    left = iter(events)
    while page := list(islice(left, BATCH)):
        names = [type(event).__name__ for event in page]
        new = [
            NewEvent(f"{stream}-{number}", name, codec.SCHEMAS[name], codec.encode(event))
            for number, (name, event) in enumerate(zip(names, page, strict=True), start=version + 1)
        ]
        log.append(Append(stream, version, new, AT + version))
        pending += new
        version += len(new)
        covered = version - version % SNAPSHOT_EVERY - fold.state.version
        fold.take_all(
            (number, one.type, one.schema, one.data)
            for number, one in enumerate(pending[:covered], start=fold.state.version + 1)
        )
        pending = pending[covered:]
    return fold, version


def _many(options: Options, events: int) -> dict[str, Iterable[Event]]:
    one = simulated_stream(100 if options.quick else 2000, seed=options.seed)
    count = max(1, (events - events // GOVERNOR_SHARE) // len(one))
    streams: dict[str, Iterable[Event]] = {"governor": _governor(events // GOVERNOR_SHARE)}
    streams |= {f"repository:bench/r{number}": one for number in range(count)}
    return {f"sweep:{SWEEP}": list(_sweep(count)), **streams}


def _single(options: Options, events: int) -> dict[str, Iterable[Event]]:
    prs = 100 if options.quick else 20_000
    stream = islice(detailed_stream(prs, rounds=1 + events // (4 * prs)), events)
    return {f"sweep:{SWEEP}": list(_sweep(1)), "governor": _governor(2), "repository:bench/r0": stream}


def _sweep(repositories: int) -> Iterator[Event]:
    names = [f"bench/r{number}" for number in range(repositories)]
    rows = [RepositoryRows(repository=name, rows="a" * 64, pull_requests=2000) for name in names]
    yield SweepDefined(
        sweep=SWEEP, timeline="bench.jsonl", timeline_digest="b" * 64, rules=VerificationRules(), policy=KNOBS
    )
    yield RepositoriesAdmitted(repositories=rows)
    yield SweepRunStarted(run="bench", host="bench", pid=1, workers=8)
    for name in names:
        yield RepositoryActivated(repository=name)


def _governor(events: int) -> Iterator[Event]:
    yield GovernorClaimed(incarnation="bench")
    yield AccountsConfigured(accounts=[Account(name="docker", slots=8)])
    for number in range((events - 2) // 2):
        lease = Lease(
            lease_id=f"lease-{number}",
            account="docker",
            slot=0,
            holder="repository:bench/r0",
            expires_at=AT + number * 60,
        )
        yield LeasesGranted(leases=[lease])
        yield LeasesReleased(lease_ids=[lease.lease_id])
