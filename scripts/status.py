"""``headrace status SWEEP``: how a sweep stands, folded from its log; works while it runs and after."""

from __future__ import annotations

import sys
import time

import click
import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from events.pull_request import PrState
from events.repository_state import RepositoryState
from events.sweep import SweepState
from scripts.accounts import AccountLine, account_lines, account_table, paused_until, read_governor
from scripts.display import state_table
from scripts.reading import open_sweep, read_repository
from store.blobs import BlobStore, FileBlobs
from store.opening import Store
from store.read_models import AttemptRow, AttemptState

__all__ = ["command"]

WATCH_S = 1.0
TAIL_LINES = 12


class AttemptView(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that runs, or the last one of a failed pull request. ``blobs``: kind to path, or to digest."""

    pull_request: str
    attempt_id: str
    stage: str
    state: str
    reason: str
    message: str
    log_tail: str
    failure_class: str | None = None
    blobs: dict[str, str] = msgspec.field(default_factory=dict)


class SweepView(msgspec.Struct, frozen=True, kw_only=True):
    """What ``status --json`` prints. ``last_run_ended``: how, or that it runs or was killed; ``revoked``: contexts that
    are out of use and why, by repository; ``accounts``: of coding agents, as this log had them last;
    ``agents_paused_until``: when the first of them opens again, if all are paused."""

    sweep: str
    store: str
    timeline: str
    runs: int
    last_run_ended: str
    pull_requests: dict[str, int]
    repositories: dict[str, dict[str, int]]
    running: list[AttemptView]
    failed: list[AttemptView]
    revoked: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)
    accounts: list[AccountLine] = msgspec.field(default_factory=list)
    agents_paused_until: str | None = None


@click.command()
@click.argument("sweep")
@click.option("--store", default="sqlite:///headrace.db", show_default=True, help="Where the log is.")
@click.option("--watch", is_flag=True, help="Go on showing it until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object (with --watch: one a line, when it changes).")
def command(sweep: str, store: str, watch: bool, as_json: bool) -> int:
    """Shows how SWEEP stands: pull requests by state, agents' accounts, running attempts, why failed ones failed."""
    view = _view(store, sweep)
    if as_json:
        _print_json(view)
    if not watch:
        if not as_json:
            Console().print(_picture(view))
        return 0
    try:
        _watch(store, sweep, view, as_json=as_json)
    except KeyboardInterrupt:
        return 0
    return 0


def _watch(store: str, sweep: str, view: SweepView, *, as_json: bool) -> None:
    if as_json:
        while True:
            time.sleep(WATCH_S)
            before, view = view, _view(store, sweep)
            if view != before:
                _print_json(view)
    with Live(_picture(view), auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_S)
            live.update(_picture(_view(store, sweep)), refresh=True)


def _print_json(view: SweepView) -> None:
    sys.stdout.write(msgspec.json.encode(view).decode() + "\n")
    sys.stdout.flush()


def _view(url: str, sweep: str) -> SweepView:
    with open_sweep(url, sweep) as (store, state):
        repositories: dict[str, dict[str, int]] = {}
        total: dict[str, int] = {}
        failed: list[AttemptView] = []
        revoked: dict[str, dict[str, str]] = {}
        for name, one in state.repositories.items():
            folded = read_repository(store.log, name)
            counts = folded.counts(sweep) or {"queued": one.rows.pull_requests}
            repositories[name] = counts
            for key, number in counts.items():
                total[key] = total.get(key, 0) + number
            failed += _failed(store, folded, sweep)
            if folded.revoked:
                revoked[name] = folded.revoked
        running = [
            _attempt_view(one, "", store.blobs)
            for one in store.models.attempts(sweep=sweep, state=AttemptState.RUNNING)
        ]
        governor, now = read_governor(store.log), time.time()
        return SweepView(
            sweep=sweep,
            store=url,
            timeline=state.defined.timeline if state.defined else "",
            runs=state.runs,
            last_run_ended=_last_end(state),
            pull_requests=total,
            repositories=repositories,
            running=running,
            failed=failed,
            revoked=revoked,
            accounts=account_lines(governor, sweep=sweep, now=now),
            agents_paused_until=paused_until(governor, now=now),
        )


def _last_end(state: SweepState) -> str:
    if state.last_end is not None:
        return state.last_end.how
    return "running, or its processes were killed" if state.runs else "not yet run"


def _failed(store: Store, folded: RepositoryState, sweep: str) -> list[AttemptView]:
    """Each failed pull request of a repository with its last attempt."""
    numbers = [pr.issue_number for pr in folded.of_sweep(sweep) if pr.state is PrState.FAILED]
    if not numbers:
        return []
    owner, _, repo = folded.repository.partition("/")
    last: dict[int, AttemptRow] = {}
    for one in store.models.attempts(owner=owner, repo=repo):
        if one.state is AttemptState.FAILED:
            last[one.issue_number] = one
    found = []
    for number in numbers:
        reason, cls = folded.prs[number].reason, folded.prs[number].failure_class
        if number in last:
            view = _attempt_view(last[number], reason, store.blobs)
            found.append(msgspec.structs.replace(view, failure_class=cls))
        else:
            name = f"{folded.repository}#{number}"
            found.append(
                AttemptView(
                    pull_request=name,
                    attempt_id="",
                    stage="",
                    state="failed",
                    reason=reason,
                    message=reason,
                    log_tail="",
                    failure_class=cls,
                )
            )
    return found


def _attempt_view(one: AttemptRow, reason: str, blobs: BlobStore) -> AttemptView:
    return AttemptView(
        pull_request=f"{one.owner}/{one.repo}#{one.issue_number}",
        attempt_id=one.attempt_id,
        stage=one.stage,
        state=one.state,
        reason=reason or one.reason,
        message=one.message or "",
        log_tail=one.log_tail or "",
        failure_class=one.failure_class,
        blobs={kind: str(blobs.path_of(d)) if isinstance(blobs, FileBlobs) else d for kind, d in one.blobs.items()},
    )


def _picture(view: SweepView) -> Group:
    title = f"sweep {view.sweep} ({view.timeline}); last run: {view.last_run_ended}"
    parts: list[Table | Text] = [state_table(view.repositories, title=title)]
    if view.accounts:
        parts.append(account_table(view.accounts))
    if view.agents_paused_until is not None:
        parts.append(Text(f"all agents are paused until {view.agents_paused_until}", style="yellow"))
    if view.running:
        table = Table(title="running attempts", title_justify="left")
        for column in ("pull request", "stage", "why"):
            table.add_column(column)
        for one in view.running:
            table.add_row(one.pull_request, one.stage, one.reason)
        parts.append(table)
    for one in view.failed:
        cls = f" ({one.failure_class})" if one.failure_class else ""
        parts.append(Text(f"\n{one.pull_request} failed{cls}: {one.reason}", style="red"))
        tail = one.log_tail.splitlines()[-TAIL_LINES:]
        parts.extend(Text(f"  | {line}", style="dim") for line in tail)
        parts.extend(Text(f"  {kind}: {where}", style="dim", no_wrap=True) for kind, where in one.blobs.items())
    for repository, contexts in view.revoked.items():
        parts.extend(Text(f"{repository}: context {one[:12]} is revoked: {why}") for one, why in contexts.items())
    return Group(*parts)
