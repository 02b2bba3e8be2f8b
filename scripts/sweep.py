"""``headrace sweep PRS``: the main job."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import click

from actors.admission_check import checked_timeline
from events.errors import InputError
from scripts.running import RunChoices, check_store, run_and_report, sweep_options

__all__ = ["command"]

NOTICE_AFTER_S = 2.0


@click.command()
@click.argument("prs", type=click.Path(path_type=Path))
@click.option("--name", help="What the sweep is called in the log; default: the timeline's file name without its end.")
@click.option("--tasks-per-repo", type=int, help="At most this many seeds a repository; the cascade reaches the rest.")
@click.option("--level", help="How far to verify: build, smoke, tests or f2p.")
@click.option("--min-pass-ratio", type=float, help="Share of tests that must pass (default 0.9).")
@click.option("--skip-unresolved", is_flag=True, help="Leave rows without requirements out, naming each.")
@sweep_options
def command(*, prs: Path, name: str | None, skip_unresolved: bool, run: RunChoices, **given: object) -> int:
    """Builds and verifies an environment for every pull request of the timeline PRS (JSON Lines or Parquet).

    When the sweep is in the log already, it goes on where that ends. Ctrl-C once lets running attempts end or cancels
    them and saves the state, twice stops at once; `headrace resume` goes on after either.
    """
    sections = {"tasks_per_repo": "cascade", "level": "verify", "min_pass_ratio": "verify"}
    overrides: dict[str, dict[str, object]] = {"cascade": {}, "verify": {}}
    for key, value in given.items():
        if value is not None:
            overrides[sections[key]][key] = value
    settings = run.settings(overrides)
    sweep = name or prs.name.split(".")[0]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", sweep):
        raise InputError(f"--name {sweep!r}: a sweep's name is letters, digits, '.', '_' and '-'; choose another")
    check_store(run.store)
    with SlowNotice() as notice:
        rows = checked_timeline(prs, settings, skip_unresolved=skip_unresolved, on_repository=notice.about)
    return run_and_report(run, sweep=sweep, settings=settings, rows=rows, timeline=str(prs))


class SlowNotice:
    """Says what is going on, on standard error, once it has taken longer than ``NOTICE_AFTER_S``."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def __enter__(self) -> SlowNotice:
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def about(self, repository: str) -> None:
        """The commits of ``repository`` are looked for now."""
        self.__exit__()
        self._timer = threading.Timer(
            NOTICE_AFTER_S,
            click.echo,
            (f"looking for the commits of {repository}; a first clone takes its time",),
            {"err": True},
        )
        self._timer.daemon = True
        self._timer.start()
