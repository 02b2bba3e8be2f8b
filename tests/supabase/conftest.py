"""What the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from store.opening import Store
from tests.supabase.project import Project


@pytest.fixture
def store(project: Project) -> Iterator[Store]:
    with project.open() as opened:
        yield opened
