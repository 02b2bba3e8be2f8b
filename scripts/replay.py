"""``headrace replay``: the state at any moment of the log, and whether the log is what was written."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click
import msgspec
from rich.console import Console
from rich.table import Table

from events.governor import GovernorState
from events.repository_state import RepositoryState
from events.sweep import RepositoryPhase, SweepState
from scripts.events import iso
from store.opening import open_store
from store.replay import Moment, Past, check, states_at

__all__ = ["command", "moment_of"]


class LeaseView(msgspec.Struct, frozen=True, kw_only=True):
    """A lease that was out. ``expires_at``: as granted, renewals are not in the log."""

    account: str
    slot: int
    holder: str
    expires_at: str


class RepositoryView(msgspec.Struct, frozen=True, kw_only=True):
    """A repository: pull requests of its active sweep by state, and the attempts that were under way."""

    version: int
    sweep: str
    pull_requests: dict[str, int]
    running: list[str]


class SweepView(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep: its repositories by phase. ``last_run``: ``running``, ``not yet run``, or how it ended."""

    version: int
    repositories: dict[str, int]
    runs: int
    last_run: str


class ReplayView(msgspec.Struct, frozen=True, kw_only=True):
    """What ``replay --json`` prints. ``checked``: the hash chains and all transitions were checked."""

    seq: int
    recorded_at: str
    events: int
    streams: int
    checked: bool
    sweeps: dict[str, SweepView]
    repositories: dict[str, RepositoryView]
    leases: list[LeaseView]


@click.command()
@click.option("--store", default="sqlite:///headrace.db", show_default=True, help="Where the log is.")
@click.option("--stream", help="Only this stream, such as repository:OWNER/REPO or sweep:NAME.")
@click.option(
    "--at",
    "at",
    metavar="SEQ|TIME",
    help="The state as of this seq of the log, or this ISO 8601 time (UTC if it names no zone); default: now.",
)
@click.option(
    "--check",
    "checked",
    is_flag=True,
    help="Check hash chains, versions and every transition of the whole log; exit 1 names the first damage.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(store: str, stream: str | None, at: str | None, checked: bool, as_json: bool) -> None:
    """Replays the log: shows the state at a moment, checks that nothing was changed."""
    moment = Moment() if at is None else moment_of(at)
    with open_store(store, write=False) as opened:
        past = check(opened.log, stream=stream) if checked else None
        if past is None or at is not None:
            past = states_at(opened.log, moment, stream=stream)
    view = _view(past, checked=checked)
    if as_json:
        sys.stdout.write(msgspec.json.encode(view).decode() + "\n")
    else:
        _show(view)


def moment_of(text: str) -> Moment:
    """What ``--at`` names.

    Raises:
        click.BadParameter: it is neither a seq nor a time.
    """
    if text.isascii() and text.isdigit() and int(text):
        return Moment(seq=int(text))
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        problem = f"{text!r} is neither a seq (1 or more) nor an ISO 8601 time such as 2026-01-31T12:00:00Z"
        raise click.BadParameter(problem, param_hint="--at") from None
    return Moment(at=(time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())


def _view(past: Past, *, checked: bool) -> ReplayView:
    sweeps: dict[str, SweepView] = {}
    repositories: dict[str, RepositoryView] = {}
    leases: list[LeaseView] = []
    for state in past.states.values():
        match state:
            case RepositoryState():
                repositories[state.repository] = RepositoryView(
                    version=state.version,
                    sweep=state.sweep,
                    pull_requests=state.counts(state.sweep),
                    running=[f"#{one.issue_number} {one.stage} on {one.runner}" for one in state.inflight.values()],
                )
            case SweepState():
                sweeps[state.sweep] = _sweep_view(state)
            case GovernorState():
                leases = [
                    LeaseView(account=one.account, slot=one.slot, holder=one.holder, expires_at=iso(one.expires_at))
                    for one in state.leases.values()
                ]
            case _:
                continue
    return ReplayView(
        seq=past.seq,
        recorded_at=iso(past.recorded_at),
        events=past.events,
        streams=len(past.states),
        checked=checked,
        sweeps=sweeps,
        repositories=repositories,
        leases=leases,
    )


def _sweep_view(state: SweepState) -> SweepView:
    last = state.last_end.how if state.last_end else "running" if state.runs else "not yet run"
    phases = {str(phase): len(state.in_phase(phase)) for phase in RepositoryPhase}
    repositories = {phase: count for phase, count in phases.items() if count}
    return SweepView(version=state.version, repositories=repositories, runs=state.runs, last_run=last)


def _show(view: ReplayView) -> None:
    console = Console()
    if view.checked:
        console.print("checked: versions, hash chains and transitions are whole", highlight=False)
    console.print(
        f"as of seq {view.seq}, {view.recorded_at}: {view.events} events in {view.streams} streams", highlight=False
    )
    for name, sweep in view.sweeps.items():
        phases = ", ".join(f"{count} {phase}" for phase, count in sweep.repositories.items()) or "none"
        console.print(f"sweep {name}: run {sweep.runs} {sweep.last_run}; repositories: {phases}", highlight=False)
    if view.repositories:
        table = Table("repository", "version", "sweep", "pull requests", "running")
        for name, one in view.repositories.items():
            counts = ", ".join(f"{count} {state}" for state, count in sorted(one.pull_requests.items()))
            table.add_row(name, str(one.version), one.sweep, counts, "\n".join(one.running))
        console.print(table)
    for lease in view.leases:
        console.print(f"lease: {lease.account} slot {lease.slot} to {lease.holder}", highlight=False)
