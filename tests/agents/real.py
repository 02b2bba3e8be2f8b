"""Runs the real CLIs against scripted model servers: scenarios, and the pool in which they run side by side."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from actors.agents.adapters import ADAPTERS
from actors.agents.base import Access, Event, Final, Retry
from actors.agents.session import SessionEnd, SessionLimits, run_session
from tests.agents.models import SERVERS, Json, ModelServer

__all__ = ["FILE", "KEY", "WRITE", "Outcome", "Scenario", "access_of", "install_programs", "play"]

KEY = "dummy-key-of-the-tests"
FILE = "task/docker_build_pkg.sh"
WRITE: Json = {
    "turns": [
        {"say": "I will write the script.", "run": f"mkdir -p task && printf 'set -eu\\n' > {FILE}"},
        {"say": "done"},
    ]
}


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One session. ``script`` is called when it starts, because some scripts hold times."""

    agent: str
    name: str
    script: Callable[[], Json]
    oauth: bool = False
    limits: SessionLimits = SessionLimits(wall_s=60, idle_s=40, tool_idle_s=40, patience_s=4)

    def __str__(self) -> str:
        return f"{self.agent}: {self.name}"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a scenario came to. Times in seconds since the start; ``first_sign_s``: when the CLI first told of it."""

    end: SessionEnd
    events: list[Event]
    first_sign_s: float
    last_event_s: float
    ended_s: float
    wrote: bool
    requests: int
    transcript: str


def install_programs() -> Path:
    """The folder of the pinned programs, installed on first use."""
    cache = Path(os.environ.get("HEADRACE_TEST_CACHE") or Path("~/.cache/headrace-tests").expanduser())
    script = Path(__file__).parents[2] / "scripts" / "install_agents.sh"
    environment = {**os.environ, "HEADRACE_TEST_CACHE": str(cache)}
    subprocess.run(["bash", str(script)], env=environment, check=True, stdin=subprocess.DEVNULL)
    return cache / "agents" / "bin"


def access_of(agent: str, url: str, *, oauth: bool = False) -> Access:
    """An account on a scripted server."""
    match agent:
        case "claude":
            key = "CLAUDE_CODE_OAUTH_TOKEN" if oauth else "ANTHROPIC_API_KEY"
            return Access(environment={"ANTHROPIC_BASE_URL": url, key: KEY})
        case "gemini":
            return Access(environment={"GOOGLE_GEMINI_BASE_URL": url, "GEMINI_API_KEY": KEY})
    return Access(environment={"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": KEY})


def play(
    scenario: Scenario,
    *,
    programs: Path,
    folder: Path,
    more: dict[str, str] | None = None,
    prompt: str = "Write the script, as you are told in AGENTS.md.",
    server: ModelServer | None = None,
) -> Outcome:
    """Runs a scenario in a folder of its own. ``more``: further variables of the account."""
    agent = ADAPTERS[scenario.agent]
    workspace, home = folder / "workspace", folder / "home"
    workspace.mkdir(parents=True)
    events: list[Event] = []
    signs: list[float] = []
    times = [time.monotonic()]

    def on_event(event: Event) -> None:
        events.append(event)
        times.append(time.monotonic())
        if isinstance(event, Retry | Final):
            signs.append(times[-1])

    with server or SERVERS[scenario.agent](scenario.script()) as model:
        access = access_of(scenario.agent, model.url, oauth=scenario.oauth)
        access = msgspec.structs.replace(access, environment={**access.environment, **(more or {})})
        launch = agent.launch(
            access, program=programs / agent.program, search_path=f"{programs}:/usr/bin:/bin", home=home
        )
        began = time.monotonic()
        end = run_session(
            agent,
            launch,
            workspace=workspace,
            home=home,
            prompt=prompt,
            limits=scenario.limits,
            transcript=folder / "transcript",
            cancel=threading.Event(),
            on_event=on_event,
        )
        ended = time.monotonic()
        requests = len(model.model_calls)
    return Outcome(
        end=end,
        events=events,
        first_sign_s=(signs[0] if signs else ended) - began,
        last_event_s=times[-1] - began,
        ended_s=ended - began,
        wrote=(workspace / FILE).is_file(),
        requests=requests,
        transcript=(folder / "transcript").read_text(encoding="utf-8"),
    )
