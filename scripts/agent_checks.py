"""The part of ``headrace doctor`` about coding agents: CLIs, accounts, the sandbox, limits of sessions.

No agent is asked anything that costs money: a CLI *answers* when it tells its version. An agent that no account names
may be missing; one that an account names may not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from actors.agent_settings import AgentAccount, AgentSettings
from actors.agents.adapters import ADAPTERS, Probe, Verdict, install_command, probe
from actors.agents.base import Adapter
from actors.generation.accounts import access_of
from actors.generation.cage import unlimited
from actors.generation.sandbox import INSTALL, Sandbox, find_sandbox
from events.errors import EnvironmentNotReady
from scripts.findings import Finding, fail, ok, warn

__all__ = ["agent_findings"]


def agent_findings(
    settings: AgentSettings,
    *,
    environ: Mapping[str, str] | None = None,
    agents: Mapping[str, Adapter] = ADAPTERS,
) -> list[Finding]:
    """What is to be said about coding agents: one finding a CLI, one an account, the sandbox, the limits.

    Args:
        settings: those of the run that is to be made.
        environ: where keys and programs are looked for; ``None``: this process's environment.
        agents: the CLIs.
    """
    environ = os.environ if environ is None else environ
    search_path = environ.get("PATH", os.defpath)
    with ThreadPoolExecutor(len(agents)) as pool:
        probes = list(pool.map(lambda one: probe(one, search_path=search_path), agents.values()))
    wanted = {account.agent for account in settings.account}
    findings = [_agent(found, agents[found.agent], wanted=found.agent in wanted) for found in probes]
    findings += [_account(account, agents[account.agent], environ) for account in settings.account]
    return [*findings, _sandbox(settings, search_path=search_path), _limits(settings)]


def _agent(found: Probe, adapter: Adapter, *, wanted: bool) -> Finding:
    name, mend = f"agent {found.agent}", f"run: {install_command(adapter)}"
    match found.verdict:
        case Verdict.SUPPORTED:
            return ok(name, f"{found.version} at {found.program}, answers")
        case Verdict.NEWER:
            seen = f"{found.version} at {found.program}, answers; nobody has tested it yet"
            return warn(name, seen, mend=f"if it misbehaves, {mend}")
        case Verdict.MISSING if not wanted:
            return ok(name, f"not installed; only sessions of it need it ({mend})")
        case Verdict.MISSING:
            return fail(name, "not installed, and an account names it", mend=mend)
        case Verdict.TOO_OLD:
            seen = f"{found.version} at {found.program} is too old"
        case Verdict.UNKNOWN:
            seen = f"{found.program} does not answer ({found.message.rpartition('; run:')[0]})"
    return fail(name, seen, mend=mend) if wanted else warn(name, seen, mend=mend)


def _account(account: AgentAccount, adapter: Adapter, environ: Mapping[str, str]) -> Finding:
    name = f"account {account.name}"
    try:
        access = access_of(account, adapter, environ=environ)
    except EnvironmentNotReady as exc:
        return fail(name, exc.message, mend="set it where Headrace is started, or correct [[agents.account]]")
    own = sorted(set(access.environment) & adapter.variables)
    login = [f"home {access.home}"] if access.home else []
    login += [f"variables {', '.join(own)}"] if own else []
    return ok(name, f"{account.agent}, {account.slots} slots, {' and '.join(login)}")


def _sandbox(settings: AgentSettings, *, search_path: str) -> Finding:
    name, open_wide = "agents' sandbox", "agents can read and change what this user can"
    if settings.sandbox == "off":
        return warn(name, f"switched off: {open_wide}", mend="set agents.sandbox to auto")
    found = find_sandbox(search_path=search_path)
    if isinstance(found, Sandbox):
        return _working(found, settings)
    if settings.sandbox == "required":
        return fail(name, found, mend=f"run: {INSTALL}; or set agents.sandbox to auto")
    if not settings.account:
        return ok(name, f"{found}; only sessions of agents need it")
    return warn(name, f"{found}; {open_wide}", mend=f"run: {INSTALL}")


def _working(sandbox: Sandbox, settings: AgentSettings) -> Finding:
    name, seen = "agents' sandbox", f"bubblewrap {sandbox.version}"
    if settings.network == "host":
        seen += ", but agents reach all that this host reaches"
        return warn(name, seen, mend="set agents.network to public")
    if sandbox.missing:
        return warn(name, f"{seen}: {sandbox.missing}", mend="install a newer bubblewrap (0.8 or later)")
    return ok(name, f"{seen}, network: the Internet only")


def _limits(settings: AgentSettings) -> Finding:
    absent = unlimited()
    if not absent:
        return ok("agents' limits", "processes, memory, disk")
    seen = f"{' and '.join(absent)} of a session cannot be limited: no control groups can be made here"
    if not settings.account:
        return ok("agents' limits", seen)
    return warn("agents' limits", seen, mend="run as root where /sys/fs/cgroup can be written")
