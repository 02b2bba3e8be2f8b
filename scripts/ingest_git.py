"""A clone's merged pull requests as a timeline: what the first-parent history of a branch tells.

Guarantees: a pull request is a merge commit "Merge pull request #N from ..." or a commit whose title ends in "(#N)", as
hosts write them for merges and squashes; nothing is asked of a host. ``sha`` is that commit and ``base_sha`` its first
parent; the difference between the two is split into ``patch`` and ``test_patch`` by what is a test file. When a number
occurs again (a cherry-pick, a merge repeated) the last one in the history is kept and the repetition counted. The clone
is only read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import msgspec
from loguru import logger

from events.errors import InfraError, InputError
from events.work import PullRequest
from scripts.git_cli import git, git_succeeds
from scripts.steps import Steps
from store.timeline import format_moment, parse_moment

__all__ = ["IngestedClone", "ingest_clone", "is_test_file", "owner_and_repo", "split_patch"]

MERGE = re.compile(r"Merge pull request #(\d+) from \S+")
SQUASH = re.compile(r"(?P<title>.*\S)\s*\(#(?P<number>\d+)\)\s*")
TEST_FILE = re.compile(
    r"(^|/)(tests?|testing)/|(^|/)(test_[^/]*|[^/]*_tests?|tests?|conftest)\.[^/]+$|(^|/)(tox\.ini|pytest\.ini)$",
    re.IGNORECASE,
)
RECORD = "%H%x00%P%x00%cI%x00%s%x00%b%x00%x00"
EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


class IngestedClone(msgspec.Struct, frozen=True):
    """Rows by commit date, and how many occurrences of a number gave way to a later one."""

    rows: list[PullRequest]
    repeated: int


class _Merged(msgspec.Struct, frozen=True, kw_only=True):
    number: int
    sha: str
    base: str | None
    moment: datetime
    title: str
    body: str


def ingest_clone(
    clone: Path,
    *,
    owner: str | None = None,
    repo: str | None = None,
    branch: str = "HEAD",
    clone_url: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    maximum: int | None = None,
) -> IngestedClone:
    """Reads the merged pull requests of a clone; at most the ``maximum`` newest committed from ``since`` to ``until``.

    Args:
        owner, repo: names in the timeline; by default the last two parts of the URL of ``origin``.
        clone_url: where sweeps clone from; by default ``origin`` without user and password, or else the clone itself.

    Raises:
        InputError: no repository, no such branch, no pull request, or no way to tell owner and repository.
        EnvironmentNotReady: git is missing.
    """
    if not clone.is_dir() or not git_succeeds(clone, "rev-parse", "--git-dir"):
        raise InputError(f"{clone} is no git repository; name a clone, its folder or its .git")
    if not git_succeeds(clone, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{branch}^{{commit}}"):
        raise InputError(f"{clone} has no branch or commit {branch!r}; name another with --branch")
    if git(clone, "rev-parse", "--is-shallow-repository").strip() == b"true":
        logger.warning("{} is a shallow clone: pull requests before its depth are not seen", clone)
    origin = _origin(clone)
    named = owner_and_repo(origin) if origin else None
    if (owner is None or repo is None) and named is None:
        raise InputError(f"{clone} has no remote 'origin' that names owner and repository; give --owner and --repo")
    merged = [
        one
        for one in _merged(clone, branch)
        if (since is None or one.moment >= since) and (until is None or one.moment <= until)
    ]
    last = {one.number: one for one in merged}
    chosen = sorted(last.values(), key=lambda one: (one.moment, one.number))[-maximum if maximum else 0 :]
    if not chosen:
        raise InputError(
            f"{clone}: no merged pull request on {branch} in this window; widen it or name another --branch"
        )
    rows: list[PullRequest] = []
    with Steps(clone.resolve().name, total=len(chosen)) as steps:
        for one in chosen:
            patch, test_patch = split_patch(_diff(clone, one))
            rows.append(
                PullRequest(
                    owner=owner or (named or ("", ""))[0],
                    repo=repo or (named or ("", ""))[1],
                    issue_number=one.number,
                    sha=one.sha,
                    base_sha=one.base,
                    created_at=format_moment(one.moment),
                    title=one.title,
                    body=one.body or None,
                    patch=patch or None,
                    test_patch=test_patch or None,
                    clone_url=clone_url or origin or str(clone.resolve()),
                )
            )
            steps.done(f"#{one.number} {one.title}")
    return IngestedClone(rows, len(merged) - len(last))


def owner_and_repo(url: str) -> tuple[str, str] | None:
    """The last two parts of a repository's address (URL, ``host:path`` or path) without ``.git``."""
    path = urlsplit(url).path if "://" in url else url.rpartition(":")[2]
    parts = [part for part in path.removesuffix("/").removesuffix(".git").split("/") if part]
    return (parts[-2], parts[-1]) if len(parts) >= 2 else None


def is_test_file(path: str) -> bool:
    """Whether a file belongs to the tests: by its folder (``test``, ``tests``, ``testing``) or by its name."""
    return TEST_FILE.search(path) is not None


def split_patch(diff: str) -> tuple[str, str]:
    """A git diff in two: the files that are no tests, and those that are."""
    parts: tuple[list[str], list[str]] = ([], [])
    for section in re.split(r"(?m)^(?=diff --git )", diff):
        header = section.partition("\n")[0]
        path = header.removeprefix("diff --git ")
        path = path[: len(path) // 2].strip('"').removeprefix("a/")
        parts[is_test_file(path)].append(section)
    return "".join(parts[False]), "".join(parts[True])


def _origin(clone: Path) -> str | None:
    """The URL of ``origin`` without user and password (an ssh user is part of the address and stays)."""
    if not git_succeeds(clone, "config", "--get", "remote.origin.url"):
        return None
    url = git(clone, "config", "--get", "remote.origin.url").decode().strip()
    parts = urlsplit(url)
    if parts.scheme in {"http", "https"}:
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return url


def _merged(clone: Path, branch: str) -> Iterator[_Merged]:
    log = git(clone, "log", "--first-parent", "--reverse", f"--format={RECORD}", "--end-of-options", branch, "--")
    for record in log.decode(errors="replace").split("\0\0\n"):
        if not record:
            continue
        sha, parents, moment, subject, body = record.split("\0")
        merge, squash = MERGE.match(subject), SQUASH.fullmatch(subject)
        body = body.strip()
        if merge:
            number = merge[1]
            title, _, body = body.partition("\n")
        elif squash:
            number, title = squash["number"], squash["title"]
        else:
            continue
        yield _Merged(
            number=int(number),
            sha=sha,
            base=parents.split()[0] if parents else None,
            moment=parse_moment(moment),
            title=title.strip() or subject,
            body=body.strip(),
        )


def _diff(clone: Path, one: _Merged) -> str:
    base = one.base or EMPTY_TREE
    options = ("--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--no-relative")
    prefixes = ("--src-prefix=a/", "--dst-prefix=b/")
    try:
        diff = git(
            clone,
            "-c",
            "core.quotePath=false",
            "diff",
            "--binary",
            "--full-index",
            *options,
            *prefixes,
            base,
            one.sha,
            "--",
        )
    except InfraError as exc:
        raise InputError(f"{clone}: #{one.number} cannot be compared with its base ({exc}); deepen the clone") from exc
    try:
        return diff.decode()
    except UnicodeDecodeError:
        logger.warning("#{}: its patch is not UTF-8 and is kept with replacement characters", one.number)
        return diff.decode(errors="replace")
