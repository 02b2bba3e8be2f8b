"""From an order's account to what a session of it is started with: the CLI, its access, its sandbox.

Nothing here costs anything: what is missing (the CLI, a version that works, a key, a home, bubblewrap where it is
required) is an ``EnvironmentNotReady`` that says how to mend it, before a session begins. Values of variables are read
from this process's environment at that moment, and kept nowhere.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec

from actors.agent_settings import AgentAccount, AgentSettings
from actors.agents.adapters import Probe, probe
from actors.agents.base import COMMON_VARIABLES, Access, Adapter
from actors.generation.gate import destinations_of
from actors.generation.sandbox import Sandbox, find_sandbox
from events.errors import EnvironmentNotReady

__all__ = ["Accounts", "Means", "access_of"]

UNPRIVILEGED_PORT = 1024


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """What a session is started with. ``programs``: the CLI's real path, and that of the Node it may run
    with; ``sandbox``: ``None`` where there is none, for the reason in ``unsafe``."""

    account: AgentAccount
    adapter: Adapter
    access: Access
    program: Path
    programs: tuple[Path, ...]
    version: str
    warning: str
    search_path: str
    sandbox: Sandbox | None
    unsafe: str


class Accounts:
    """The accounts of this installation. Threads may share it; a CLI's version is asked for once."""

    def __init__(self, settings: AgentSettings, *, adapters: Mapping[str, Adapter]) -> None:
        self._settings, self._adapters = settings, adapters
        self._probes: dict[tuple[str, int], Probe] = {}
        self._lock = threading.Lock()

    def means(self, name: str) -> Means:
        """What sessions of an account are started with, on this node, now.

        Raises:
            EnvironmentNotReady: something is missing; names it and what mends it.
        """
        account = next((one for one in self._settings.account if one.name == name), None)
        if account is None:
            known = ", ".join(one.name for one in self._settings.account) or "none"
            raise EnvironmentNotReady(f"no agent's account is called {name}; the settings know {known}")
        adapter = self._adapters[account.agent]
        search_path = os.environ.get("PATH", os.defpath)
        access = access_of(account, adapter, environ=os.environ)
        found = self._probed(adapter, search_path=search_path)
        if not found.usable:
            raise EnvironmentNotReady(found.message)
        sandbox, unsafe = self._sandbox(search_path)
        if sandbox is not None and self._settings.network == "public":
            _refuse_low_ports(account, access)
        return Means(
            account=account,
            adapter=adapter,
            access=access,
            program=Path(found.program),
            programs=_real(found.program, shutil.which("node", path=search_path)),
            version=found.version,
            warning=found.message,
            search_path=search_path,
            sandbox=sandbox,
            unsafe=unsafe,
        )

    def _sandbox(self, search_path: str) -> tuple[Sandbox | None, str]:
        if self._settings.sandbox == "off":
            return None, "switched off (agents.sandbox)"
        found = find_sandbox(search_path=search_path)
        if isinstance(found, Sandbox):
            return found, ""
        if self._settings.sandbox == "required":
            raise EnvironmentNotReady(f"agents.sandbox is required: {found}")
        return None, found

    def _probed(self, adapter: Adapter, *, search_path: str) -> Probe:
        program = shutil.which(adapter.program, path=search_path)
        if program is None:
            return probe(adapter, search_path=search_path)
        key = (program, Path(program).stat().st_mtime_ns)
        with self._lock:
            if key not in self._probes or not self._probes[key].usable:
                self._probes[key] = probe(adapter, search_path=search_path)
            return self._probes[key]


def _refuse_low_ports(account: AgentAccount, access: Access) -> None:
    """A sandbox's processes have no privileges: the way to a port of this machine can only be opened from 1024 up."""
    for one in destinations_of(access.environment):
        if one.is_loopback and one.port < UNPRIVILEGED_PORT:
            raise EnvironmentNotReady(
                f"account {account.name}: its base URL leads to port {one.port} of this machine, which a sandbox "
                f'cannot open; serve it on a port from {UNPRIVILEGED_PORT} up, or set agents.network = "host"'
            )


def _real(*programs: str | None) -> tuple[Path, ...]:
    return tuple(Path(program).resolve() for program in programs if program)


def access_of(account: AgentAccount, adapter: Adapter, *, environ: Mapping[str, str]) -> Access:
    """How an account is reached, with the values that this host's environment has.

    An account that names neither variables nor a home has the CLI's own variables, as far as they are set here.

    Raises:
        EnvironmentNotReady: a variable is not set, the home is no folder, or there is nothing to log in with.
    """
    shared = {name: environ[name] for name in COMMON_VARIABLES if name in environ}
    home = Path(account.home).expanduser() if account.home else None
    if home is not None and not home.is_dir():
        raise EnvironmentNotReady(f"account {account.name}: its home {home} is no folder of this node; log in there")
    own = {}
    for name, source in account.env.items():
        if name not in adapter.variables | COMMON_VARIABLES:
            known = ", ".join(sorted(adapter.variables))
            raise EnvironmentNotReady(
                f"account {account.name} may not set {name}; sessions of {adapter.name} have {known}"
            )
        if not environ.get(source):
            raise EnvironmentNotReady(
                f"account {account.name}: {source} is not set on this node; it is wanted for {name}"
            )
        own[name] = environ[source]
    if not own and home is None:
        own = {name: environ[name] for name in adapter.variables if environ.get(name)}
        if not own:
            raise EnvironmentNotReady(
                f"account {account.name}: nothing to log in with; set one of {', '.join(sorted(adapter.variables))}, "
                "or name a home in which somebody logged in"
            )
    return Access(environment={**shared, **own}, home=str(home) if home else None, model=account.model or None)
