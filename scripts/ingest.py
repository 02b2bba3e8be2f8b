"""``headrace ingest``: makes pull-request timelines (CONTRACTS.md section 4) from where history lies."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path

import click

from actors.settings import load_settings
from events.errors import InputError
from events.work import PullRequest
from scripts.ingest_git import ingest_clone
from scripts.ingest_pypi import Selection, ingest_package
from store.package_index import PackageIndex, default_index_url
from store.timeline import parse_moment, write_timeline

__all__ = ["command"]

LAST_OF_DAY = timedelta(days=1) - timedelta(microseconds=1)
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("prs.jsonl"),
    show_default=True,
    help="The timeline to write.",
)
since_option = click.option("--since", metavar="DATE", help="ISO 8601; nothing before it.")
until_option = click.option("--until", metavar="DATE", help="ISO 8601; nothing after it; a date means its whole day.")
config_option = click.option("--config", type=click.Path(path_type=Path), help="Configuration file (headrace.toml).")


@click.group("ingest")
def command() -> None:
    """Makes a pull-request timeline from a package's releases or from a clone."""


@command.command("pypi")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@out_option
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    default=Path("repositories"),
    show_default=True,
    help="Folder of the git repositories, NAME.git each.",
)
@since_option
@until_option
@click.option("--max", "maximum", type=click.IntRange(min=1), help="At most so many releases a package: the newest.")
@click.option("--spread", is_flag=True, help="With --max: evenly over the window instead of the newest.")
@click.option("--pre", is_flag=True, help="Pre-releases too.")
@click.option("--yanked", is_flag=True, help="Yanked releases too.")
@click.option("--index-url", metavar="URL", help="Package index (default: the one that pip or uv uses here).")
@config_option
def pypi(
    *,
    names: Sequence[str],
    out: Path,
    into: Path,
    since: str | None,
    until: str | None,
    maximum: int | None,
    spread: bool,
    pre: bool,
    yanked: bool,
    index_url: str | None,
    config: Path | None,
) -> None:
    """Each release of the packages NAME that has a source distribution becomes a commit and a pull request.

    Running again adds what is new and changes nothing that is there; OUT is written anew.
    """
    if spread and maximum is None:
        raise InputError("--spread says how --max chooses; give --max N too")
    start, end = _window(since, until)
    selection = Selection(since=start, until=end, maximum=maximum, spread=spread, prereleases=pre, yanked=yanked)
    settings = load_settings(config)
    rows: list[PullRequest] = []
    left_out: list[str] = []
    with PackageIndex(
        url=index_url or settings.build.index_url or default_index_url(), cache_dir=settings.cache_dir
    ) as index:
        for name in names:
            ingested = ingest_package(name, index=index, into=into, selection=selection)
            rows += [row for row in ingested.rows if row not in rows]
            left_out += ingested.left_out
    for line in left_out:
        click.echo(f"left out: {line}", err=True)
    _write(out, rows, extra=f"; {len(left_out)} releases left out" if left_out else "")


@command.command("git")
@click.argument("clone", type=click.Path(path_type=Path), metavar="PATH")
@click.option("--owner", help="Owner of the repository (default: from the URL of origin).")
@click.option("--repo", help="Name of the repository (default: from the URL of origin).")
@click.option("--branch", default="HEAD", show_default=True, help="Whose first-parent history is read.")
@click.option("--clone-url", metavar="URL", help="Where sweeps clone from (default: origin, or else PATH).")
@out_option
@since_option
@until_option
@click.option("--max", "maximum", type=click.IntRange(min=1), help="At most so many pull requests: the newest.")
def git(
    *,
    clone: Path,
    owner: str | None,
    repo: str | None,
    branch: str,
    clone_url: str | None,
    out: Path,
    since: str | None,
    until: str | None,
    maximum: int | None,
) -> None:
    """The merged pull requests of the clone at PATH: merge commits, and squashed ones titled "... (#123)"."""
    start, end = _window(since, until)
    ingested = ingest_clone(
        clone, owner=owner, repo=repo, branch=branch, clone_url=clone_url, since=start, until=end, maximum=maximum
    )
    repeated = f"; {ingested.repeated} numbers occurred again, the last was kept" if ingested.repeated else ""
    _write(out, ingested.rows, extra=repeated)


def _write(out: Path, rows: Sequence[PullRequest], *, extra: str) -> None:
    write_timeline(out, rows)
    click.echo(f"{len(rows)} pull requests in {out}{extra}")
    click.echo(f"next: headrace resolve {out}")


def _window(since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
    start = _moment("--since", since) if since else None
    end = _moment("--until", until) if until else None
    if end is not None and until is not None and _is_date(until):
        end += LAST_OF_DAY
    if start and end and start > end:
        raise InputError(f"--since {since} is after --until {until}; nothing can be selected")
    return start, end


def _moment(option: str, text: str) -> datetime:
    try:
        return parse_moment(text)
    except ValueError as exc:
        raise InputError(f"{option} {text!r} is no ISO 8601 date or time; write it like 2021-06-01") from exc


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
