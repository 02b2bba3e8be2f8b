"""Agents on the command line: which sweeps have any, what ``status`` and the progress say of their accounts."""

from __future__ import annotations

import json
import shlex
import time
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from actors.agent_settings import AgentAccount
from actors.gateway import ClusterInfo
from actors.log_client import new_event
from actors.settings import Settings
from actors.supervisor import SweepProgress
from events.account_views import account_views
from events.governor import GovernorState, evolve
from events.types import (
    Account,
    AccountPaused,
    AccountsConfigured,
    Budget,
    Event,
    GovernorClaimed,
    Lease,
    LeasesGranted,
    UsageCounted,
)
from scripts import running
from scripts.accounts import account_lines, account_table, clock
from scripts.cli import main
from scripts.display import ProgressDisplay
from scripts.running import RunChoices
from store.log import Append
from store.opening import open_store
from tests.scripts.finished_sweep import make

NOW = time.time()
RESET = float(int(NOW) + 3600)


def events() -> list[Event]:
    """claude is paused and has one session under way; codex, of which no price is known, has a budget."""
    claude = Account(name="claude", slots=4, agent="claude")
    codex = Account(name="codex", slots=2, agent="codex", budget=Budget(sessions=5, usd=3.0), window_s=18_000.0)
    lease = Lease(
        lease_id="l",
        account="claude",
        slot=0,
        holder="repository:o/r",
        expires_at=NOW + 30,
        issue_number=1,
        attempt_id="a3",
        granted_at=NOW,
    )
    used = [("claude", 0.016), ("claude", 0.5), ("codex", None)]
    return [
        GovernorClaimed(incarnation="g"),
        AccountsConfigured(accounts=[Account(name="docker", slots=2), claude, codex], sweep="s"),
        *(
            UsageCounted(
                account=name, attempt_id=f"a{n}", at=NOW, sweep="s", input_tokens=2400, output_tokens=84, usd=usd
            )
            for n, (name, usd) in enumerate(used)
        ),
        LeasesGranted(leases=[lease]),
        AccountPaused(account="claude", until=RESET, reason="5-hour limit", attempt_id="a1", reset_at=RESET),
    ]


def state() -> GovernorState:
    found = GovernorState()
    for event in events():
        evolve(found, event)  # type: ignore[arg-type]
    return found


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A log with a sweep that had agents."""
    url = f"sqlite:///{tmp_path}/log.db"
    make(url)
    with open_store(url, write=True) as store:
        new = [new_event(event, f"governor-{number}") for number, event in enumerate(events())]
        store.log.append(Append("governor", 0, new, NOW))
    return url


def test_status_tells_of_each_account_slots_pause_and_what_it_used(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "s", "--store", url, "--json"]) == 0
    claude, codex = json.loads(capsys.readouterr().out)["accounts"]
    assert claude == {
        "account": "claude",
        "agent": "claude",
        "slots": 4,
        "used": 1,
        "paused_until": clock(RESET),
        "paused_why": "5-hour limit",
        "over": False,
        "probing": False,
        "sessions": 2,
        "input_tokens": 4800,
        "output_tokens": 168,
        "usd": 0.516,
        "unpriced_sessions": 0,
        "budget": {},
        "budget_used": {},
        "window_s": 0.0,
    }
    assert (codex["usd"], codex["unpriced_sessions"], codex["paused_until"]) == (0.0, 1, None)
    assert codex["budget"] == {"sessions": 5.0, "usd": 3.0}
    assert codex["budget_used"] == {"sessions": 1.0, "usd": 0.0}


def test_status_says_until_when_all_are_paused_and_nothing_while_one_is_not(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "s", "--store", url]) == 0
    assert "all agents are paused" not in capsys.readouterr().out
    later = AccountPaused(account="codex", until=RESET + 60, reason="usage limit", attempt_id="a2")
    with open_store(url, write=True) as store:
        new = [new_event(later, "later")]
        store.log.append(Append("governor", store.log.head("governor"), new, NOW))
    assert main(["status", "s", "--store", url]) == 0
    assert f"all agents are paused until {clock(RESET)}" in capsys.readouterr().out
    assert main(["status", "s", "--store", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["agents_paused_until"] == clock(RESET)


def test_another_sweep_of_the_same_log_has_used_nothing() -> None:
    lines = account_lines(state(), sweep="another", now=NOW)
    assert [(one.sessions, one.input_tokens, one.used) for one in lines] == [(0, 0, 1), (0, 0, 0)]


def test_the_table_says_what_is_not_known() -> None:
    console = Console(width=200, record=True, file=StringIO())
    console.print(account_table(account_lines(state(), sweep="s", now=NOW)))
    text = console.export_text()
    assert f"until {clock(RESET)}: 5-hour limit" in text
    assert "0.00 + 1 untold" in text
    assert "1 of 5 sessions, 0.00 of 3.00 USD in 5 h" in text


def test_a_pause_that_is_over_is_said_to_wait_for_its_probe() -> None:
    (line, _) = account_lines(state(), sweep="s", now=RESET + 1.0)
    assert (line.over, line.probing) == (True, False)
    console = Console(width=200, record=True, file=StringIO())
    console.print(account_table([line]))
    assert f"until {clock(RESET)}; the next session probes it" in console.export_text()


def shown(capsys: pytest.CaptureFixture[str], now: float) -> str:
    accounts = account_views(state(), now)
    cluster = ClusterInfo(node_id="n", runner_slots=2, dashboard_url="", started_here=True)
    for one in (accounts, accounts[:1]):
        progress = SweepProgress(phase="running", repositories={}, pending=0, active=[], accounts=one)
        ProgressDisplay("s").show(progress, cluster)
    return capsys.readouterr().err


def test_a_running_sweep_says_who_is_paused_and_until_when_all_are(capsys: pytest.CaptureFixture[str]) -> None:
    some, every = shown(capsys, NOW).splitlines()
    assert f"claude is paused until {clock(RESET)} (5-hour limit)" in some
    assert "all agents" not in some, "codex is not"
    assert f"all agents are paused until {clock(RESET)}; what needs none goes on" in every


# ------------------------------------------------------------ which accounts a run has


def settings(**given: object) -> Settings:
    choices = {"store": "memory:", "address": None, "config": None, "workers": None, "dashboard": False}
    return RunChoices(**{**choices, **given}).settings()  # type: ignore[arg-type]


def test_the_option_takes_the_place_of_the_accounts_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "headrace.toml"
    path.write_text('[agents]\nrace = 3\n[[agents.account]]\nname = "work"\nagent = "claude"\n')
    assert [one.name for one in settings(config=path).agents.account] == ["work"]
    found = settings(config=path, agent="claude:4,codex", race=2).agents
    assert found.account == [
        AgentAccount(name="claude", agent="claude", slots=4),
        AgentAccount(name="codex", agent="codex"),
    ]
    assert found.race == 2
    assert settings(config=path, agent="none").agents.account == []


@pytest.mark.parametrize("command", ["resume", "retry"])
def test_a_sweep_that_had_agents_does_not_go_on_without_unless_somebody_says_so(
    command: str, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    went_on: list[Settings] = []

    def stop(settings: Settings) -> None:
        went_on.append(settings)
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "require_engine", stop)
    assert main([command, "s", "--store", url]) == 2
    said = capsys.readouterr().err
    assert "sweep s was run with coding agents (claude:4,codex:2)" in said
    assert "--agent none" in said
    assert not went_on
    assert main([command, "s", "--store", url, "--agent", "none"]) == 130
    assert main([command, "s", "--store", url, "--agent", "codex:3"]) == 130
    assert [[one.slots for one in given.agents.account] for given in went_on] == [[], [3]]


def test_what_is_left_undone_at_a_budget_is_counted_and_said(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert main(["retry", "s", "--store", url, "--agent", "unheard"]) == 2
    assert "--agent='unheard'" in capsys.readouterr().err
    message = "the sweep's budget is reached: 3 of 3 sessions"
    over = SweepProgress(phase="budget", repositories={}, pending=0, active=[], message=message)
    monkeypatch.setattr(running, "require_engine", lambda _: None)
    monkeypatch.setattr(running, "require_agents", lambda _: None)
    monkeypatch.setattr(running, "run_sweep", lambda *_, **__: over)
    (tmp_path / "own settings.toml").write_text("", encoding="utf-8")
    options = ["--config", str(tmp_path / "own settings.toml"), "--agent", "claude:4", "--race", "2"]
    assert main(["retry", "s", "--store", url, *options]) == 1
    said = capsys.readouterr().err
    assert f"{message}: 4 pull requests left undone." in said
    assert f"headrace resume s --store {url} {shlex.join(options)}\n" in said


def test_a_sweep_does_not_start_where_an_account_has_no_program(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(running, "require_engine", lambda _: None)
    monkeypatch.setattr(running, "run_sweep", lambda *_, **__: pytest.fail("it started"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["retry", "s", "--store", url, "--agent", "codex"]) == 3
    said = capsys.readouterr().err
    assert "agent codex: not installed, and an account names it; run: npm install -g @openai/codex@" in said
    assert "`--agent none` goes on without agents" in said


def test_views_of_accounts_survive_the_way_between_actors() -> None:
    views = account_views(state(), NOW)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(views), type=list[type(views[0])]) == views  # type: ignore[misc]
