"""Pull requests and verifiers for tests of the Python API. The verifiers can be pickled."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from actors.api import Verification
from actors.templates import stock_context
from events.errors import InfraError
from events.work import PriorAttempt, PullRequest
from store.docker_context import DockerContext

__all__ = ["Inventive", "Patient", "Refusing", "accepts", "item"]

DEADLINE_S = 60.0


def item(number: int, **changes: object) -> dict[str, object]:
    """The keywords of one run: pull request ``number`` of ``o/r``, of that day of January 2024."""
    return {
        "owner": "o",
        "repo": "r",
        "issue_number": number,
        "sha": f"{number:040x}",
        "created_at": f"2024-01-{number:02d}T00:00:00Z",
        "env_payload": '{"dependencies": ["numpy==1.26.0"]}',
        "python_version": "3.11",
        **changes,
    }


def accepts(pull_request: PullRequest, context: DockerContext) -> bool:
    """Every context on every pull request."""
    return True


class Refusing:
    """Refuses pull requests by number, with a log."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers
        self.asked: list[int] = []

    def __call__(self, pull_request: PullRequest, context: DockerContext) -> Verification:
        self.asked.append(pull_request.issue_number)
        verified = pull_request.issue_number not in self.numbers
        log = f"line 1\nverdict on {pull_request.issue_number}\n"
        return Verification(verified=verified, message="so it is" if verified else "refused by the test", log=log)


class Inventive(Refusing):
    """Accepts what it generated, and only that; the sessions before ``succeeds_at`` make something that it refuses."""

    def __init__(self, *, succeeds_at: int = 1) -> None:
        super().__init__()
        self.succeeds_at = succeeds_at
        self.sessions: list[Sequence[PriorAttempt]] = []

    def __call__(self, pull_request: PullRequest, context: DockerContext) -> Verification:
        return Verification(verified="# good" in context.build_env_sh, message="looked at its text")

    def generate(self, pull_request: PullRequest, prior: Sequence[PriorAttempt]) -> DockerContext | None:
        self.sessions.append(prior)
        what = "good" if len(self.sessions) >= self.succeeds_at else f"bad {len(self.sessions)}"
        return msgspec.structs.replace(stock_context(), build_env_sh=f"# {what}\n")


class Patient:
    """Verdicts that wait until ``folder/go`` is there; that it was asked is a file ``folder/asked-NUMBER``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, pull_request: PullRequest, context: DockerContext) -> bool:
        (self.folder / f"asked-{pull_request.issue_number}").touch()
        ends = time.monotonic() + DEADLINE_S
        while not (self.folder / "go").exists():
            if time.monotonic() > ends:
                raise InfraError("nobody let it go")
            time.sleep(0.02)
        return True
