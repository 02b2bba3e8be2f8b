"""Makes the table of docs/cascade.md: ``python -m scripts.cascade_table [--seeds N] [--write]``."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import click

from actors.simulation.measure import Measured, mean, measure
from actors.simulation.worlds import make_world

__all__ = ["main", "rows"]

PAGE = Path(__file__).parent.parent / "docs" / "cascade.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
WORKERS = (1, 8, 32, 128)
SUCCESS = (0.6, 0.8, 1.0)
PER_WORLD = 30
"""A world of one repository is small: it is measured with this many times the seeds."""

Cell = tuple[int, int, float, int]


def _measured(cell: Cell) -> tuple[Measured, Measured]:
    repositories, workers, success, seeds = cell
    count = seeds * (PER_WORLD if repositories == 1 else 1)
    worlds = [
        make_world(repositories=repositories, workers=workers, success=success, seed=seed)
        for seed in range(1, count + 1)
    ]
    return mean(measure(one) for one in worlds), mean(measure(one, policy="windowed") for one in worlds)


def rows(seeds: int) -> list[str]:
    """The table, line by line."""
    cells = [(count, workers, success, seeds) for count in (20, 1) for workers in WORKERS for success in SUCCESS]
    lines = [
        "| repositories | workers | success | sessions ÷ bound | verifications per PR | makespan, min | ÷ ideal | "
        "÷ expected | plain: sessions ÷ bound | plain: makespan, min |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    with ProcessPoolExecutor() as pool:
        for (count, workers, success, _), (ours, plain) in zip(cells, pool.map(_measured, cells), strict=True):
            lines.append(
                f"| {count} | {workers} | {success:.1f} | {ours.sessions:.2f} | {ours.verifications:.2f} | "
                f"{ours.makespan_min:.0f} | {ours.of_ideal:.2f} | {ours.of_expected:.2f} | {plain.sessions:.2f} | "
                f"{plain.makespan_min:.0f} |"
            )
    return lines


@click.command()
@click.option("--seeds", default=4, show_default=True, help="Worlds a cell; five times as many if of one repository.")
@click.option("--write", is_flag=True, help="Into docs/cascade.md instead of standard output.")
def main(seeds: int, write: bool) -> None:
    """Measures the cascade and the plain pool on generated worlds."""
    table = "\n".join(rows(seeds)) + "\n"
    if not write:
        click.echo(table, nl=False)
        return
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(before + BEGIN + table + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
