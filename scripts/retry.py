"""``headrace retry SWEEP``: opens a sweep's failed pull requests again, and goes on with it."""

from __future__ import annotations

import re

import click

from events.commands import Reopen
from events.errors import InputError
from events.pull_request import PrState
from events.repository_state import RepositoryState
from events.sweep import SweepState
from events.work import FailureClass
from scripts.reading import open_sweep, read_repository, read_sweep
from scripts.running import RunChoices, refuse_forgotten_agents, run_and_report, sweep_options, wait_for_lock
from scripts.writing import decide_and_record
from store.opening import open_store

__all__ = ["command"]

REASON = "headrace retry: tried again"


@click.command()
@click.argument("sweep")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice([one.value for one in FailureClass]),
    help="Only those that failed so; may be given several times.",
)
@click.option("--pr", "named", multiple=True, metavar="OWNER/REPO#N", help="Only this one; may be given several times.")
@sweep_options
def command(*, sweep: str, only: tuple[str, ...], named: tuple[str, ...], run: RunChoices) -> int:
    """Opens the failed pull requests of SWEEP again, with whole budgets, and goes on like `resume`.

    What was refuted on them may be tried on them again; what was revoked never is. That they are open is in the log
    before anything runs: killed in between, `resume` or `retry` goes on, and opens only what has failed since.
    """
    settings = run.settings()
    with open_sweep(run.store, sweep) as (store, state):
        chosen = _chosen(state, named)
        for name, asked_for in chosen.items():
            _refuse_strangers(read_repository(store.log, name), sweep, asked_for)
    refuse_forgotten_agents(run, sweep, settings)
    wait_for_lock(run.store, sweep)
    count = 0
    with open_store(run.store, write=True, holder=f"retry {sweep}") as store:
        state = read_sweep(store.log, sweep)
        for name in chosen or state.repositories:
            repository = read_repository(store.log, name)
            numbers = _failed(repository, sweep, chosen.get(name), only)
            reopen = Reopen(sweep=sweep, issue_numbers=numbers, reason=REASON)
            count += len(decide_and_record(store.log, repository, reopen, sweeps=[state]))
    click.echo(f"re-opened {count} pull request{'s' * (count != 1)} of sweep {sweep}")
    return run_and_report(run, sweep=sweep, settings=settings, rows=None, timeline="")


def _chosen(state: SweepState, named: tuple[str, ...]) -> dict[str, set[int]]:
    """The named pull requests by repository."""
    chosen: dict[str, set[int]] = {}
    for name in named:
        repository, _, number = name.partition("#")
        if not re.fullmatch(r"[^/\s]+/[^/\s]+", repository) or not re.fullmatch(r"[0-9]+", number):
            raise InputError(f"--pr {name!r}: name it as OWNER/REPO#N")
        if repository not in state.repositories:
            raise InputError(f"--pr {name}: sweep {state.sweep} has no repository {repository}")
        chosen.setdefault(repository, set()).add(int(number))
    return chosen


def _refuse_strangers(repository: RepositoryState, sweep: str, numbers: set[int]) -> None:
    unknown = numbers - repository.members.get(sweep, set())
    if unknown:
        raise InputError(f"--pr {repository.repository}#{min(unknown)}: sweep {sweep} has no such pull request")
    for number in sorted(numbers):
        if repository.prs[number].state is not PrState.FAILED:
            shown = repository.shown_state(number)
            click.echo(f"{repository.repository}#{number} has not failed ({shown}): it is left as it is", err=True)


def _failed(repository: RepositoryState, sweep: str, numbers: set[int] | None, only: tuple[str, ...]) -> list[int]:
    """The failed pull requests that were asked for, in the order of their times."""
    return [
        pr.issue_number
        for pr in repository.of_sweep(sweep)
        if pr.state is PrState.FAILED
        and (numbers is None or pr.issue_number in numbers)
        and (not only or pr.failure_class in only)
    ]
