"""What is checked of a timeline before a sweep starts anything: every row, and that its commit exists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from loguru import logger

from actors.images.root_images import python_versions
from actors.settings import Settings
from events.errors import ResolutionRequired, TimelineError, UnknownCommit
from events.work import PullRequest
from store.sources import Sources, clone_url_of
from store.timeline import locate, read_timeline, require_resolved

__all__ = ["checked_timeline"]


def checked_timeline(
    path: Path,
    settings: Settings,
    *,
    skip_unresolved: bool = False,
    on_repository: Callable[[str], None] = lambda _: None,
) -> list[PullRequest]:
    """Reads a timeline and checks it whole.

    Args:
        path: the file.
        settings: where mirrors are cached.
        skip_unresolved: leave rows without usable requirements out, with a warning for each.
        on_repository: called with each repository before it is looked at; its first clone may take long.

    Raises:
        TimelineError: naming file, line and field; also when no row is left.
        ResolutionRequired: a row lacks requirements or a Python version.
        UnknownCommit: a repository does not have a row's commit.
        InfraError: a repository cannot be fetched.
    """
    rows = []
    for row in read_timeline(path):
        try:
            require_resolved([row], path)
        except ResolutionRequired as exc:
            if not skip_unresolved:
                raise
            logger.warning("left out: {}", exc.message)
        else:
            rows.append(row)
    if not rows:
        raise TimelineError(path=str(path), problem="no row is resolved", remedy="run `headrace resolve` on it")
    _check_python_versions(rows, python_versions(settings.build), path)
    _check_commits(rows, Sources(settings.cache_dir), path, on_repository=on_repository)
    return rows


def _check_python_versions(rows: list[PullRequest], available: Sequence[str], path: Path) -> None:
    for row in rows:
        if row.python_version not in available:
            raise TimelineError(
                path=locate(path, row),
                field="python_version",
                problem=f"{row.name} wants {row.python_version}, and there are base images for {', '.join(available)}",
                remedy="resolve it again (`headrace resolve --force`), or correct [build] provider or python_versions",
            )


def _check_commits(
    rows: list[PullRequest], sources: Sources, path: Path, *, on_repository: Callable[[str], None]
) -> None:
    seen: set[str] = set()
    for row in rows:
        url = clone_url_of(row)
        if url not in seen:
            seen.add(url)
            on_repository(row.repository)
        try:
            sources.mirror(url, [row.commit], pull_request=row.name)
        except UnknownCommit as exc:
            raise UnknownCommit(
                pull_request=exc.pull_request, commit=exc.commit, clone_url=exc.clone_url, where=locate(path, row)
            ) from exc
