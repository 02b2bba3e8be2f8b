"""The coding agents that Headrace knows, which of them are installed, and in which version.

A version is *supported* when its behaviour was measured or lies between measured ones, *newer* when nobody has looked
yet (it is used, with a warning), *too old* when it is known or likely to behave otherwise (it is not used).
"""

from __future__ import annotations

import enum
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from actors.agents.base import Access, Adapter, Launch, Version
from actors.agents.claude import Claude
from actors.agents.codex import Codex
from actors.agents.gemini import Gemini
from actors.agents.process import EndReason, ProcessEnd, Pulse, run_agent
from actors.agents.qwen import Qwen
from events.errors import InputError

__all__ = [
    "ADAPTERS",
    "Access",
    "Adapter",
    "Launch",
    "Probe",
    "Verdict",
    "adapter",
    "detect",
    "install_command",
    "probe",
]

ADAPTERS: dict[str, Adapter] = {known.name: known for known in (Claude(), Codex(), Gemini(), Qwen())}
"""By name, in the order in which an installed one is looked for."""

PROBE_TIMEOUT_S = 30.0
MAX_LINES = 20
VERSION = re.compile(r"(?<![\d.])(\d+)\.(\d+)\.(\d+)")


class Verdict(enum.Enum):
    """What a probe found."""

    SUPPORTED = "supported"
    NEWER = "newer"
    TOO_OLD = "too_old"
    UNKNOWN = "unknown"
    """It is there but does not tell a version."""
    MISSING = "missing"


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """A CLI as it was found. ``message`` says what is wrong and which command mends it; empty if nothing is."""

    agent: str
    verdict: Verdict
    program: str
    version: str
    message: str

    @property
    def usable(self) -> bool:
        """May sessions be started with it?"""
        return self.verdict in (Verdict.SUPPORTED, Verdict.NEWER)


def adapter(name: str) -> Adapter:
    """The adapter of an agent.

    Raises:
        InputError: no such agent.
    """
    try:
        return ADAPTERS[name]
    except KeyError:
        raise InputError(f"no coding agent is called {name}; known are {', '.join(ADAPTERS)}") from None


def install_command(agent: Adapter) -> str:
    """The command that installs the measured version."""
    return f"npm install -g {agent.package}@{'.'.join(map(str, agent.measured))}"


def probe(agent: Adapter, *, search_path: str, timeout_s: float = PROBE_TIMEOUT_S) -> Probe:
    """Looks for a CLI and asks it for its version; the CLI sees nothing of this process's environment or home.

    Args:
        agent: which.
        search_path: where to look, in the form of ``PATH``.
        timeout_s: how long it may take to answer.

    Raises:
        OSError: no temporary folder can be made.
    """
    program = shutil.which(agent.program, path=search_path)
    command = install_command(agent)
    if program is None:
        message = f"{agent.name} is not installed; run: {command}"
        return Probe(agent=agent.name, verdict=Verdict.MISSING, program="", version="", message=message)
    printed, end = _version_output(program, search_path=search_path, timeout_s=timeout_s)
    if end.reason is not EndReason.EXITED or end.exit_code != 0:
        how = end.message or f"{end.reason.value}, exit code {end.exit_code}"
        message = f"{program} --version failed ({how}); run: {command}"
        return Probe(agent=agent.name, verdict=Verdict.UNKNOWN, program=program, version="", message=message)
    found = VERSION.search(printed)
    if found is None:
        message = f"{program} --version prints no version; run: {command}"
        return Probe(agent=agent.name, verdict=Verdict.UNKNOWN, program=program, version="", message=message)
    verdict, message = judge(agent, (int(found[1]), int(found[2]), int(found[3])))
    return Probe(agent=agent.name, verdict=verdict, program=program, version=found[0], message=message)


def judge(agent: Adapter, version: Version) -> tuple[Verdict, str]:
    """What to make of a version, and what to say about it."""
    text = ".".join(map(str, version))
    if version < agent.oldest:
        oldest = ".".join(map(str, agent.oldest))
        message = f"{agent.name} {text} is too old, {oldest} is the oldest that works; run: {install_command(agent)}"
        return Verdict.TOO_OLD, message
    if version > agent.measured:
        message = f"{agent.name} {text} is newer than what was tested; if it misbehaves, run: {install_command(agent)}"
        return Verdict.NEWER, message
    return Verdict.SUPPORTED, ""


def detect(*, search_path: str | None = None, agents: Sequence[Adapter] = tuple(ADAPTERS.values())) -> Probe | None:
    """The first agent that is installed and usable, in the order claude, codex, gemini, qwen; ``None``: none is.

    Args:
        search_path: where to look; ``None``: this process's ``PATH``.
        agents: which, in order.
    """
    path = os.environ.get("PATH", os.defpath) if search_path is None else search_path
    return next((found for found in (probe(agent, search_path=path) for agent in agents) if found.usable), None)


def _version_output(program: str, *, search_path: str, timeout_s: float) -> tuple[str, ProcessEnd]:
    printed: list[str] = []

    def on_line(stream: str, line: str) -> Pulse:
        if stream == "out" and len(printed) < MAX_LINES:
            printed.append(line)
        return Pulse.NOTHING

    with tempfile.TemporaryDirectory(prefix="headrace-probe-") as folder:
        home = Path(folder)
        environment = {"PATH": search_path, "HOME": folder, "TMPDIR": folder, "TERM": "dumb", "LANG": "C.UTF-8"}
        end = run_agent(
            [program, "--version"],
            cwd=home,
            environment={**environment, "DISABLE_AUTOUPDATER": "1"},
            prompt=b"",
            wall_s=timeout_s,
            idle_s=timeout_s,
            on_line=on_line,
            transcript=home / "transcript",
            max_transcript_bytes=10_000,
            cancel=threading.Event(),
            grace_s=0.5,
        )
    return "\n".join(printed), end
