"""``headrace store rebuild``: makes the read models anew from the log, and proves that they are what it gives."""

from __future__ import annotations

import sys

import click
import msgspec

from events.errors import LogCorrupt
from store.opening import open_store
from store.proving import folded_rows, stored_rows
from store.read_models import refuse_pruned

__all__ = ["rebuild"]


class RebuildView(msgspec.Struct, frozen=True, kw_only=True):
    """What ``rebuild --json`` prints. ``were_equal``: the rows were what the log gives before anything was done."""

    were_equal: bool
    rebuilt: bool
    attempts: int
    errors: int
    contexts: int
    digest: str


@click.command("rebuild")
@click.option("--store", default="sqlite:///headrace.db", show_default=True, help="Where the log is.")
@click.option("--check", is_flag=True, help="Only compare; exit code 1 when they differ.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def rebuild(*, store: str, check: bool, as_json: bool) -> None:
    """Folds the log into build_attempts, error_logs and build_contexts again, in the place of what is there.

    The rows are compared, before and after, with a fold of the log in memory. Events are not touched. No sweep may
    write the log meanwhile; --check works beside one that rests.
    """
    with open_store(store, write=False):
        pass  # a log that is not there is not made
    with open_store(store, write=not check, holder="store rebuild") as opened:
        refuse_pruned(opened.log)
        wanted, before = folded_rows(opened), stored_rows(opened)
        if not check:
            opened.models.rebuild()
            if stored_rows(opened) != wanted:
                raise LogCorrupt(where=f"the read models of {store}", detail="rebuilt, they are not what the log gives")
    view = RebuildView(
        were_equal=before == wanted,
        rebuilt=not check,
        attempts=wanted.attempts,
        errors=wanted.errors,
        contexts=wanted.contexts,
        digest=wanted.digest,
    )
    if as_json:
        sys.stdout.write(msgspec.json.encode(view).decode() + "\n")
    else:
        was = "equal to" if view.were_equal else "NOT equal to"
        click.echo(
            f"{view.attempts} attempts, {view.errors} errors and {view.contexts} contexts; they were {was} the log's"
        )
        if view.rebuilt:
            click.echo(f"rebuilt, they are equal to the log's (digest {view.digest[:16]})")
    if check and not view.were_equal:
        click.get_current_context().exit(1)
