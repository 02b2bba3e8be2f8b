"""``headrace resolve``: fills ``env_payload`` and ``python_version`` as of each pull request's date.

Guarantees: rows that are filled already stay as they are, byte for byte (unless ``--force``); rows that cannot be
resolved stay in the file unfilled and are named with their reason; the output replaces the file as a whole or not at
all. Interrupted, it goes on where it was: what was resolved is kept in the cache. Nothing of a project is executed.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

import click
import msgspec

from actors.settings import Settings, load_settings
from events.errors import InfraError, SettingError, TimelineError, UnknownCommit
from events.work import PullRequest
from scripts.environment import Environment, Resolver
from scripts.pinning import Pinner, Unresolvable
from scripts.python_choice import available_pythons
from scripts.steps import Steps
from store.package_index import default_index_url
from store.sources import Mirror, Sources, clone_url_of
from store.timeline import check_env_payload, check_python_version, locate, read_timeline, write_timeline

__all__ = ["command"]


@click.command("resolve")
@click.argument("timeline", type=click.Path(path_type=Path), metavar="PRS")
@click.option("--out", type=click.Path(path_type=Path), help="Where to write (default: PRS itself).")
@click.option(
    "--python-versions", metavar="LIST", help="Pythons to choose from, as 3.9,3.11 (default: the provider's)."
)
@click.option("--provider", type=click.Choice(["registry", "debootstrap"]), help="Where base images come from.")
@click.option("--index-url", metavar="URL", help="Package index (default: the one that pip or uv uses here).")
@click.option("--jobs", type=click.IntRange(min=1, max=256), help="Resolutions at once (default: one a CPU).")
@click.option("--force", is_flag=True, help="Fill every row anew.")
@click.option("--wheels-only", is_flag=True, help="Never build a requirement's source distribution on this machine.")
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file (headrace.toml).")
@click.pass_context
def command(
    context: click.Context,
    *,
    timeline: Path,
    out: Path | None,
    python_versions: str | None,
    provider: str | None,
    index_url: str | None,
    jobs: int | None,
    force: bool,
    wheels_only: bool,
    config: Path | None,
) -> None:
    """Pins the environment of each pull request in PRS: what its project needed at that commit, as of that day.

    Exit code 1 if any row could not be resolved; such rows stay in the output, unfilled.
    """
    pythons = None if python_versions is None else _pythons(python_versions)
    settings = load_settings(config, overrides={"build": {"provider": provider}} if provider else None)
    rows = read_timeline(timeline)
    if not force:
        _refuse_malformed(rows, timeline)
    open_rows = [row for row in rows if force or row.env_payload is None or row.python_version is None]
    filled: dict[str, PullRequest] = {}
    failed: dict[str, str] = {}
    if open_rows:
        resolver = _resolver(settings, index_url=index_url, pythons=pythons, wheels_only=wheels_only)
        mirrors, failed = _mirrors(open_rows, Sources(settings.cache_dir), timeline=timeline)
        reachable = [row for row in open_rows if row.name not in failed]
        _resolve_all(
            reachable, mirrors, resolver, jobs=jobs or os.cpu_count() or 1, force=force, filled=filled, failed=failed
        )
    target = out or timeline
    write_timeline(target, [filled.get(row.name, row) for row in rows])
    click.echo(
        f"{len(filled)} resolved, {len(rows) - len(open_rows)} were already, {len(failed)} unresolved, in {target}"
    )
    width = max(map(len, failed), default=0)
    for name, reason in failed.items():
        click.echo(f"unresolved  {name:<{width}}  {reason}")
    if failed:
        context.exit(1)
    click.echo(f"next: headrace sweep {target}")


def _pythons(text: str) -> list[str]:
    versions = [version.strip() for version in text.split(",")]
    for version in versions:
        if check_python_version(version):
            raise SettingError(
                name="--python-versions", value=text, expected="versions like 3.9,3.11", source="command line"
            )
    return versions


def _refuse_malformed(rows: Sequence[PullRequest], timeline: Path) -> None:
    for row in rows:
        for field, problem in (
            ("env_payload", row.env_payload is not None and check_env_payload(row.env_payload)),
            ("python_version", row.python_version is not None and check_python_version(row.python_version)),
        ):
            if problem:
                raise TimelineError(
                    path=locate(timeline, row),
                    field=field,
                    problem=f"of {row.name} {problem}",
                    remedy="correct it, remove it, or resolve with --force",
                )


def _resolver(settings: Settings, *, index_url: str | None, pythons: list[str] | None, wheels_only: bool) -> Resolver:
    build = settings.build
    pinner = Pinner(
        index_url=index_url or build.index_url or default_index_url(),
        extra_index_urls=build.extra_index_urls,
        ca_bundle=build.ca_bundle,
        cache_dir=settings.cache_dir,
    )
    return Resolver(pinner, pythons=pythons or available_pythons(build), wheels_only=wheels_only)


def _mirrors(
    rows: Sequence[PullRequest], sources: Sources, *, timeline: Path
) -> tuple[dict[str, Mirror], dict[str, str]]:
    """The mirrors by clone URL, and the pull requests whose repository cannot be reached, with the reason."""
    by_url: dict[str, list[PullRequest]] = defaultdict(list)
    for row in rows:
        by_url[clone_url_of(row)].append(row)
    mirrors: dict[str, Mirror] = {}
    failed: dict[str, str] = {}
    with Steps("sources", total=len(by_url)) as steps:
        for url, group in by_url.items():
            try:
                mirrors[url] = sources.mirror(url, [row.commit for row in group], pull_request=group[0].name)
            except UnknownCommit as exc:
                culprit = next((row for row in group if row.commit == exc.commit), group[0])
                raise UnknownCommit(
                    pull_request=culprit.name,
                    commit=exc.commit,
                    clone_url=exc.clone_url,
                    where=locate(timeline, culprit),
                ) from exc
            except InfraError as exc:
                failed.update((row.name, str(exc)) for row in group)
            steps.done(group[0].repository)
    return mirrors, failed


def _resolve_all(
    rows: Sequence[PullRequest],
    mirrors: dict[str, Mirror],
    resolver: Resolver,
    *,
    jobs: int,
    force: bool,
    filled: dict[str, PullRequest],
    failed: dict[str, str],
) -> None:
    """Resolves in parallel; an index that is away ends it all."""
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="resolve")
    try:
        pending: dict[Future[Environment], PullRequest] = {
            pool.submit(resolver.resolve, row, mirrors[clone_url_of(row)], force=force): row for row in rows
        }
        with Steps("resolve", total=len(pending)) as steps:
            while pending:
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    row = pending.pop(future)
                    try:
                        environment = future.result()
                    except (Unresolvable, InfraError) as exc:
                        failed[row.name] = str(exc)
                        steps.done(f"{row.name}: unresolved: {exc}")
                    else:
                        filled[row.name] = msgspec.structs.replace(
                            row, env_payload=environment.payload, python_version=environment.python_version
                        )
                        steps.done(f"{row.name}: {environment.summary}")
    finally:
        pool.shutdown(cancel_futures=True)
