"""The stock build context: what ``try_default`` tries on a pull request before any agent is paid."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from store.docker_context import DockerContext

__all__ = ["stock_context"]


@cache
def stock_context() -> DockerContext:
    """The context made of the files in this folder."""
    return DockerContext.from_directory(Path(__file__).parent)
