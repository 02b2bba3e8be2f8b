"""``headrace store``: looks after stores; here, pruning old events behind snapshots."""

from __future__ import annotations

import sys

import click
import msgspec

from events.errors import InputError
from scripts.store_copy import copy
from scripts.store_import import register
from scripts.store_migrate import migrate
from scripts.store_rebuild import rebuild
from store.log import EventLog
from store.opening import open_store
from store.pruning import Cut, cut_of

__all__ = ["command"]

SHOWN_STREAMS = 20


class StreamView(msgspec.Struct, frozen=True, kw_only=True):
    """A stream: versions ``first`` to ``last`` were removed (nothing if ``removed`` is 0), ``kept`` events are left."""

    stream: str
    removed: int
    first: int
    last: int
    kept: int
    why_kept: str


class PruneView(msgspec.Struct, frozen=True, kw_only=True):
    """What ``prune --json`` prints. ``dry_run``: nothing was removed, this is what would be."""

    dry_run: bool
    removed: int
    kept: int
    streams: list[StreamView]


@click.group("store")
def command() -> None:
    """Looks after stores: their schema, their copies, their read models, and what may go."""


for _subcommand in (migrate, copy, rebuild):
    command.add_command(_subcommand)


register(command)


@command.command("prune")
@click.option("--store", default="sqlite:///headrace.db", show_default=True, help="Where the log is.")
@click.option(
    "--behind-snapshots",
    is_flag=True,
    required=True,
    help="Remove what the snapshots of the streams cover; there is no other kind, and it cannot be undone.",
)
@click.option("--stream", "only", multiple=True, help="Only this stream; may be given several times (default: all).")
@click.option("--dry-run", is_flag=True, help="Check, say what would be removed, and remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def prune(*, store: str, behind_snapshots: bool, only: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Removes old events that a verified snapshot of their stream covers, durably, a stream at a time.

    All streams are checked first; nothing is removed when one is damaged. Sweeps go on afterwards as before, and
    attempts, errors, contexts and blobs stay. Gone are the states before the snapshots (`replay --at`), the events
    themselves (`events`), and what read models could be rebuilt from: copy the log first if it may be needed whole. No
    sweep may write the log meanwhile; --dry-run works beside one.
    """
    assert behind_snapshots  # noqa: S101 - click requires it
    with open_store(store, write=False):
        pass  # a log that is not there is not made
    with open_store(store, write=not dry_run, holder="store prune") as opened:
        cuts = [cut_of(opened.log, stream) for stream in _streams(opened.log, only)]
        for cut in cuts if not dry_run else ():
            if cut.removed:
                opened.log.remove_below(cut.stream, cut.last + 1)
    view = PruneView(
        dry_run=dry_run,
        removed=sum(cut.removed for cut in cuts),
        kept=sum(cut.kept for cut in cuts),
        streams=[_view(cut) for cut in cuts],
    )
    if as_json:
        sys.stdout.write(msgspec.json.encode(view).decode() + "\n")
    else:
        _show(view)


def _streams(log: EventLog, only: tuple[str, ...]) -> list[str]:
    known = [info.stream for info in log.streams()]
    for name in only:
        if name not in known:
            raise InputError(f"--stream {name}: the log has no such stream; `headrace replay` shows those that it has")
    return [name for name in known if not only or name in only]


def _view(cut: Cut) -> StreamView:
    return StreamView(
        stream=cut.stream,
        removed=cut.removed,
        first=cut.first,
        last=cut.last,
        kept=cut.kept,
        why_kept=cut.why_kept,
    )


def _show(view: PruneView) -> None:
    would = "would remove" if view.dry_run else "removed"
    whole: dict[str, list[str]] = {}
    for one in view.streams:
        if one.removed:
            click.echo(f"{one.stream}: {would} versions {one.first} to {one.last}, kept {one.kept} events")
        else:
            whole.setdefault(one.why_kept, []).append(one.stream)
    for why, names in whole.items():
        more = f" and {len(names) - SHOWN_STREAMS} more" if len(names) > SHOWN_STREAMS else ""
        click.echo(f"nothing removed, {why}: {', '.join(names[:SHOWN_STREAMS])}{more}")
    click.echo(f"{would} {view.removed} events, kept {view.kept}; attempts, errors, contexts and blobs stay")
    if view.removed and not view.dry_run:
        click.echo("the file keeps its size: what became free in it is used for new events")
