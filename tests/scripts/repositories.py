"""Local git repositories for tests."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from store.sources import git_environment


class Repository:
    """A work tree in which a test commits; dates are given, so ids do not change from run to run."""

    def __init__(self, path: Path, *, origin: str | None = None) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("config", "user.name", "Test")
        self.git("config", "user.email", "test@invalid")
        if origin:
            self.git("remote", "add", "origin", origin)

    def git(self, *arguments: str, date: str = "2021-01-01T00:00:00Z") -> str:
        environment = git_environment({"GIT_COMMITTER_DATE": date, "GIT_AUTHOR_DATE": date})
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(
        self, message: str, files: Mapping[str, str] | None = None, *, date: str = "2021-01-01T00:00:00Z"
    ) -> str:
        for name, text in (files or {}).items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", f"--message={message}", date=date)
        return self.git("rev-parse", "HEAD")

    def merge(self, number: int, files: Mapping[str, str], *, title: str, date: str) -> str:
        """What a host makes of a pull request merged with a merge commit."""
        self.git("checkout", "--quiet", "-b", f"topic-{number}")
        self.commit(f"work on {title}", files, date=date)
        self.git("checkout", "--quiet", "main")
        message = f"Merge pull request #{number} from someone/topic-{number}\n\n{title}\n\nWhy it is so."
        self.git("merge", "--quiet", "--no-ff", f"--message={message}", f"topic-{number}", date=date)
        return self.git("rev-parse", "HEAD")
