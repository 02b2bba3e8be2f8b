"""``headrace store import``: takes over the rows of an earlier pipeline (docs/from-worker-pools.md)."""

from __future__ import annotations

import time
from pathlib import Path

import click

from actors.importing import import_rows
from events.errors import InputError
from scripts.import_files import ATTEMPT_COLUMNS, CONTEXT_COLUMNS, read_attempts, read_contexts
from store.opening import open_store

__all__ = ["register"]


def register(group: click.Group) -> None:
    """Adds the command to ``headrace store``."""
    group.add_command(command)


@click.command("import")
@click.option("--store", default="sqlite:///headrace.db", show_default=True, help="Where the log is, or shall be.")
@click.option(
    "--build-attempts",
    "attempts_file",
    type=click.Path(path_type=Path),
    help=f"What was tried. Columns: {', '.join(ATTEMPT_COLUMNS)}.",
)
@click.option(
    "--contexts",
    "contexts_file",
    type=click.Path(path_type=Path),
    help=f"What is said to have worked. Columns: {', '.join(CONTEXT_COLUMNS)}.",
)
def command(*, store: str, attempts_file: Path | None, contexts_file: Path | None) -> None:
    """Takes over attempts and contexts of an earlier pipeline, from JSON Lines or CSV (by the suffix .csv).

    Nothing of it counts as verified: contexts are tried before an agent is paid, and judged like all others; attempts
    are history. All rows are checked before anything is written, which happens at once or not at all; the same rows
    again change nothing.
    """
    if attempts_file is None and contexts_file is None:
        raise InputError("store import: nothing to import; name a file with --build-attempts or --contexts")
    attempts = read_attempts(attempts_file) if attempts_file is not None else []
    contexts = read_contexts(contexts_file) if contexts_file is not None else []
    with open_store(store, write=True, holder="store import") as opened:
        done = import_rows(opened, contexts=contexts, attempts=attempts, at=time.time())
    click.echo(
        f"imported {done.contexts} contexts and {done.attempts} attempts; {done.contexts_known} contexts were there "
        f"already, {done.attempts_known} attempts are of pull requests that the log knows and were left out"
    )
