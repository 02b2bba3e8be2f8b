"""``python -m scripts.bench``: measures, prints a table, and writes JSON."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
import msgspec
from loguru import logger
from rich.console import Console
from rich.table import Table

from scripts.bench import append, gather, opening, orchestration, replay, shared_store, simulation, verification, writer
from scripts.bench.figures import Figure
from scripts.bench.machine import describe
from scripts.bench.options import Options

__all__ = ["MODULES", "main", "report"]

MODULES: Mapping[str, Callable[[Options], Sequence[Figure]]] = {
    "append": append.measure,
    "writer": writer.measure,
    "supabase": shared_store.measure,
    "replay": replay.measure,
    "opening": opening.measure,
    "simulation": simulation.measure,
    "orchestration": orchestration.measure,
    "verification": verification.measure,
    "gather": gather.measure,
}
"""Every group of figures, and what measures it."""

FILE_WIDTH = 220
NOT_MEASURED = "not measured"
FSYNC = "SQLite: journal_mode=WAL, synchronous=FULL (a sync of the WAL at each commit), read back on every connection"


@click.command()
@click.option("--only", metavar="GROUP[,GROUP…]", help=f"Measure these groups only: {', '.join(MODULES)}.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures there.")
@click.option("--seed", default=1, show_default=True, help="Of simulated worlds and of the order of turns.")
@click.option("--quick", is_flag=True, help="Small sizes: shows that everything runs, figures mean little.")
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder on the disk to measure, about 5 GiB free; default: the temporary folder.",
)
def main(*, only: str | None, json_path: Path | None, seed: int, quick: bool, folder: Path | None) -> None:
    """Measures Headrace beside what it is compared with. Exit code 1: a goal was missed, or a group failed."""
    groups = list(MODULES) if only is None else [name.strip() for name in only.split(",")]
    unknown = [name for name in groups if name not in MODULES]
    if unknown:
        raise click.BadParameter(
            f"no such group: {', '.join(unknown)}; there are {', '.join(MODULES)}", param_hint="only"
        )
    console = Console() if sys.stdout.isatty() else Console(width=FILE_WIDTH)
    with tempfile.TemporaryDirectory(prefix="headrace-bench-", dir=folder) as work:
        machine = describe(Path(work))
        figures: list[Figure] = []
        for name in groups:
            console.print(f"[dim]measuring {name} …")
            place = Path(work) / name
            place.mkdir()
            figures += _measured(name, Options(folder=place, seed=seed, quick=quick))
    report(console, machine, figures)
    if json_path is not None:
        found = {
            "machine": machine,
            "fsync": FSYNC,
            "seed": seed,
            "quick": quick,
            "figures": [{**msgspec.to_builtins(figure), "met": figure.met} for figure in figures],
        }
        json_path.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    failed = any(figure.name == NOT_MEASURED for figure in figures)
    missed = any(figure.met is False for figure in figures) and not quick
    sys.exit(1 if failed or missed else 0)


def _measured(name: str, options: Options) -> Sequence[Figure]:
    """The figures of one group; one that says why, if it cannot be measured: those of the others are not lost."""
    try:
        return MODULES[name](options)
    except Exception as exc:
        logger.exception("{} cannot be measured", name)
        return [Figure(group=name, name=NOT_MEASURED, value=0.0, unit="", note=f"{type(exc).__name__}: {exc}")]


def report(console: Console, machine: Mapping[str, str], figures: Sequence[Figure]) -> None:
    """Prints the machine, then a line for each figure."""
    for name, value in machine.items():
        console.print(f"{name}: {value}", highlight=False)
    console.print(FSYNC, highlight=False)
    table = Table("group", "figure", "value", "goal", "met", "spread", "how")
    for one in figures:
        goal = "" if one.goal is None else f"{'≥' if one.at_least else '≤'} {one.goal:,g}"
        met = {None: "", True: "[green]yes", False: "[red]no"}[one.met]
        spread = ", ".join(f"{key} {value:,g}" for key, value in one.percentiles.items())
        table.add_row(one.group, one.name, f"{one.value:,g} {one.unit}", goal, met, spread, one.note)
    console.print(table)


if __name__ == "__main__":
    main()
