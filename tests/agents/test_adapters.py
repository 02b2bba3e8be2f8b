"""Adapters: what a CLI is started with, and what is said about its version."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from actors.agents.adapters import ADAPTERS, Verdict, adapter, detect, install_command, judge, probe
from actors.agents.base import Access
from events.errors import InputError

KEYS = {
    "claude": "ANTHROPIC_API_KEY",
    "codex": "OPENAI_API_KEY",
    "gemini": "GEMINI_API_KEY",
    "qwen": "OPENAI_API_KEY",
}


def fake(folder: Path, program: str, script: str) -> str:
    """Puts a program into a folder and returns a search path with it."""
    folder.mkdir(exist_ok=True)
    path = folder / program
    path.write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


@pytest.mark.parametrize("agent", ADAPTERS)
def test_a_launch_has_its_own_home_and_no_variable_but_the_allowed_ones(
    agent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_RUNNER", "1")
    access = Access(environment={KEYS[agent]: "the-key-of-the-account", "HTTPS_PROXY": "http://proxy:1"})
    launch = ADAPTERS[agent].launch(access, program=Path("/bin/x"), search_path="/bin", home=tmp_path)
    assert launch.environment["HOME"] == str(tmp_path)
    assert launch.environment["TMPDIR"] == str(tmp_path / "tmp")
    assert (launch.environment["PATH"], launch.environment["TZ"]) == ("/bin", "UTC")
    assert "A_SECRET_OF_THE_RUNNER" not in launch.environment
    assert launch.environment[KEYS[agent]] == "the-key-of-the-account"
    assert launch.secrets == ("the-key-of-the-account",)
    # Command lines and files can be read by others.
    assert "the-key-of-the-account" not in str((launch.command, launch.files))
    assert launch.command[0] == "/bin/x"


@pytest.mark.parametrize("agent", ADAPTERS)
def test_a_variable_that_is_not_allowed_is_refused_by_name(agent: str, tmp_path: Path) -> None:
    access = Access(environment={"LD_PRELOAD": "/x.so"})
    with pytest.raises(InputError, match=f"{agent}: an account may not set LD_PRELOAD"):
        ADAPTERS[agent].launch(access, program=Path("/bin/x"), search_path="/bin", home=tmp_path)
    assert ADAPTERS[agent].allowed({"LD_PRELOAD": "/x.so", KEYS[agent]: "k"}) == {KEYS[agent]: "k"}


@pytest.mark.parametrize("agent", ADAPTERS)
def test_a_home_in_which_somebody_has_logged_in_is_used_as_it_is(agent: str, tmp_path: Path) -> None:
    access = Access(home="/home/of/account")
    launch = ADAPTERS[agent].launch(access, program=Path("/bin/x"), search_path="/bin", home=tmp_path)
    assert launch.environment["HOME"] == "/home/of/account"
    assert launch.environment["TMPDIR"] == str(tmp_path / "tmp")
    assert launch.files == {}


def test_the_base_url_and_model_of_a_codex_account_become_its_configuration(tmp_path: Path) -> None:
    access = Access(environment={"OPENAI_BASE_URL": 'http://h/"v1', "OPENAI_API_KEY": "k"}, model="a model")
    launch = ADAPTERS["codex"].launch(access, program=Path("/bin/x"), search_path="/bin", home=tmp_path)
    launch.prepare(tmp_path / "home")
    written = tomllib.loads((tmp_path / "home" / ".codex" / "config.toml").read_text(encoding="utf-8"))
    assert written["model"] == "a model"
    provider = written["model_providers"][written["model_provider"]]
    assert (provider["base_url"], provider["env_key"]) == ('http://h/"v1', "OPENAI_API_KEY")


@pytest.mark.parametrize("agent", ["gemini", "qwen"])
def test_settings_are_json_for_this_user_only(agent: str, tmp_path: Path) -> None:
    launch = ADAPTERS[agent].launch(Access(), program=Path("/bin/x"), search_path="/bin", home=tmp_path)
    launch.prepare(tmp_path / "home")
    path = tmp_path / "home" / f".{agent}" / "settings.json"
    assert json.loads(path.read_text(encoding="utf-8"))["telemetry"] == {"enabled": False}
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("agent", ADAPTERS.values(), ids=lambda agent: agent.name)
def test_a_version_is_judged_by_what_was_measured(agent: object, tmp_path: Path) -> None:
    known = next(known for known in ADAPTERS.values() if known is agent)
    major, minor, patch = known.measured
    assert judge(known, known.measured) == (Verdict.SUPPORTED, "")
    assert judge(known, known.oldest)[0] is Verdict.SUPPORTED
    newer, message = judge(known, (major, minor, patch + 1))
    assert newer is Verdict.NEWER
    assert install_command(known) in message
    old, message = judge(known, (0, 15, 10))
    assert old is Verdict.TOO_OLD
    assert f"npm install -g {known.package}@" in message


@pytest.mark.parametrize(
    ("script", "verdict", "usable"),
    [
        ("echo '2.1.330 (Claude Code)'", Verdict.SUPPORTED, True),
        ("echo 'v2.1.250'", Verdict.SUPPORTED, True),
        ("echo '3.0.0'", Verdict.NEWER, True),
        ("echo '1.0.33 (Claude Code)'", Verdict.TOO_OLD, False),
        ("echo 'no idea'", Verdict.UNKNOWN, False),
        ("echo broken >&2; exit 1", Verdict.UNKNOWN, False),
        ("sleep 60", Verdict.UNKNOWN, False),
    ],
)
def test_a_probe_asks_the_program_for_its_version(script: str, verdict: Verdict, usable: bool, tmp_path: Path) -> None:
    path = fake(tmp_path / "bin", "claude", script)
    found = probe(ADAPTERS["claude"], search_path=path, timeout_s=1.0)
    assert (found.verdict, found.usable) == (verdict, usable)
    assert (found.message == "") == (verdict is Verdict.SUPPORTED)
    assert found.program == str(tmp_path / "bin" / "claude")


def test_a_program_that_is_not_there_is_reported_with_the_command_that_installs_it(tmp_path: Path) -> None:
    found = probe(ADAPTERS["qwen"], search_path=str(tmp_path))
    assert found.verdict is Verdict.MISSING
    assert found.message == "qwen is not installed; run: npm install -g @qwen-code/qwen-code@0.24.4"


def test_a_probe_shows_the_program_nothing_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET_OF_THE_RUNNER", "1")
    path = fake(tmp_path / "bin", "codex", f'env > {tmp_path}/seen; echo "$HOME" > {tmp_path}/home; echo 0.169.0')
    assert probe(ADAPTERS["codex"], search_path=path).usable
    assert "A_SECRET_OF_THE_RUNNER" not in (tmp_path / "seen").read_text(encoding="utf-8")
    assert not Path((tmp_path / "home").read_text(encoding="utf-8").strip()).exists()


def test_the_first_usable_agent_is_found_in_the_fixed_order(tmp_path: Path) -> None:
    path = fake(tmp_path / "bin", "qwen", "echo 0.24.4")
    assert (found := detect(search_path=path)) is not None
    assert found.agent == "qwen"
    fake(tmp_path / "bin", "codex", "echo codex-cli 0.169.0")
    fake(tmp_path / "bin", "claude", "echo 1.0.0")
    assert (found := detect(search_path=path)) is not None
    assert found.agent == "codex"
    assert detect(search_path=str(tmp_path)) is None


def test_an_unknown_agent_is_refused_with_the_known_ones() -> None:
    assert adapter("claude").name == "claude"
    with pytest.raises(InputError, match="no coding agent is called nobody; known are claude, codex, gemini, qwen"):
        adapter("nobody")
