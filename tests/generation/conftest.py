"""Fixtures of sessions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.generation.scripted import KEY, Stand


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """A stand whose programs come first on the PATH, with a key in the environment."""
    made = Stand(tmp_path)
    monkeypatch.setenv("PATH", f"{made.programs}:{os.environ['PATH']}")
    monkeypatch.setenv("TEST_AGENT_KEY", KEY)
    return made
