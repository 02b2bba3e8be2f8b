"""Which coding agents a run may pay: accounts, from the settings or made for a CLI that is installed."""

from __future__ import annotations

import os

import msgspec

from actors.agent_options import accounts_from_option
from actors.agent_settings import AGENTS, AgentAccount
from actors.agents.adapters import adapter, detect, probe
from actors.api.verifying import ContextVerifier, can_generate
from actors.settings import Settings
from actors.workbench import Workbench
from events.errors import EnvironmentNotReady, InputError

__all__ = ["NONE", "check_agent", "chosen_accounts", "with_accounts"]

NONE = "none"


def check_agent(agent: str | None) -> None:
    """Refuses the name of an agent that there is not.

    Raises:
        InputError: it is none of those that there are, nor ``none``.
    """
    if agent not in (None, NONE, *AGENTS):
        raise InputError(f"agent={agent!r}: no such coding agent; known are {', '.join(AGENTS)} and none")


def chosen_accounts(
    agent: str | None,
    *,
    settings: Settings,
    verifier: ContextVerifier | Workbench | None = None,
    slots: int = 1,
    search_path: str | None = None,
) -> list[AgentAccount]:
    """The accounts whose sessions may be paid; none if there are none.

    Args:
        agent: a name: its accounts in the settings, or else one of ``slots`` sessions at once with the CLI's defaults;
            ``"none"``; ``None``: all accounts in the settings, or else one of the first CLI that is installed.
        settings: of the run.
        verifier: what is used instead of the engine. If it makes contexts itself no CLI is looked for; if it only
            judges, there is nobody to hold a session with.
        slots: sessions at once of an account that is made here.
        search_path: where to look for CLIs; ``None``: this process's ``PATH``.

    Raises:
        EnvironmentNotReady: the agent that was named is not installed, or too old; says how to mend it.
    """
    if agent == NONE or (verifier is not None and not can_generate(verifier)):
        return []
    configured = [one for one in settings.agents.account if agent in (None, one.agent)]
    if configured:
        return configured
    if verifier is not None:
        return accounts_from_option(f"{agent or AGENTS[0]}:{min(slots, 1000)}")
    if agent is None:
        found = detect(search_path=search_path)
        return [] if found is None else accounts_from_option(f"{found.agent}:{min(slots, 1000)}")
    path = os.environ.get("PATH", os.defpath) if search_path is None else search_path
    looked = probe(adapter(agent), search_path=path)
    if not looked.usable:
        raise EnvironmentNotReady(f"agent={agent!r}: {looked.message}")
    return accounts_from_option(f"{agent}:{min(slots, 1000)}")


def with_accounts(settings: Settings, accounts: list[AgentAccount]) -> Settings:
    """``settings`` in which these accounts, and no others, may be paid."""
    return msgspec.structs.replace(settings, agents=msgspec.structs.replace(settings.agents, account=accounts))
