"""``headrace store copy``: brings a store over into another one, with the same events and hashes."""

from __future__ import annotations

import sys
import time

import click
import msgspec

from events.errors import InputError
from store.copying import copy_store
from store.opening import absolute_url, open_store

__all__ = ["copy"]

SHOW_EVERY_S = 5.0


@click.command("copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def copy(*, source: str, target: str, as_json: bool) -> None:
    """Copies the store FROM into the store TO: blobs, events, snapshots; read models follow from the events.

    FROM and TO are store URLs (sqlite:///PATH, supabase). An event stays what it is: id, time, version, seq and hash.
    At the end the heads of all streams are compared, hash by hash. Interrupted, the same command goes on where it was.
    TO must be empty or hold the beginning of FROM; nothing else may write it meanwhile. FROM is only read: what is
    recorded in it while it is copied is left for the next time.
    """
    if absolute_url(source) == absolute_url(target):
        raise InputError(f"FROM and TO are the same store: {source}")
    progress = _Progress(quiet=as_json)
    with open_store(source, write=False) as from_, open_store(target, write=True, holder="store copy") as to:
        copied = copy_store(from_, to, on_progress=progress.show)
    if as_json:
        sys.stdout.write(msgspec.json.encode(copied).decode() + "\n")
        return
    click.echo(
        f"copied {copied.events} events, {copied.blobs} blobs and {copied.snapshots} snapshots; "
        f"{copied.streams} streams have equal hashes, the last event is seq {copied.seq}"
    )


class _Progress:
    def __init__(self, *, quiet: bool) -> None:
        self._quiet, self._next = quiet, time.monotonic() + SHOW_EVERY_S

    def show(self, kind: str, count: int) -> None:
        """Tells how far the copy is, every few seconds."""
        if not self._quiet and time.monotonic() > self._next:
            click.echo(f"{count} {kind} so far", err=True)
            self._next = time.monotonic() + SHOW_EVERY_S
