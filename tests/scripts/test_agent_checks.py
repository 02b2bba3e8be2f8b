"""What ``headrace doctor`` says about coding agents."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from actors.agent_settings import AgentSettings
from actors.agents.adapters import ADAPTERS
from scripts.agent_checks import agent_findings
from scripts.findings import Finding, Status
from tests.agents.real import install_programs

KEY = {"ANTHROPIC_API_KEY": "dummy-key-of-the-tests"}
CLAUDE = {"name": "claude:work", "agent": "claude", "slots": 3, "env": {"ANTHROPIC_API_KEY": "ANTHROPIC_API_KEY"}}


def settings(*accounts: dict[str, object], sandbox: str = "auto") -> AgentSettings:
    return msgspec.convert({"account": list(accounts), "sandbox": sandbox}, AgentSettings)


def program(folder: Path, text: str) -> str:
    """A PATH on which ``claude`` prints this."""
    folder.mkdir()
    (folder / "claude").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "claude").chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def found(name: str, findings: list[Finding]) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def test_an_installed_agent_has_its_version_and_where_it_is(tmp_path: Path) -> None:
    path = program(tmp_path / "bin", "echo 2.1.330 '(Claude Code)'")
    claude = found("agent claude", agent_findings(settings(), environ={"PATH": path}))
    assert claude.status is Status.OK
    assert claude.seen == f"2.1.330 at {tmp_path}/bin/claude, answers"


@pytest.mark.parametrize("agent", ADAPTERS)
def test_a_missing_agent_fails_only_if_an_account_names_it_and_the_command_to_install_it_is_told(agent: str) -> None:
    environ = {"PATH": "/nowhere", "KEY": "dummy-key-of-the-tests"}
    command = f"npm install -g {ADAPTERS[agent].package}@{'.'.join(map(str, ADAPTERS[agent].measured))}"
    unused = found(f"agent {agent}", agent_findings(settings(), environ=environ))
    assert unused.status is Status.OK
    assert command in unused.seen
    used = found(f"agent {agent}", agent_findings(settings({"name": "a", "agent": agent}), environ=environ))
    assert used.status is Status.FAIL
    assert used.mend == f"run: {command}"


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("echo 1.0.0", Status.FAIL, "1.0.0 at "),
        ("echo 9.0.0", Status.WARN, "nobody has tested it yet"),
        ("exit 3", Status.FAIL, "does not answer"),
        ("echo no version", Status.FAIL, "prints no version"),
    ],
)
def test_what_is_too_old_unknown_or_silent_is_told_with_what_mends_it(
    tmp_path: Path, text: str, status: Status, said: str
) -> None:
    environ = {"PATH": program(tmp_path / "bin", text), **KEY}
    claude = found("agent claude", agent_findings(settings(CLAUDE), environ=environ))
    assert claude.status is status
    assert said in claude.seen
    assert "npm install -g @anthropic-ai/claude-code@2.1.330" in claude.mend


def test_an_account_without_its_key_fails_naming_the_variable_and_never_the_value() -> None:
    good = found("account claude:work", agent_findings(settings(CLAUDE), environ={"PATH": "/nowhere", **KEY}))
    assert good.status is Status.OK
    assert good.seen == "claude, 3 slots, variables ANTHROPIC_API_KEY"
    assert KEY["ANTHROPIC_API_KEY"] not in good.seen
    bad = found("account claude:work", agent_findings(settings(CLAUDE), environ={"PATH": "/nowhere"}))
    assert bad.status is Status.FAIL
    assert "ANTHROPIC_API_KEY is not set" in bad.seen


@pytest.mark.parametrize(
    ("accounts", "sandbox", "status"),
    [
        ([], "auto", Status.OK),
        ([CLAUDE], "auto", Status.WARN),
        ([CLAUDE], "required", Status.FAIL),
        ([CLAUDE], "off", Status.WARN),
    ],
)
def test_without_bubblewrap_agents_are_unprotected_and_the_command_that_mends_it_is_told(
    accounts: list[dict[str, object]], sandbox: str, status: Status
) -> None:
    findings = agent_findings(settings(*accounts, sandbox=sandbox), environ={"PATH": "/nowhere", **KEY})
    finding = found("agents' sandbox", findings)
    assert finding.status is status
    if sandbox != "off":
        assert "apt-get install bubblewrap" in finding.seen + finding.mend


def test_with_bubblewrap_its_version_is_told() -> None:
    finding = found("agents' sandbox", agent_findings(settings(CLAUDE), environ={"PATH": "/usr/bin:/bin", **KEY}))
    assert finding.status is Status.OK
    assert finding.seen.startswith("bubblewrap 0.")


def test_a_sandbox_with_the_hosts_network_is_warned_of() -> None:
    given = msgspec.structs.replace(settings(CLAUDE), network="host")
    finding = found("agents' sandbox", agent_findings(given, environ={"PATH": "/usr/bin:/bin", **KEY}))
    assert finding.status is Status.WARN
    assert finding.mend == "set agents.network to public"


@pytest.mark.agents
@pytest.mark.slow
def test_the_real_agents_are_found_and_answer() -> None:
    findings = agent_findings(settings(), environ={"PATH": f"{install_programs()}:/usr/bin:/bin"})
    for agent, adapter in ADAPTERS.items():
        finding = found(f"agent {agent}", findings)
        assert finding.status is Status.OK
        assert finding.seen.startswith(".".join(map(str, adapter.measured)))
        assert finding.seen.endswith("answers")
