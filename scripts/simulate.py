"""``headrace simulate``: a virtual sweep of a world file."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from actors.settings import load_settings
from actors.simulation.engine import Simulation, Summary
from actors.simulation.world import World, load_world
from events.errors import InputError
from events.work import CascadePolicy
from scripts.progress import progress_bar
from store.log import EventLog
from store.opening import open_store

__all__ = ["command", "knobs_from"]

NO_CONTEXT = "0" * 64


@click.command()
@click.argument("world", type=click.Path(path_type=Path))
@click.option("--store", help="Where the event log goes; must hold no events yet. Without: no log is kept.")
@click.option(
    "--policy",
    type=click.Choice(["cascade", "windowed"]),
    default="cascade",
    show_default=True,
    help="cascade: what a real sweep does. windowed: a plain worker pool, for comparison.",
)
@click.option("--config", type=click.Path(path_type=Path), help="Settings file; table [cascade] is used.")
def command(*, world: Path, store: str | None, policy: str, config: Path | None) -> int:
    """Sweeps WORLD in virtual time and prints a JSON summary; what is decided is decided by the real core.

    WORLD is JSON: seed, workers, verify {seconds, jitter}, agents [{name, slots, seconds, jitter, success, limit
    {sessions, per_seconds}}], repositories [{owner, repo, prs [{issue_number, created_at, epoch, seed}]}]. A context
    that was generated for a pull request of epoch e verifies on exactly those of epoch e; the core never sees it.
    There is no stock template in a world, so none is tried.
    """
    loaded = load_world(world)
    knobs = knobs_from(config, generate=bool(loaded.agents))
    if store is None:
        summary = _simulate(loaded, None, policy=policy, knobs=knobs, sweep=world.stem)
    else:
        with open_store(store, write=True, holder=f"simulate {world.name}") as opened:
            if opened.log.streams():
                raise InputError(f"--store {store}: this log holds events already; name a new file")
            summary = _simulate(loaded, opened.log, policy=policy, knobs=knobs, sweep=world.stem)
    click.echo(msgspec.json.format(msgspec.json.encode(summary), indent=2).decode())
    return 1 if summary.failed else 0


def _simulate(world: World, log: EventLog | None, *, policy: str, knobs: CascadePolicy, sweep: str) -> Summary:
    total = sum(len(one.prs) for one in world.repositories)
    with progress_bar("PRs", total) as advance_to:
        return Simulation(world, log, policy=policy, knobs=knobs, sweep=sweep, progress=advance_to).run()


def knobs_from(config: Path | None, *, generate: bool) -> CascadePolicy:
    """The cascade's knobs as a real sweep would take them from settings file and environment."""
    cascade = load_settings(config).cascade
    return CascadePolicy(
        stock_context=NO_CONTEXT,
        window_days=float(cascade.neighbor_window_days),
        neighbor_cap=cascade.neighbor_cap,
        tasks_per_repo=cascade.tasks_per_repo,
        try_default=False,
        max_candidates=cascade.max_candidates,
        generate=generate,
    )
