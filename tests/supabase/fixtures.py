"""One PostgreSQL and one gateway for all tests that need them; a project of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.supabase.project import Project, Projects

__all__ = ["project", "projects"]


@pytest.fixture(scope="session")
def projects() -> Iterator[Projects]:
    with Projects() as started:
        yield started


@pytest.fixture
def project(projects: Projects) -> Iterator[Project]:
    made = projects.new()
    yield made
    projects.remove(made)
