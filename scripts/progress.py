"""Progress of a long command that counts towards a known total: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["progress_bar"]

LINE_EVERY_S = 5.0


@contextmanager
def progress_bar(noun: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows on standard error how many of ``total`` are done; yields what is to be told the number."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(noun, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(noun, total=total)
        yield lambda done: bar.update(task, completed=done)


def _lines(noun: str, total: int) -> Callable[[int], None]:
    said_at = time.monotonic()

    def say(done: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= LINE_EVERY_S:
            said_at = time.monotonic()
            click.echo(f"{done} of {total} {noun}", err=True)

    return say
