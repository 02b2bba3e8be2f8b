"""The table at a sweep's end: by outcome and stage, builds, time, where the log is, and what to run next."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from events.pull_request import FINISHED, PrState
from events.records import PrRecord
from scripts.accounts import account_lines, account_table, read_governor
from scripts.reading import open_sweep, read_repository
from store.read_models import AttemptRow, AttemptState

__all__ = ["count_undone", "print_summary"]

SHOWN_FAILURES = 40


def print_summary(*, store: str, sweep: str) -> int:
    """Prints a sweep's summary to standard output; returns how many of its pull requests have failed."""
    console = Console()
    failures: list[tuple[str, PrRecord]] = []
    ways: Counter[str] = Counter()
    states: Counter[str] = Counter()
    with open_sweep(store, sweep) as (opened, state):
        for name in state.repositories:
            repository = read_repository(opened.log, name)
            for pr in repository.of_sweep(sweep):
                states[repository.shown_state(pr.issue_number)] += 1
                if pr.state is PrState.FAILED:
                    failures.append((f"{name}#{pr.issue_number}", pr))
        attempts = opened.models.attempts(sweep=sweep)
        accounts = account_lines(read_governor(opened.log), sweep=sweep, now=time.time())
    for one in attempts:
        if one.state is AttemptState.SUCCEEDED:
            ways[one.stage] += 1
    console.print(_outcomes(states, ways, sweep))
    console.print(_work(attempts))
    if accounts:
        console.print(account_table(accounts))
    if failures:
        console.print(_failures(failures))
    at = shlex.quote(store)
    console.print(f"\nThe log: {store}", highlight=False)
    console.print("Look further:", highlight=False)
    for line in (
        f"headrace status {shlex.quote(sweep)} --store {at}",
        f"headrace events --store {at} --type AttemptFailed",
        f"docker images --filter label=headrace.sweep={sweep}",
    ):
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    return len(failures)


def count_undone(*, store: str, sweep: str) -> int:
    """How many pull requests of a sweep were reached and are not finished."""
    with open_sweep(store, sweep) as (opened, state):
        found = (pr for name in state.repositories for pr in read_repository(opened.log, name).of_sweep(sweep))
        return sum(pr.reached and pr.state not in FINISHED for pr in found)


def _outcomes(states: Counter[str], ways: Counter[str], sweep: str) -> Table:
    table = Table(title=f"sweep {sweep}", title_justify="left")
    table.add_column("pull requests")
    table.add_column("number", justify="right")
    for state, number in sorted(states.items()):
        table.add_row(
            state.replace("_", " "), str(number), style={"succeeded": "green", "failed": "red"}.get(state, "")
        )
    for stage, number in sorted(ways.items()):
        table.add_row(f"  verified by {stage}", str(number), style="dim")
    return table


def _work(attempts: Sequence[AttemptRow]) -> Table:
    table = Table(title="work", title_justify="left")
    table.add_column("what")
    table.add_column("number", justify="right")
    by_state = Counter(str(one.state) for one in attempts)
    table.add_row("attempts", str(len(attempts)))
    for state, number in sorted(by_state.items()):
        table.add_row(f"  {state.replace('_', ' ')}", str(number), style="dim")
    built = [one for one in attempts if one.image and not one.build_reused]
    table.add_row("images built", str(len(built)))
    table.add_row("images reused", str(sum(1 for one in attempts if one.build_reused)))
    table.add_row("build time", f"{sum(one.build_s or 0.0 for one in attempts):.0f} s")
    table.add_row("test time", f"{sum(one.test_s or 0.0 for one in attempts):.0f} s")
    if attempts:
        ends = [one.finished_at for one in attempts if one.finished_at is not None]
        if ends:
            table.add_row("first start to last end", f"{max(ends) - min(one.started_at for one in attempts):.0f} s")
    return table


def _failures(failures: list[tuple[str, PrRecord]]) -> Table:
    table = Table(title="failed", title_justify="left")
    table.add_column("pull request", no_wrap=True)
    table.add_column("why", overflow="fold")
    for name, pr in failures[:SHOWN_FAILURES]:
        table.add_row(name, pr.reason)
    if len(failures) > SHOWN_FAILURES:
        table.add_row(f"… {len(failures) - SHOWN_FAILURES} more", "see headrace status")
    return table
