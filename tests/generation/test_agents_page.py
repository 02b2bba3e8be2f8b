"""The page about sessions of agents says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from actors.agents.adapters import ADAPTERS
from actors.agents.base import Adapter
from actors.agents.session import SessionLimits, SessionReason
from actors.generation.attempt import NO_SCRIPTS
from actors.generation.cage import Limits
from actors.generation.scripts import MAX_SCRIPT_BYTES
from actors.verifier.checks.template import EDITABLE

PAGE = (Path(__file__).parents[2] / "docs" / "agents.md").read_text(encoding="utf-8")
WORDS = " ".join(PAGE.split())


@pytest.mark.parametrize("agent", ADAPTERS.values(), ids=lambda agent: agent.name)
def test_versions_variables_files_and_cost_of_every_agent_are_on_the_page(agent: Adapter) -> None:
    assert ".".join(map(str, agent.measured)) in PAGE
    assert ".".join(map(str, agent.oldest)) in PAGE
    (row,) = re.findall(rf"^\| {agent.name} \| (.*) \|$", PAGE, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == agent.variables
    assert f"`{agent.briefing_file}`" in PAGE
    for name in agent.configuration:
        assert f"`{name}`" in PAGE
    (costs,) = re.findall(r"^\| cost in dollars \| (.*) \|$", PAGE, re.MULTILINE)
    assert (costs.split(" | ")[list(ADAPTERS).index(agent.name)] == "yes") == agent.tells_cost


@pytest.mark.parametrize("ended", [*(reason.value for reason in SessionReason), NO_SCRIPTS, "tamper", "disk"])
def test_every_end_of_a_session_is_on_the_page(ended: str) -> None:
    assert f"`{ended}`" in PAGE


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    limits = Limits()
    assert f"workspace and home may grow by {limits.disk_bytes >> 30} GiB" in WORDS
    assert f"one file to {limits.file_bytes >> 20} MiB" in WORDS
    assert f"at most {limits.processes} processes and {limits.memory_bytes >> 30} GiB of memory" in WORDS
    assert f"at most {MAX_SCRIPT_BYTES >> 10} KiB" in WORDS
    assert f"at most {SessionLimits().max_transcript_bytes >> 20} MiB" in WORDS
    for name in EDITABLE:
        assert f"`{name}`" in PAGE
