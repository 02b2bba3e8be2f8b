"""Which coding agent a run may pay, and how that gets into the settings of a sweep."""

from __future__ import annotations

import os

import msgspec

from actors.agent_settings import AGENTS, AgentAccount
from actors.agents.adapters import adapter, detect, probe
from actors.api.verifying import ContextVerifier, can_generate
from actors.settings import Settings
from actors.workbench import Workbench
from events.errors import EnvironmentNotReady, InputError

__all__ = ["NONE", "check_agent", "chosen_agent", "with_agent"]

NONE = "none"


def check_agent(agent: str | None) -> None:
    """Refuses the name of an agent that there is not.

    Raises:
        InputError: it is none of those that there are, nor ``none``.
    """
    if agent not in (None, NONE, *AGENTS):
        raise InputError(f"agent={agent!r}: no such coding agent; known are {', '.join(AGENTS)} and none")


def chosen_agent(
    agent: str | None, verifier: ContextVerifier | Workbench | None, *, search_path: str | None = None
) -> str | None:
    """The agent whose sessions may be paid, or ``None``.

    Args:
        agent: a name; ``"none"``; ``None``: the first that is installed.
        verifier: what is used instead of the engine. If it makes contexts itself no CLI is looked for; if it only
            judges, there is nobody to hold a session with.
        search_path: where to look for CLIs; ``None``: this process's ``PATH``.

    Raises:
        EnvironmentNotReady: the agent that was named is not installed, or too old; says how to mend it.
    """
    if agent == NONE or (verifier is not None and not can_generate(verifier)):
        return None
    if verifier is not None:
        return agent or AGENTS[0]
    if agent is None:
        found = detect(search_path=search_path)
        return found.agent if found is not None else None
    path = os.environ.get("PATH", os.defpath) if search_path is None else search_path
    looked = probe(adapter(agent), search_path=path)
    if not looked.usable:
        raise EnvironmentNotReady(f"agent={agent!r}: {looked.message}")
    return agent


def with_agent(settings: Settings, agent: str | None, *, slots: int) -> Settings:
    """``settings`` with one account of ``agent``, unless they have accounts already; ``slots``: sessions at once."""
    known = getattr(settings, "agents", None)
    if agent is None or known is None or known.account:
        return settings
    account = msgspec.convert({"name": agent, "agent": agent, "slots": slots}, AgentAccount)
    return msgspec.structs.replace(settings, agents=msgspec.structs.replace(known, account=[account]))
