"""Pull requests of made-up repositories."""

from __future__ import annotations

from events.work import PullRequest

__all__ = ["pull_request"]


def pull_request(repository: int, number: int, *, created_at: str = "", seed: bool = True) -> PullRequest:
    """PR ``number`` of ``o/r<repository>``; by default of that day of January 2020."""
    return PullRequest(
        owner="o",
        repo=f"r{repository}",
        issue_number=number,
        sha="a" * 40,
        created_at=created_at or f"2020-01-{number:02d}T00:00:00Z",
        env_payload="[]",
        python_version="3.11",
        seed=seed,
    )
