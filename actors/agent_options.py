"""Accounts of coding agents as people write them: ``--agent claude:4,codex:2``, or ``[[agents.account]]`` in the file.

What is wrong is refused before anything starts, naming the account, the field and what it must be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from actors.agent_settings import AGENTS, AgentAccount, AgentSettings
from events.errors import SettingError
from events.governor import KIND_AGENTS, RUNNERS
from events.types import Account, Budget

__all__ = ["account_of", "accounts_from_option", "budget_of", "checked_accounts", "described"]

NONE = "none"
RESERVED = (RUNNERS, KIND_AGENTS)
_HELP = f"`none`, or backends with their sessions at once, such as claude:4,codex:2 (known: {', '.join(AGENTS)})"


def accounts_from_option(text: str) -> list[AgentAccount]:
    """The accounts that ``--agent TEXT`` asks for, each with the defaults of its backend; none for ``none``.

    Raises:
        SettingError: it is neither.
    """
    if text.strip() == NONE:
        return []
    found: list[AgentAccount] = []
    for part in text.split(","):
        name, colon, slots = part.strip().partition(":")
        if name not in AGENTS or (colon and not re.fullmatch(r"[1-9][0-9]{0,2}|1000", slots)):
            raise SettingError(name="--agent", value=text, expected=_HELP, source="command line")
        if any(one.name == name for one in found):
            expected = f"{_HELP}; {name} is there twice: add its slots up, or name two accounts in [[agents.account]]"
            raise SettingError(name="--agent", value=text, expected=expected, source="command line")
        found.append(AgentAccount(name=name, agent=name, slots=int(slots or 1)))  # type: ignore[arg-type]
    return found


def checked_accounts(value: object, *, label: str, source: str) -> list[AgentAccount]:
    """``value``, from a file or a variable, as accounts with different names.

    Raises:
        SettingError: naming the account and the field that is wrong.
    """
    if not isinstance(value, list):
        raise SettingError(name=label, value=str(value), expected="a list of tables [[agents.account]]", source=source)
    found: list[AgentAccount] = []
    for index, given in enumerate(value):
        name = str(given.get("name", index)) if isinstance(given, dict) else str(index)
        one = given if isinstance(given, AgentAccount) else _account(given, f"{label}[{name}]", source)
        if one.name in RESERVED:
            expected = f"another name: Headrace itself uses {' and '.join(RESERVED)}"
            raise SettingError(name=f"{label}[{name}].name", value=one.name, expected=expected, source=source)
        if any(other.name == one.name for other in found):
            expected = "a name that no other account has; give each [[agents.account]] its own"
            raise SettingError(name=f"{label}[{index}].name", value=one.name, expected=expected, source=source)
        found.append(one)
    return found


def _account(given: object, label: str, source: str) -> AgentAccount:
    if not isinstance(given, dict):
        raise SettingError(name=label, value=str(given), expected="a table with name and agent", source=source)
    hints: dict[str, Any] = get_type_hints(AgentAccount, include_extras=True)
    for field, value in given.items():
        where = f"{label}.{field}"
        if field not in hints:
            known = ", ".join(hints)
            raise SettingError(
                name=where, value=str(value), expected=f"one of the known names ({known})", source=source
            )
        try:
            msgspec.convert(value, hints[field])
        except msgspec.ValidationError as exc:
            raise SettingError(name=where, value=str(value), expected=_EXPECTED[field], source=source) from exc
    for field in ("name", "agent"):
        if field not in given:
            raise SettingError(name=f"{label}.{field}", value="", expected=_EXPECTED[field], source=source)
    one = msgspec.convert(given, AgentAccount)
    home = str(Path(one.home).expanduser().resolve()) if one.home else ""  # other processes have other working folders
    return msgspec.structs.replace(one, home=home)


_EXPECTED = {
    "name": "a name of small letters, digits and `_ . : -`, at most 64, beginning with a letter or digit",
    "agent": "one of " + ", ".join(AGENTS),
    "slots": "an integer from 1 to 1000",
    "model": "a string",
    "home": "the path of a folder",
    "env": "a table: variables of the session, each by the name of this host's variable that holds its value",
    "max_sessions": "an integer from 0 to 10^15; 0: no budget",
    "max_tokens": "an integer from 0 to 10^15; 0: no budget",
    "max_usd": "a number from 0 to 10^9; 0: no budget",
    "window_s": "seconds from 0 to 31622400 (a year); 0: the whole sweep",
}


def account_of(one: AgentAccount) -> Account:
    """An account as the governor keeps it."""
    return Account(
        name=one.name,
        slots=one.slots,
        agent=one.agent,
        budget=Budget(sessions=one.max_sessions, tokens=one.max_tokens, usd=one.max_usd),
        window_s=one.window_s,
    )


def budget_of(settings: AgentSettings) -> Budget:
    """The budget of the whole sweep."""
    return Budget(sessions=settings.max_sessions, tokens=settings.max_tokens, usd=settings.max_usd)


def described(accounts: Sequence[AgentAccount]) -> str:
    """Accounts in few words: ``claude:4, codex:2``."""
    return ", ".join(f"{one.name}:{one.slots}" for one in accounts)
