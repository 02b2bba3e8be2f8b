"""Accounts of agents, as an option and in a file: what they come to, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.agent_options import account_of, accounts_from_option, budget_of, checked_accounts
from actors.settings import load_settings
from events.errors import SettingError
from events.types import Account, Budget

ACCOUNT = '[[agents.account]]\nname = "claude:work"\nagent = "claude"\n'


def test_the_option_makes_an_account_of_each_backend_with_its_slots() -> None:
    found = accounts_from_option("claude:4, codex")
    assert [(one.name, one.agent, one.slots, one.env) for one in found] == [
        ("claude", "claude", 4, {}),
        ("codex", "codex", 1, {}),
    ]
    assert accounts_from_option("none") == []


@pytest.mark.parametrize(
    "text", ["", "gpt:4", "claude:0", "claude:x", "claude:", "claude,", "none,claude", "claude:1001"]
)
def test_an_option_that_means_nothing_is_refused_with_what_it_may_be(text: str) -> None:
    with pytest.raises(SettingError, match="claude:4,codex:2") as refused:
        accounts_from_option(text)
    assert "--agent" in str(refused.value)


def test_a_backend_that_is_named_twice_is_refused() -> None:
    with pytest.raises(SettingError, match="claude is there twice"):
        accounts_from_option("claude:1,claude:2")


def test_a_file_may_hold_several_accounts_of_one_backend(tmp_path: Path) -> None:
    path = tmp_path / "headrace.toml"
    more = ACCOUNT.replace("work", "home") + 'slots = 3\nhome = "~/claude"\nenv = { ANTHROPIC_API_KEY = "KEY_2" }\n'
    path.write_text("[agents]\nrace = 2\nmax_usd = 5\n" + ACCOUNT + more + "max_sessions = 9\nwindow_s = 18000\n")
    settings = load_settings(path, environ={}).agents
    one, other = settings.account
    assert (one.name, one.slots, other.name, other.slots) == ("claude:work", 1, "claude:home", 3)
    assert other.env == {"ANTHROPIC_API_KEY": "KEY_2"}
    assert other.home == str(Path("~/claude").expanduser())
    assert settings.race == 2
    assert budget_of(settings) == Budget(usd=5.0)
    assert account_of(other) == Account(
        name="claude:home", slots=3, agent="claude", budget=Budget(sessions=9), window_s=18000.0
    )


def test_no_accounts_unless_somebody_names_some() -> None:
    assert load_settings(environ={}).agents.account == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ACCOUNT + "slots = 0\n", r"agents.account\[claude:work\].slots='0' is refused; it must be an integer from 1"),
        (ACCOUNT + "slot = 2\n", r"agents.account\[claude:work\].slot=.*one of the known names"),
        (ACCOUNT + "env = ['A']\n", r"agents.account\[claude:work\].env=.*by the name of this host's variable"),
        (ACCOUNT + "window_s = -1\n", r"agents.account\[claude:work\].window_s=.*a year"),
        (ACCOUNT + ACCOUNT, r"agents.account\[1\].name='claude:work'.*a name that no other account has"),
        (ACCOUNT.replace("claude:work", "Work"), r"agents.account\[Work\].name=.*small letters"),
        (ACCOUNT.replace("claude:work", "docker"), r"agents.account\[docker\].name=.*Headrace itself uses"),
        (ACCOUNT.replace('agent = "claude"', 'agent = "gpt"'), r"agent='gpt'.*claude, codex, gemini, qwen"),
        ('[[agents.account]]\nname = "a"\n', r"agents.account\[a\].agent=''.*claude, codex, gemini, qwen"),
        ("[agents]\naccount = 3\n", r"a list of tables \[\[agents.account\]\]"),
        ("[agents]\naccount = [3]\n", "a table with name and agent"),
        ("[agents]\nrace = 0\n", "agents.race='0' is refused; it must be an integer from 1"),
    ],
)
def test_a_bad_account_is_refused_by_name_field_and_remedy(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text(text)
    with pytest.raises(SettingError, match=words) as refused:
        load_settings(path, environ={})
    assert str(path) in str(refused.value)


def test_accounts_come_from_the_environment_as_json_and_from_a_command_as_they_are() -> None:
    environment = {"HEADRACE_AGENTS_ACCOUNT": '[{"name": "c", "agent": "codex"}]'}
    assert [one.name for one in load_settings(environ=environment).agents.account] == ["c"]
    given = accounts_from_option("claude:2")
    found = load_settings(environ=environment, overrides={"agents": {"account": given}}).agents.account
    assert found == given == checked_accounts(given, label="account", source="command line")
