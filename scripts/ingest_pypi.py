"""A package's releases as a git repository and a timeline: each release with a source distribution is a pull request.

Guarantees: a pull request's number is its release's place among *all* releases of the project that have a source
distribution, by upload time, so it does not depend on what is selected and stays when releases are added. Running
again downloads nothing twice, changes no commit and gives the same rows. Releases that were selected later but uploaded
earlier get their commits on top of what is there: dates tell the order of releases, the history only grows. A release
whose archive cannot be taken is left out, and the report names it with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import msgspec

from events.errors import InfraError, InputError
from events.work import PullRequest
from scripts.release_repository import ReleaseRepository
from scripts.sdist import TreeEntry, read_sdist
from scripts.steps import Steps
from store.package_index import PackageIndex, Sdist
from store.timeline import format_moment

__all__ = ["Ingested", "Selection", "ingest_package"]

OWNER = "pypi"
DOWNLOADS_AT_ONCE = 4


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which releases to take: uploaded from ``since`` up to and including ``until``; of these at most ``maximum``.

    ``spread`` takes the ``maximum`` evenly over the window, first and last included; otherwise they are the newest.
    """

    since: datetime | None = None
    until: datetime | None = None
    maximum: int | None = None
    spread: bool = False
    prereleases: bool = False
    yanked: bool = False

    def of(self, sdists: Iterable[Sdist]) -> list[Sdist]:
        """The selected releases, in the order given."""
        window = [
            sdist
            for sdist in sdists
            if (self.since is None or sdist.uploaded_at >= self.since)
            and (self.until is None or sdist.uploaded_at <= self.until)
            and (self.prereleases or not sdist.prerelease)
            and (self.yanked or not sdist.yanked)
        ]
        if self.maximum is None or len(window) <= self.maximum:
            return window
        if not self.spread or self.maximum == 1:
            return window[-self.maximum :]
        last = len(window) - 1
        return [window[round(place * last / (self.maximum - 1))] for place in range(self.maximum)]


class Ingested(msgspec.Struct, frozen=True):
    """What one package came to: its rows, and the releases left out, each as one line with the reason."""

    rows: list[PullRequest]
    left_out: list[str]


def ingest_package(name: str, *, index: PackageIndex, into: Path, selection: Selection) -> Ingested:
    """Brings a package's selected releases into ``into/NAME.git`` and makes a timeline of them.

    Raises:
        InputError: no such package, no source distribution, none selected or none usable, or ``into`` is unusable.
        EnvironmentNotReady: the index is away, or git is missing.
        InfraError: git failed.
    """
    known = index.sdists(name)
    selected = selection.of(known)
    if not selected:
        raise InputError(
            f"{name}: none of its {len(known)} releases is selected "
            f"({known[0].uploaded_at:%Y-%m-%d} to {known[-1].uploaded_at:%Y-%m-%d}); "
            f"widen --since and --until, or take --pre and --yanked"
        )
    project = selected[0].project
    repository = ReleaseRepository(into / f"{project}.git", project=project)
    commits = repository.commits()
    new = [sdist for sdist in selected if sdist.version not in commits]
    left_out: list[str] = []
    if new:
        with Steps(project, total=len(new)) as steps:
            commits = repository.append(_trees(new, index=index, steps=steps, left_out=left_out))
    rows = [
        PullRequest(
            owner=OWNER,
            repo=project,
            issue_number=sdist.number,
            sha=commits[sdist.version],
            created_at=format_moment(sdist.uploaded_at.replace(microsecond=0)),
            title=f"{project} {sdist.version}",
            clone_url=str(repository.path),
        )
        for sdist in selected
        if sdist.version in commits
    ]
    if not rows:
        raise InputError(f"{project}: no release can be taken: {left_out[0]}")
    return Ingested(rows, left_out)


def _trees(
    sdists: Sequence[Sdist], *, index: PackageIndex, steps: Steps, left_out: list[str]
) -> Iterator[tuple[Sdist, dict[str, TreeEntry]]]:
    """The releases' trees in order, downloading ahead; those that cannot be taken are added to ``left_out``."""
    pool = ThreadPoolExecutor(DOWNLOADS_AT_ONCE, thread_name_prefix="download")
    try:
        downloads: list[tuple[Sdist, Future[Path]]] = [(sdist, pool.submit(index.fetch, sdist)) for sdist in sdists]
        for sdist, download in downloads:
            try:
                tree = read_sdist(download.result())
            except (InputError, InfraError) as exc:
                left_out.append(f"{sdist.project} {sdist.version}: {exc}")
                steps.done(f"{sdist.version} left out: {exc}")
                continue
            yield sdist, tree
            steps.done(sdist.version)
    finally:
        pool.shutdown(cancel_futures=True)
