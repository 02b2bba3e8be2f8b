"""How a running sweep is shown: a live table in a terminal, plain lines elsewhere. All on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from actors.gateway import ClusterInfo
from actors.supervisor import SweepProgress
from events.account_views import all_paused_until
from scripts.accounts import clock

__all__ = ["STATES", "ProgressDisplay", "state_table"]

STATES = (
    "queued",
    "awaiting_slot",
    "held",
    "awaiting_lease",
    "check_cache",
    "find_similar",
    "try_similar",
    "try_default",
    "llm_generate",
    "succeeded",
    "failed",
    "unreached",
)
LINE_EVERY_S = 5.0
QUIET_AT_MOST_S = 30.0
SHOWN_REPOSITORIES = 20
SHOWN_MESSAGE = 100
STYLES = {"succeeded": "green", "failed": "red"}


def state_table(repositories: dict[str, dict[str, int]], *, title: str) -> Table:
    """Pull requests by state, a row a repository (the busiest first), with a row of totals."""
    used = [state for state in STATES if any(counts.get(state) for counts in repositories.values())]
    table = Table(title=title, title_justify="left")
    table.add_column("repository")
    for state in used:
        table.add_column(state.replace("_", " "), justify="right", style=STYLES.get(state, ""))
    ranked = sorted(repositories.items(), key=lambda item: (-_open(item[1]), item[0]))
    for name, counts in ranked[:SHOWN_REPOSITORIES]:
        table.add_row(name, *(str(counts.get(state) or "·") for state in used))
    if len(ranked) > SHOWN_REPOSITORIES:
        table.add_row(f"… {len(ranked) - SHOWN_REPOSITORIES} more", *("" for _ in used))
    total = _total(repositories)
    table.add_section()
    table.add_row("all", *(str(total.get(state) or "·") for state in used), style="bold")
    return table


class ProgressDisplay:
    """Shows progress as it comes; a context manager. ``on_first`` is called when the first progress arrives."""

    def __init__(self, sweep: str) -> None:
        self._sweep = sweep
        self._console = Console(stderr=True)
        self._live: Live | None = None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
        )
        self._task: TaskID | None = None
        self._last_line, self._said_at = "", 0.0
        self.on_first: Callable[[], None] = lambda: None
        self.started = False

    def __enter__(self) -> ProgressDisplay:
        if self._console.is_terminal:
            self._live = Live(Text(f"sweep {self._sweep}: starting Ray …"), console=self._console, refresh_per_second=4)
            self._live.start()
        else:
            click.echo(f"sweep {self._sweep}: starting Ray", err=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """One line that stays."""
        if self._live is not None:
            self._live.console.print(text)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def show(self, progress: SweepProgress, cluster: ClusterInfo) -> None:
        """Brings the display up to date."""
        if not self.started:
            self.started = True
            self.on_first()
            if cluster.dashboard_url:
                self.note(f"Ray dashboard: http://{cluster.dashboard_url}")
        if self._live is not None:
            self._live.update(self._picture(progress))
        else:
            self._say(progress)

    def _say(self, progress: SweepProgress) -> None:
        line = _line(progress)
        now = time.monotonic()
        quiet_s = now - self._said_at
        if progress.ended or quiet_s >= QUIET_AT_MOST_S or (line != self._last_line and quiet_s >= LINE_EVERY_S):
            self._last_line, self._said_at = line, now
            click.echo(f"sweep {self._sweep}: {line}{_longest(progress)}", err=True)

    def _picture(self, progress: SweepProgress) -> Group:
        total = _total(progress.repositories)
        done = total.get("succeeded", 0) + total.get("failed", 0) + total.get("unreached", 0)
        if self._task is None:
            self._task = self._bar.add_task("pull requests", total=None)
        self._bar.update(self._task, completed=done, total=sum(total.values()) or None)
        running = Table(title="running attempts", title_justify="left")
        for column in ("pull request", "stage", "runner", "for"):
            running.add_column(column)
        now = time.time()
        for one in progress.active:
            for attempt in one.running:
                running.add_row(
                    f"{one.repository}#{attempt.issue_number}",
                    f"{attempt.stage} ({attempt.account})" if attempt.account else attempt.stage,
                    attempt.runner.rpartition(":")[2],
                    f"{max(0.0, now - attempt.since):.0f} s",
                )
        states = state_table(progress.repositories, title=f"sweep {self._sweep}: {progress.phase}")
        return Group(self._bar, states, running, *(Text(text, style="yellow") for text in _troubles(progress)))


def _line(progress: SweepProgress) -> str:
    total = _total(progress.repositories)
    states = ", ".join(f"{total[state]} {state.replace('_', ' ')}" for state in STATES if total.get(state))
    running = ", ".join(
        f"{one.repository}#{attempt.issue_number} {attempt.stage}" for one in progress.active for attempt in one.running
    )
    parts = [f"{progress.phase}: {states or 'no repository yet'}"]
    if running:
        parts.append(f"running {running}")
    return "; ".join([*parts, *_troubles(progress)])


def _longest(progress: SweepProgress) -> str:
    """How long the attempt that runs longest has run: a sign of life where nothing else changes."""
    since = [attempt.since for one in progress.active for attempt in one.running if attempt.since]
    return f" ({time.time() - min(since):.0f} s)" if since else ""


def _troubles(progress: SweepProgress) -> list[str]:
    return _pauses(progress) + [
        f"{one.repository}: waits after infra failure {one.infra_streak} ({_short(one.infra_message) or 'see the log'})"
        for one in progress.active
        if one.infra_until > time.time()
    ]


def _pauses(progress: SweepProgress) -> list[str]:
    """Which accounts are paused until when; and if all are, that no session begins before the first of them."""
    now = time.time()
    paused = [one for one in progress.accounts if one.paused_until is not None and one.paused_until > now]
    first = all_paused_until(progress.accounts, now)
    lines = [f"all agents are paused until {clock(first)}; what needs none goes on"] if first is not None else []
    for one in paused:
        lines.append(f"{one.account} is paused until {clock(one.paused_until or 0.0)} ({_short(one.reason)})")
    return lines


def _total(repositories: dict[str, dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for counts in repositories.values():
        for state, number in counts.items():
            total[state] = total.get(state, 0) + number
    return total


def _open(counts: dict[str, int]) -> int:
    return sum(number for state, number in counts.items() if state not in ("succeeded", "failed", "unreached"))


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_MESSAGE else text[: SHOWN_MESSAGE - 1] + "…"
