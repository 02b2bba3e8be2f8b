"""A git repository of a package's releases: one commit and one tag a release, in one line of history.

Guarantees: a commit's id depends on nothing but its release, its files and the commits before it, so equal input gives
equal ids on every machine. Commits are only ever appended, on top of what is there, each dated by its release's
upload; a release that is there already is never written again. The history says which releases are there (a trailer
``Release: VERSION`` in each message); tags are made from it, so a crash between the two is mended by the next call.
Files go from the archive into git's object store; none is ever checked out.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

from events.errors import InfraError, InputError
from scripts.git_cli import git, git_succeeds, missing_git
from scripts.sdist import TreeEntry
from store.package_index import Sdist
from store.sources import git_environment

__all__ = ["ReleaseRepository"]

MAIN = "refs/heads/main"
IDENTITY = b"Headrace <headrace@invalid>"
MARKER = "headrace.project"


class ReleaseRepository:
    """The bare repository at ``path`` for the releases of ``project``; made if there is none.

    Two processes that append at one moment do not both succeed: one of them gets ``InfraError`` and its releases are
    not there; repeating it is safe.

    Raises:
        InputError: something else is at ``path``.
    """

    def __init__(self, path: Path, *, project: str) -> None:
        self.path = path.absolute()
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            self._make(project)
        if not (self.path / "HEAD").is_file() or self._configured() != project:
            raise InputError(f"{self.path} is no repository of releases of {project}; name another folder with --into")

    def commits(self) -> dict[str, str]:
        """Commit ids by version, oldest commit first."""
        if not git_succeeds(self.path, "rev-parse", "--verify", "--quiet", MAIN):
            return {}
        text = git(self.path, "log", "--reverse", "--format=%(trailers:key=Release,valueonly,separator=%x20) %H", MAIN)
        found = (line.partition(" ") for line in text.decode().splitlines())
        return {version: commit for version, _, commit in found if version}

    def append(self, releases: Iterable[tuple[Sdist, dict[str, TreeEntry]]]) -> dict[str, str]:
        """Writes releases on top of the history, in the order given, and gives the missing tags.

        Returns:
            All commit ids by version, as ``commits`` does.

        Raises:
            InfraError: git failed, say because the disk is full or another process appended at the same moment;
                the history is as it was.
        """
        tip = MAIN if self.commits() else None
        try:
            importer = subprocess.Popen(
                ["git", "-C", str(self.path), "fast-import", "--quiet", "--done"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=git_environment(),
            )
        except FileNotFoundError as exc:
            raise missing_git() from exc
        with importer:
            assert importer.stdin is not None  # noqa: S101 - it is a pipe
            assert importer.stderr is not None  # noqa: S101
            try:
                for release, tree in releases:
                    _write_commit(importer.stdin, release, tree, parent=tip)
                    tip = None  # from here on git goes on from what it was just told
                importer.stdin.write(b"done\n")
                importer.stdin.close()
            except BrokenPipeError:
                pass  # git ended early: what it said is read below
            except BaseException:
                importer.kill()
                with suppress(BrokenPipeError):
                    importer.stdin.close()
                raise
            said = importer.stderr.read().decode(errors="replace").strip().splitlines()
        if importer.returncode != 0:
            reason = next((line for line in said if line.startswith(("fatal", "error", "warning"))), "no message")
            raise InfraError(f"git fast-import in {self.path} failed: {reason}")
        return self._tagged(self.commits())

    def _make(self, project: str) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise InputError(f"{self.path} cannot be made ({exc.strerror}); name another folder with --into") from exc
        git(self.path, "init", "--quiet", "--bare", "--template=", "--object-format=sha1", "--initial-branch=main", ".")
        git(self.path, "config", MARKER, project)

    def _configured(self) -> str:
        if not git_succeeds(self.path, "config", "--file", "config", "--get", MARKER):
            return ""
        return git(self.path, "config", "--file", "config", "--get", MARKER).decode().strip()

    def _tagged(self, commits: dict[str, str]) -> dict[str, str]:
        tags = set(git(self.path, "for-each-ref", "--format=%(refname:strip=2)", "refs/tags").decode().splitlines())
        missing = [
            f"create refs/tags/{version} {commit}\n" for version, commit in commits.items() if version not in tags
        ]
        git(self.path, "update-ref", "--stdin", stdin="".join(missing).encode())
        return commits


def _write_commit(out: IO[bytes], release: Sdist, tree: dict[str, TreeEntry], *, parent: str | None) -> None:
    message = (
        f"{release.project} {release.version}\n\nRelease: {release.version}\n"
        f"Sdist: {release.filename}\nDigest: {':'.join(release.digest)}\n"
    ).encode()
    date = b"%d +0000" % int(release.uploaded_at.timestamp())
    out.write(b"commit %s\n" % MAIN.encode())
    out.write(b"author %s %s\ncommitter %s %s\n" % (IDENTITY, date, IDENTITY, date))
    out.write(b"data %d\n%s\n" % (len(message), message))
    if parent is not None:
        out.write(b"from %s^0\n" % parent.encode())
    out.write(b"deleteall\n")
    for path, entry in sorted(tree.items()):
        out.write(b"M %s inline %s\n" % (entry.mode.encode(), _quoted(path)))
        out.write(b"data %d\n" % len(entry.content))
        out.write(entry.content)
        out.write(b"\n")
    out.write(b"\n")


def _quoted(path: str) -> bytes:
    escaped = os.fsencode(path).replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
    return b'"' + escaped + b'"'
