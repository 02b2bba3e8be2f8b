"""``headrace evict``: makes room on the engine's disk by removing this node's own images, oldest use first."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime

import click
import msgspec

from actors.images import Engine
from actors.images.disk import DiskBudget, Evicted, Eviction
from actors.images.engine import node_of
from actors.settings import Settings, load_settings
from events.errors import EnvironmentNotReady, InfraError, InputError

__all__ = ["command"]

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
GIB = 1 << 30


def parse_size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:  # noqa: ARG001
    """Bytes of ``500M``, ``10G``, ``1.5 GiB``; without a unit, bytes. Units are powers of 1024."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", value.strip().lower())
    if match is None:
        raise click.BadParameter(f"{value!r} is no size; write 500M, 10G or 1.5GiB")
    return int(float(match[1]) * UNITS[match[2]])


class EvictView(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--json`` prints. ``dry_run``: nothing was removed, this is what would be."""

    dry_run: bool
    own_bytes: int
    """Of this node's images and build cache, before."""
    freed_bytes: int
    kept: int
    evicted: list[Evicted]


@click.command("evict")
@click.option("--free", "free_bytes", callback=parse_size, metavar="SIZE", help="Free this much.")
@click.option(
    "--to", "to_bytes", callback=parse_size, metavar="SIZE", help="Leave at most this much of Headrace's images."
)
@click.option("--all", "everything", is_flag=True, help="Remove all that is not in use.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@click.option("--config", type=click.Path(), default=None, metavar="FILE", help="Settings [default: headrace.toml].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for programs.")
def command(
    *,
    free_bytes: int | None,
    to_bytes: int | None,
    everything: bool,
    dry_run: bool,
    config: str | None,
    as_json: bool,
) -> None:
    """Removes images and build cache that Headrace made on this node, those first that were used longest ago.

    Images of others, images that containers or running attempts use, and what those are built on stay. Without an
    option, evicts down to the budget of the settings (disk.budget_gb). Contexts, logs and results stay: what is needed
    again is built again. Works beside a sweep.

    Exit code 0: done. 3: less could be freed than asked, or the engine is away.
    """
    if sum((free_bytes is not None, to_bytes is not None, everything)) > 1:
        raise InputError("--free, --to and --all exclude each other; name one")
    settings = load_settings(config)
    if free_bytes is None and to_bytes is None and not everything:
        if not settings.disk.budget_gb:
            raise InputError("name --free SIZE, --to SIZE or --all, or set disk.budget_gb")
        to_bytes = int(settings.disk.budget_gb * GIB)
    try:
        own_bytes, done = _evict(settings, free_bytes=free_bytes, to_bytes=to_bytes, dry_run=dry_run)
    except InfraError as exc:
        raise EnvironmentNotReady(f"{exc.message}; `headrace doctor` tells more") from exc
    view = EvictView(
        dry_run=dry_run, own_bytes=own_bytes, freed_bytes=done.freed_bytes, kept=done.kept, evicted=done.evicted
    )
    if as_json:
        sys.stdout.write(msgspec.json.encode(view).decode() + "\n")
    else:
        _show(view)
    wanted = free_bytes if free_bytes is not None else own_bytes - (own_bytes if to_bytes is None else to_bytes)
    if done.freed_bytes < wanted:
        raise EnvironmentNotReady(
            f"{done.freed_bytes / GIB:.2f} GiB of {wanted / GIB:.2f} GiB: the {done.kept} images that are left are in "
            "use or needed by such; end what uses them (`docker ps --all`) and try again"
        )


def _evict(settings: Settings, *, free_bytes: int | None, to_bytes: int | None, dry_run: bool) -> tuple[int, Eviction]:
    disk = DiskBudget(Engine(), settings=settings.disk, cache_dir=settings.cache_dir, node=node_of(settings.cache_dir))
    own_bytes = disk.use().own_bytes
    return own_bytes, disk.evict(free_bytes=free_bytes, to_bytes=to_bytes, dry_run=dry_run)


def _show(view: EvictView) -> None:
    for image in view.evicted:
        used = datetime.fromtimestamp(image.last_used_at, UTC).strftime("%Y-%m-%d %H:%M")
        name = ", ".join(image.tags) or f"build cache {image.image_id[7:19]}"
        click.echo(f"{image.bytes / (1 << 20):>9.1f} MiB  last used {used}  {name}")
    would = "would free" if view.dry_run else "freed"
    click.echo(
        f"{would} {view.freed_bytes / GIB:.2f} of {view.own_bytes / GIB:.2f} GiB: {len(view.evicted)} images and steps "
        f"of builds, kept {view.kept}"
    )
