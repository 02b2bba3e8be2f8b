"""How many pull requests a second a sweep gets through when verifying costs nothing: real Ray, real durable log.

Each case is one sweep with a fresh SQLite log (``synchronous=FULL``) on a local Ray of its own: all actors, all calls
and all events are those of a real sweep, only the runners' workbench answers at once. Starting and stopping Ray is not
part of the time. The rate counts from the first repository's activation to the sweep's end, so that cases of different
sizes can be compared; what the sweep needs before that (its definition, its runners' processes) is in the note.

Run alone: ``python -m scripts.bench.orchestration [--quick] [--case REPOSITORIESxPULL_REQUESTS]…``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from actors import gateway
from actors.driver import RunOptions, StopSwitch, run_sweep
from actors.gateway import ClusterInfo
from actors.settings import Settings, SweepSettings
from actors.supervisor import SweepProgress
from events import codec
from events.types import (
    AttemptStarted,
    AttemptSucceeded,
    RepositoryActivated,
    RepositoryRetired,
    SweepRunEnded,
)
from events.work import PullRequest
from scripts.bench.figures import Figure
from scripts.bench.instant import instant_workbench
from scripts.bench.processes import cpu_seconds, used_between
from store.opening import open_store

__all__ = ["Case", "Options", "measure"]

GROUP = "orchestration"
GOAL_PER_S = 100.0
FLAT = 0.8
"""What the rate at 1,000 repositories may fall to, as a part of the rate at 10, to count as flat."""
SHORT, SHORT_TIMES = 500, 3
"""A sweep of so many pull requests is over in seconds, so it is run so often."""
ACTIVE = 32
WORKERS = 8
SWEEP = "bench"


class Options(Protocol):
    """What ``measure`` is told. ``quick``: a tenth of the sizes, for a look."""

    @property
    def quick(self) -> bool:
        """Whether a rough figure is enough."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One sweep: so many repositories of so many pull requests each."""

    repositories: int
    pull_requests: int

    @property
    def name(self) -> str:
        """As people read it."""
        return f"{self.repositories:,} repositories of {self.pull_requests:,} PRs"


CASES = tuple(
    Case(repositories=repositories, pull_requests=pull_requests)
    for repositories, pull_requests in ((10, 10), (100, 10), (1_000, 10), (4, 500))
)


class Seen(msgspec.Struct, kw_only=True):
    """What the log and the cluster tell of one sweep; times in seconds."""

    wall_s: float
    before_s: float
    working_s: float
    pull_requests: int
    events: int
    active_peak: int
    actors_peak: int
    latencies_s: list[float]
    cpu_ms: dict[str, float]
    """Of one pull request, by kind of process."""

    @property
    def rate(self) -> float:
        """Pull requests a second while there was work."""
        return self.pull_requests / self.working_s


def measure(options: Options, cases: Sequence[Case] = CASES) -> list[Figure]:
    """Runs every case, a short one several times of which the best counts, and says what it saw.

    Raises:
        RuntimeError: a sweep did not end as finished with every pull request verified.
        EnvironmentNotReady: Ray does not start.
    """
    figures: list[Figure] = []
    rates: dict[Case, float] = {}
    for given in cases:
        case = msgspec.structs.replace(given, repositories=max(2, given.repositories // 10)) if options.quick else given
        times = SHORT_TIMES if case.repositories * case.pull_requests <= SHORT else 1
        seen = max((_run(case) for _ in range(times)), key=lambda one: one.rate)
        rates[case] = seen.rate
        figures += _figures(case, seen)
    many = max(rates, key=lambda case: case.repositories)
    alike = [case for case in rates if case.pull_requests == many.pull_requests]
    few = min(alike, key=lambda case: case.repositories)
    if many.repositories >= 10 * few.repositories:
        figures.append(
            Figure(
                group=GROUP,
                name=f"rate with {many.repositories:,} repositories, as a part of that with {few.repositories:,}",
                value=rates[many] / rates[few],
                unit="x",
                goal=FLAT,
            )
        )
    return figures


def _figures(case: Case, seen: Seen) -> Iterable[Figure]:
    yield Figure(
        group=GROUP,
        name=f"{case.name}: end to end",
        value=seen.rate,
        unit="PRs/s",
        goal=GOAL_PER_S,
        percentiles=_percentiles([1_000 * one for one in seen.latencies_s]),
        note=f"percentiles: ms from an attempt's start to its end, both durable; {seen.events:,} events, "
        f"{seen.events / seen.working_s:,.0f} events/s; {WORKERS} runners; before it {seen.before_s:.1f} s for the "
        f"definition and the runners' processes; with all that {seen.pull_requests / seen.wall_s:.0f} PRs/s",
    )
    if seen.cpu_ms:
        by_kind = sorted(seen.cpu_ms.items(), key=lambda one: -one[1])
        yield Figure(
            group=GROUP,
            name=f"{case.name}: CPU of all processes together, for one PR",
            value=sum(seen.cpu_ms.values()),
            unit="ms",
            note="; ".join(f"{kind} {ms:.1f}" for kind, ms in by_kind),
        )
    yield Figure(
        group=GROUP,
        name=f"{case.name}: live repository actors, at most",
        value=float(seen.active_peak),
        unit="actors",
        goal=float(ACTIVE),
        at_least=False,
        note=f"they share processes: {seen.actors_peak} Ray actors of all kinds, {WORKERS} of them runners",
    )


def _percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {f"p{part}": ordered[min(len(ordered) - 1, len(ordered) * part // 100)] for part in (50, 90, 99)}


def _run(case: Case) -> Seen:
    rows = [
        PullRequest(
            owner="bench",
            repo=f"r{repository:05d}",
            issue_number=number,
            sha=f"{repository:08x}{number:032x}",
            created_at=f"20{10 + number // 336:02d}-{1 + number // 28 % 12:02d}-{1 + number % 28:02d}T00:00:00Z",
            env_payload="[]",
            python_version="3.11",
        )
        for repository in range(case.repositories)
        for number in range(1, case.pull_requests + 1)
    ]
    settings = Settings(sweep=SweepSettings(workers=WORKERS, max_active_repositories=ACTIVE))
    actors = 0
    looks: list[tuple[int, dict[tuple[int, str], float]]] = []

    def watch(progress: SweepProgress, _: ClusterInfo) -> None:
        nonlocal actors
        actors = max(actors, len(gateway.living()))
        if progress.phase == "running":
            done = sum(one.get("succeeded", 0) for one in progress.repositories.values())
            looks[1:] = [(done, cpu_seconds())]  # the first is kept

    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder:
        url = f"sqlite:///{folder}/log.db"
        options = RunOptions(store_url=url, sweep=SWEEP, settings=settings, workbench=instant_workbench)
        progress = run_sweep(options, rows=rows, timeline="bench", on_progress=watch, switch=StopSwitch())
        if progress.phase != "finished":
            raise RuntimeError(f"{case.name}: the sweep ended as {progress.phase}: {progress.message}")
        return _seen(url, case, actors, looks)


def _cpu_ms(looks: Sequence[tuple[int, dict[tuple[int, str], float]]]) -> dict[str, float]:
    """Milliseconds of CPU for one pull request, by kind of process, between the first look and the last."""
    (done, before), (all_done, after) = looks[0], looks[-1]
    if all_done == done:
        return {}
    used = used_between(before, after)
    return {kind: 1_000 * seconds / (all_done - done) for kind, seconds in used.items()}


def _seen(url: str, case: Case, actors: int, looks: Sequence[tuple[int, dict[tuple[int, str], float]]]) -> Seen:
    """What the log says of the sweep."""
    starts: dict[str, float] = {}
    latencies: list[float] = []
    active = peak = succeeded = events = 0
    first = activated = last = 0.0
    with open_store(url, write=False) as store:
        for one in store.log.read_all():
            events += 1
            first = first or one.recorded_at
            event = codec.decode(one.type, one.schema, one.data)
            match event:
                case AttemptStarted():
                    starts[event.attempt_id] = one.recorded_at
                case AttemptSucceeded():
                    latencies.append(one.recorded_at - starts[event.attempt_id])
                    succeeded += 1
                case RepositoryActivated():
                    activated = activated or one.recorded_at
                    active += 1
                    peak = max(peak, active)
                case RepositoryRetired():
                    active -= 1
                case SweepRunEnded():
                    last = one.recorded_at
    if succeeded != case.repositories * case.pull_requests:
        raise RuntimeError(f"{case.name}: {succeeded} pull requests were verified")
    return Seen(
        wall_s=last - first,
        before_s=activated - first,
        working_s=last - activated,
        pull_requests=succeeded,
        events=events,
        active_peak=peak,
        actors_peak=actors,
        latencies_s=latencies,
        cpu_ms=_cpu_ms(looks) if looks else {},
    )


class _Given(msgspec.Struct, frozen=True):
    quick: bool


def main(arguments: Sequence[str]) -> int:
    """Runs alone and writes one JSON object a figure."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.orchestration", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the repositories")
    parser.add_argument("--case", action="append", metavar="NxM", help="N repositories of M pull requests each")
    given = parser.parse_args(arguments)
    sizes = [[int(part) for part in one.split("x")] for one in given.case or ()]
    cases = [Case(repositories=one[0], pull_requests=one[1]) for one in sizes] or CASES
    for figure in measure(_Given(quick=given.quick), cases):
        sys.stdout.write(msgspec.json.encode(figure).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
