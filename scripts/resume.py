"""``headrace resume SWEEP``: goes on with a sweep from what its log holds."""

from __future__ import annotations

import click

from scripts.reading import open_sweep
from scripts.running import RunChoices, run_and_report, sweep_options

__all__ = ["command"]


@click.command()
@click.argument("sweep")
@sweep_options
def command(*, sweep: str, run: RunChoices) -> int:
    """Goes on with SWEEP: nothing that has an outcome in the log is done again.

    Rules and cascade policy are those under which the sweep was last started; build settings and agents are read anew.
    """
    settings = run.settings()
    with open_sweep(run.store, sweep):
        pass
    return run_and_report(run, sweep=sweep, settings=settings, rows=None, timeline="")
