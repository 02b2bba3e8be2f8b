"""Calling git so that a call means the same wherever it is made.

Guarantees: git runs in the fixed environment of ``store.sources`` (no configuration of this user or machine, nothing of
a surrounding git process, no prompts, English messages); what it says on failure is in the error.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from events.errors import EnvironmentNotReady, InfraError
from store.sources import git_environment

__all__ = ["git", "git_succeeds", "missing_git"]


def missing_git() -> EnvironmentNotReady:
    """The error that says that git is not installed."""
    return EnvironmentNotReady("git is not installed; install it (`apt-get install git`) and see `headrace doctor`")


def git(repository: Path, *arguments: str, stdin: bytes | None = None) -> bytes:
    """What git prints.

    Raises:
        InfraError: git failed; the message ends with git's own.
        EnvironmentNotReady: git is not installed.
    """
    done = _run(repository, arguments, stdin)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise InfraError(f"git {arguments[0]} in {repository} failed: {said[-1]}")
    return done.stdout


def git_succeeds(repository: Path, *arguments: str) -> bool:
    """Whether git answers yes, for the commands that ask something.

    Raises:
        EnvironmentNotReady: git is not installed.
    """
    return _run(repository, arguments, None).returncode == 0


def _run(repository: Path, arguments: tuple[str, ...], stdin: bytes | None) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["git", "-C", str(repository), *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=git_environment(),
            check=False,
        )
    except FileNotFoundError as exc:
        raise missing_git() from exc
