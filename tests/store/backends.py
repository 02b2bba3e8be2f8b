"""Every backend by name, for fixtures that run their tests on all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from store.opening import Store, open_store
from tests.supabase.project import Project

__all__ = ["BACKENDS", "opened"]

BACKENDS = ["memory", "sqlite", "supabase"]


def opened(request: pytest.FixtureRequest, path: Path) -> Store:
    """An empty store of the backend that a fixture is parametrised with, open for writing; SQLite's is at ``path``."""
    if request.param == "supabase":
        project: Project = request.getfixturevalue("project")
        return project.open()
    return open_store("memory:" if request.param == "memory" else f"sqlite:///{path}", write=True)
