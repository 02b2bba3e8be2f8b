"""What ``sweep``, ``resume`` and ``retry`` share: options, signals, progress, the closing report."""

from __future__ import annotations

import functools
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click
import msgspec

from actors.agent_options import accounts_from_option
from actors.driver import RunOptions, StopSwitch, run_sweep
from actors.settings import Settings, load_settings
from events.errors import EnvironmentNotReady, InputError, LogLocked, StoreUrlError
from events.work import PullRequest
from scripts.accounts import read_governor
from scripts.display import ProgressDisplay
from scripts.findings import Status
from scripts.reading import read_sweep
from scripts.summary import count_undone, print_summary
from store.opening import absolute_url, open_store

__all__ = [
    "RunChoices",
    "check_store",
    "refuse_forgotten_agents",
    "require_agents",
    "require_engine",
    "run_and_report",
    "sweep_options",
    "wait_for_lock",
]


LOCK_WAIT_S = 15.0


class RunChoices(msgspec.Struct, frozen=True, kw_only=True):
    """The options that every command has which runs a sweep."""

    store: str
    address: str | None
    config: Path | None
    workers: int | None
    dashboard: bool
    agent: str | None = None
    race: int | None = None

    def settings(self, overrides: Mapping[str, Mapping[str, object]] | None = None) -> Settings:
        """The settings of the run, options over environment over file."""
        own = {"workers": self.workers} if self.workers is not None else {}
        agents: dict[str, object] = {} if self.race is None else {"race": self.race}
        if self.agent is not None:
            agents["account"] = accounts_from_option(self.agent)
        return load_settings(self.config, overrides={**(overrides or {}), "sweep": own, "agents": agents})


def sweep_options(function: Callable[..., int]) -> Callable[..., int]:
    """Adds the options of :class:`RunChoices` to a command, which gets them as one argument, ``run``."""

    @functools.wraps(function)
    def gathered(**given: Any) -> int:
        run = RunChoices(**{name: given.pop(name) for name in RunChoices.__struct_fields__})
        return function(run=run, **given)

    options = [
        click.option("--store", default="sqlite:///headrace.db", show_default=True, help="Where the log is."),
        click.option("--address", help="Ray cluster to run on (auto, HOST:PORT); default: a local Ray, started here."),
        click.option("--config", type=click.Path(path_type=Path), help="Settings file; default: ./headrace.toml."),
        click.option("--workers", type=int, help="Work orders at once; default: one per CPU."),
        click.option("--dashboard/--no-dashboard", default=False, help="Start Ray's dashboard on 127.0.0.1."),
        click.option(
            "--agent",
            help="Coding agents and their sessions at once, as claude:4,codex:2, with their usual credentials; none: "
            "pay for no session. Default: the accounts of [[agents.account]] in the settings file, else none.",
        ),
        click.option("--race", type=int, help="Accounts at once on a pull request whose first session failed (1)."),
    ]
    return functools.reduce(lambda decorated, option: option(decorated), reversed(options), gathered)


def run_and_report(
    run: RunChoices, *, sweep: str, settings: Settings, rows: Sequence[PullRequest] | None, timeline: str
) -> int:
    """Runs a sweep with progress and signals, prints its summary, and returns the exit code."""
    refuse_forgotten_agents(run, sweep, settings)
    if run.address is None:
        require_engine(settings)
        require_agents(settings)
    wait_for_lock(run.store, sweep)
    options = RunOptions(
        store_url=absolute_url(run.store), sweep=sweep, settings=settings, address=run.address, dashboard=run.dashboard
    )
    display = ProgressDisplay(sweep)
    switch = StopSwitch()
    with Signals(switch, display), display:
        progress = run_sweep(options, rows=rows, timeline=timeline, on_progress=display.show, switch=switch)
    failed = print_summary(store=run.store, sweep=sweep)
    if progress.phase == "finished":
        return 1 if failed else 0
    again = f"headrace resume {shlex.quote(sweep)} --store {shlex.quote(run.store)}"
    for option, given in (("config", run.config), ("address", run.address), ("agent", run.agent), ("race", run.race)):
        again += f" --{option} {shlex.quote(str(given))}" if given is not None else ""
    if progress.phase == "budget":
        undone = count_undone(store=run.store, sweep=sweep)
        click.echo(f"{progress.message}: {undone} pull request{'s' * (undone != 1)} left undone.", err=True)
        click.echo(f"See to it ([agents] in the settings file; `headrace doctor`), and go on with: {again}", err=True)
        return 1
    click.echo(f"Resume with: {again}", err=True)
    if progress.phase == "interrupted":
        return 130
    if progress.phase == "environment":
        raise EnvironmentNotReady(f"{progress.message}; mend it (`headrace doctor`), then resume")
    raise EnvironmentNotReady(f"the run stopped: {progress.message}; the log is intact, resume it")


def refuse_forgotten_agents(run: RunChoices, sweep: str, settings: Settings) -> None:
    """Raises ``InputError`` if a sweep had agents and nobody says what is to be of them: without, its pull requests
    would be given up."""
    if run.agent is not None or settings.agents.account:
        return
    try:
        with open_store(run.store, write=False) as store:
            defined = read_sweep(store.log, sweep).defined
            known = ",".join(f"{one.agent}:{one.slots}" for one in read_governor(store.log).agents())
    except InputError:
        return  # no such store yet
    if defined is not None and defined.policy.generate:
        raise InputError(
            f"sweep {sweep} was run with coding agents{f' ({known})' if known else ''}; name them again with --agent, "
            f"or go on without any with --agent none"
        )


def check_store(url: str) -> None:
    """Refuses a store that no sweep could write, before anything else is looked at; makes nothing.

    Raises:
        StoreUrlError, EnvironmentNotReady: no such kind of store.
        LogTooNew, LogCorrupt, LogUnavailable: what is there cannot be used.
    """
    try:
        with open_store(url, write=False):
            return
    except StoreUrlError:
        raise
    except InputError:
        return  # nothing is there yet; what cannot be made is told when the log is opened for writing


def wait_for_lock(url: str, sweep: str) -> None:
    """Tells before Ray is started that a log is locked or cannot be written.

    The actors of a driver that was just killed live on for a few seconds and hold the lock: that is waited for.
    """
    deadline = time.monotonic() + LOCK_WAIT_S
    told = False
    while True:
        try:
            with open_store(url, write=True, holder=f"sweep {sweep}"):
                return
        except LogLocked as exc:
            if time.monotonic() > deadline:
                raise
            if not told:
                click.echo(f"waiting up to {LOCK_WAIT_S:.0f} s: {exc.path} is being written by {exc.holder}", err=True)
                told = True
            time.sleep(0.5)


def require_engine(settings: Settings) -> None:
    """Raises ``EnvironmentNotReady`` unless an engine answers that can do what the settings ask."""
    from scripts.doctor import engine_problem

    problem = engine_problem(settings)
    if problem is not None:
        raise EnvironmentNotReady(problem)


def require_agents(settings: Settings) -> None:
    """Raises ``EnvironmentNotReady`` unless sessions of every account can be started on this machine."""
    from scripts.agent_checks import agent_findings

    if not settings.agents.account:
        return
    findings = [one for one in agent_findings(settings.agents) if one.status is Status.FAIL]
    if findings:
        problems = " · ".join(f"{one.name}: {one.seen}; {one.mend}" for one in findings)
        raise EnvironmentNotReady(f"{problems} (`headrace doctor` tells more; `--agent none` goes on without agents)")


class Signals:
    """Turns SIGINT and SIGTERM into presses of the switch, for as long as the block runs.

    ``ray.init`` installs a SIGTERM handler of its own, so ours are set again once progress arrives: the display calls
    :meth:`arm` through its hook.
    """

    def __init__(self, switch: StopSwitch, display: ProgressDisplay) -> None:
        self._switch, self._display = switch, display
        self._before: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.getsignal(number)
            self.arm()
            self._display.on_first = self.arm

    def arm(self) -> None:
        """Sets the handlers."""
        for number in self._before:
            signal.signal(number, self._press)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _press(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._switch.presses += 1
        if self._switch.presses == 1:
            self._display.note(
                "stopping: running attempts may end or are cancelled; press Ctrl-C again to stop at once"
            )
        else:
            self._display.note("stopping at once")
        if not self._display.started:
            self._display.note("nothing had begun; run the same command again to go on")
            sys.exit(130)
