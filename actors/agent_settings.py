"""Settings of coding agents: which accounts there are, and what one session may use (``[agents]`` in the file)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

__all__ = ["AGENTS", "AgentAccount", "AgentSettings"]

AGENTS = ("claude", "codex", "gemini", "qwen")
"""The backends, in the order in which an installed one is looked for."""

Amount = Annotated[int, Meta(ge=0, le=10**15)]
Money = Annotated[float, Meta(ge=0, le=10**9)]


class AgentAccount(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One account of a backend: something with slots and a limit of its own (``[[agents.account]]``).

    ``env``: variables of a session by the names of this host's variables that hold their values; values themselves
    never stand in files or in the log. ``home``: a home folder in which somebody logged in with the CLI; empty: a
    fresh one. The ``max_*`` are budgets of ``window_s`` seconds (0: of the whole sweep); 0: none.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_.:-]{0,63}$")]
    agent: Literal["claude", "codex", "gemini", "qwen"]
    slots: Annotated[int, Meta(ge=1, le=1000)] = 1
    model: str = ""
    home: str = ""
    env: dict[str, str] = {}
    max_sessions: Amount = 0
    max_tokens: Amount = 0
    max_usd: Money = 0.0
    window_s: Annotated[float, Meta(ge=0, le=366 * 86400)] = 0.0


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What sessions may use. Without an account no agent is started."""

    account: list[AgentAccount] = msgspec.field(default_factory=list)
    wall_s: Annotated[float, Meta(gt=0, le=86400)] = 3600.0
    """Wall clock of one session."""
    idle_s: Annotated[float, Meta(ge=30, le=86400)] = 300.0
    """A session that does nothing for so long is ended."""
    max_verifications: Annotated[int, Meta(ge=0, le=1000)] = 10
    """How often an agent may ask for a verdict in one session."""
    sandbox: Literal["auto", "off", "required"] = "auto"
    """Bubblewrap: where it works, never, or no session without it."""
    network: Literal["public", "host"] = "public"
    """What a sandboxed session reaches: the Internet only, or all that this host does."""
    race: Annotated[int, Meta(ge=1, le=16)] = 1
    """Accounts that work on one hard pull request at once."""
    max_sessions: Amount = 0
    """Budgets of the whole sweep; 0: none."""
    max_tokens: Amount = 0
    max_usd: Money = 0.0
