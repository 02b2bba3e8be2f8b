"""Whole sweeps in which coding agents work: their accounts, a package that only an agent can build, and its builders.

Each commit of the package is of an *environment*, a word that the build has to be given; no template knows it. So a
context that was written for one commit builds exactly the commits of its environment.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from actors.agent_settings import AgentAccount
from actors.agents.leftovers import SESSION_VARIABLE
from actors.generation.cage import end_group
from events.records import PrRecord
from events.types import (
    AccountPaused,
    AccountProbed,
    AccountReopened,
    AttemptFailed,
    AttemptInterrupted,
    AttemptRateLimited,
    AttemptStarted,
    AttemptSucceeded,
    Event,
    LeasesExpired,
    LeasesGranted,
    LeasesReleased,
    UsageCounted,
)
from events.work import SessionReport, Stage
from tests.actors.harness import check_events, descendants, fold_repositories
from tests.agents.models import AnthropicServer, Json, ResponsesServer, unified_headers
from tests.agents.real import access_of
from tests.engine_fixtures import GitProject
from tests.sweeps.bench import SweepBench, little

__all__ = [
    "BUILD",
    "SESSION",
    "AgentBench",
    "OneSession",
    "TurnedAway",
    "needing",
    "writing_first_a_broken_script",
]

SESSION = r"spool/([0-9A-Za-z_.%-]+)/session"
"""What tells the conversations of two sessions apart, whatever pull request they are on."""

SETUP = """\
import os
from setuptools import setup
NEEDED = "{environment}"
if os.environ.get("LITTLE_ENVIRONMENT") != NEEDED:
    raise SystemExit("fatal error: LITTLE_ENVIRONMENT has to be " + NEEDED)
setup()
"""

_SCRIPT = (
    "set -eu\\ncd /workspace/repo\\nexport LITTLE_ENVIRONMENT={}\\npython -m pip install --no-deps --editable .\\n"
)
_WRITE = f"head -n 1 | xargs -I{{}} printf '{_SCRIPT}' > docker_build_pkg.sh"
"""Without ``$(…)``, which Gemini CLI refuses to run."""
BUILD = rf"""sed -n 's/^NEEDED = "\(.*\)"/\1/p' repo/setup.py | {_WRITE}"""
"""Shell that writes the script which builds the commit in ``repo/``."""
_FAIL = f"echo nothing | {_WRITE}"
"""Shell that writes one which fails, and whose error names what is missing."""
_MEND = rf"./verify --log build | sed -n 's/.*LITTLE_ENVIRONMENT has to be \([a-z]*\).*/\1/p' | {_WRITE}"
"""Shell that writes the script which builds, by what the failed build's log says and nothing else."""


def writing_first_a_broken_script() -> Json:
    """A model that writes a broken script, reads the failure through ``verify``, and mends it."""
    return {
        "session": SESSION,
        "turns": [
            {"run": f"{_FAIL} && ./verify"},
            {"say": "It names what is missing.", "run": f"{_MEND} && ./verify"},
            {"say": "done"},
        ],
    }


def needing(version: int, environment: str) -> dict[str, str]:
    """The files of one commit of a small package that builds in ``environment`` only."""
    return {**little(version), "setup.py": SETUP.format(environment=environment)}


class TurnedAway(AnthropicServer):
    """Turns its account away for ``limit_s`` seconds from the first question on, and says when that is over."""

    limit_s = 90.0
    reset_at = 0

    def take(self, *, conversation: str, raw: str) -> Json:
        """See ``ModelServer``."""
        self.reset_at = self.reset_at or int(time.time() + self.limit_s)
        if time.time() >= self.reset_at:
            return super().take(conversation=conversation, raw=raw)
        error = {"type": "error", "error": {"type": "rate_limit_error", "message": "as scripted"}}
        return {"status": 429, "error": error, "headers": unified_headers("rejected", reset=self.reset_at)}


class OneSession(ResponsesServer):
    """Serves one session; its account has met a limit of a day for every other."""

    first = ""

    def take(self, *, conversation: str, raw: str) -> Json:
        """See ``ModelServer``."""
        found = re.search(SESSION, raw)
        session = found[1] if found else conversation
        self.first = self.first or session
        if session == self.first:
            return super().take(conversation=conversation, raw=raw)
        error = {"type": "usage_limit_reached", "message": "as scripted", "resets_at": int(time.time() + 86400)}
        return {"status": 429, "error": {"error": {**error, "plan_type": "plus"}}}


class AgentBench(SweepBench):
    """A sweep with accounts of coding agents; see ``SweepBench``."""

    def __init__(self, folder: Path, *, cache_dir: Path, programs: Path, name: str = "s") -> None:
        super().__init__(folder, cache_dir=cache_dir, name=name)
        self.environment["PATH"] = f"{programs}:{os.environ['PATH']}"
        self.environment["HEADRACE_CASCADE_RL_PAUSE_JITTER_S"] = "0"
        self._accounts: list[AgentAccount] = []

    def add_account(self, agent: str, url: str, *, slots: int = 1, oauth: bool = False, name: str = "") -> None:
        """An account of ``agent`` on a scripted server."""
        name = name or agent
        access = access_of(agent, url, oauth=oauth)
        variables = {one: f"BENCH_{name.upper().replace(':', '_')}_{one}" for one in access.environment}
        self.environment |= {variables[one]: value for one, value in access.environment.items()}
        given = {"name": name, "agent": agent, "slots": slots, "env": variables}
        self._accounts.append(msgspec.convert(given, AgentAccount))

    def configure(self, **agents: object) -> None:
        """Writes the settings file: the accounts, and ``[agents]``."""
        given = {"wall_s": 240.0, "idle_s": 60.0, **agents}
        lines = ["[agents]", *(f"{key} = {json.dumps(value)}" for key, value in given.items())]
        for one in self._accounts:
            env = ", ".join(f"{key} = {json.dumps(value)}" for key, value in one.env.items())
            lines += ["[[agents.account]]", f'name = "{one.name}"', f'agent = "{one.agent}"']
            lines += [f"slots = {one.slots}", f"env = {{ {env} }}"]
        (self.folder / "headrace.toml").write_text("\n".join(lines) + "\n")

    def write_environments(self, **repositories: Sequence[str]) -> None:
        """The timeline: of each repository one pull request a day, each of the environment that is named for it."""
        rows = []
        for name, environments in repositories.items():
            project = GitProject(self.folder / name)
            commits = [project.commit(needing(n, one)) for n, one in enumerate(environments, 1)]
            rows += [self.row(project, n, one) for n, one in enumerate(commits, 1)]
        self.write(rows)

    # ------------------------------------------------------------ killing, and letting go

    def kill(self, title: str) -> None:
        """SIGKILLs the process of this sweep whose title begins so."""
        assert self.process is not None
        os.kill(next(pid for pid, name in descendants(self.process.pid) if name.startswith(title)), signal.SIGKILL)

    def kill_runner_of(self, pid: int) -> None:
        """SIGKILLs the runner below which process ``pid`` runs."""
        assert self.process is not None
        runners = [one for one, name in descendants(self.process.pid) if name.startswith("ray::AgentRunner")]
        os.kill(next(one for one in runners if pid in dict(descendants(one))), signal.SIGKILL)

    def kill_everything_but(self, pids: Collection[int]) -> None:
        """SIGKILLs the command and all processes below it at once, supervisors of sessions too; not ``pids``, which
        are an agent's."""
        assert self.process is not None
        doomed = [self.process.pid, *(pid for pid, _ in descendants(self.process.pid) if pid not in pids)]
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in doomed:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        self.process.communicate()

    def let_go(self) -> None:
        """Makes the file for which a session under way waits."""
        spools = Path(self.environment["HEADRACE_SWEEP_CACHE_DIR"]) / "spool"
        for one in self.sessions():
            workspace = spools / one.attempt_id / "session" / "workspace"
            if workspace.is_dir():
                (workspace / "go").touch()

    def left_of_sessions(self) -> list[str]:
        """What of any session still runs: by the mark in its environment, or by its control group, which ends it."""
        log_id = self.log_id()
        marked = f"{SESSION_VARIABLE}={log_id}:".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                found += [str(entry.parent)] if marked in entry.read_bytes() else []
        return found + [one.attempt_id for one in self.sessions() if end_group(f"{log_id}:{one.attempt_id}.")]

    # ------------------------------------------------------------ what the log says

    def of(self, kind: type[Event]) -> list[Event]:
        """The events of a type."""
        return [one for _, one in self.events() if isinstance(one, kind)]

    def sessions(self) -> list[AttemptStarted]:
        """The sessions that were started."""
        return [one for one in self.of(AttemptStarted) if isinstance(one, AttemptStarted) and one.account]

    def reports(self) -> dict[str, SessionReport]:
        """How the sessions ended that told of it, by attempt."""
        found: dict[str, SessionReport | None] = {}
        for _, one in self.events():
            if isinstance(one, AttemptSucceeded | AttemptFailed):
                found[one.attempt_id] = one.outcome.session
            elif isinstance(one, AttemptRateLimited | AttemptInterrupted):
                found[one.attempt_id] = one.session
        return {attempt: report for attempt, report in found.items() if report is not None}

    def pull_requests(self) -> list[PrRecord]:
        """Those of all repositories, as the log has them."""
        return [pr for one in fold_repositories(self.events()) for pr in one.of_sweep(self.name)]

    def ways(self) -> Counter[Stage]:
        """How many pull requests each stage verified."""
        return Counter(pr.verified_by for pr in self.pull_requests() if pr.verified_by is not None)

    def status(self) -> dict[str, Any]:
        """What ``headrace status --json`` prints."""
        found: dict[str, Any] = json.loads(self.run("status", self.name, "--store", self.store, "--json")[1])
        return found

    def grants_of(self, account: str) -> list[str]:
        """What happened to an account, in its order: ``granted``, once a session, ``paused``, ``probed``, ``reopened``;
        pauses that only prolong one are left out."""
        found: list[str] = []
        for _, event in self.events():
            match event:
                case LeasesGranted():
                    found += ["granted" for one in event.leases if one.account == account]
                case AccountPaused(account=name) | AccountProbed(account=name) | AccountReopened(account=name):
                    if name == account:
                        found.append(type(event).__name__.removeprefix("Account").lower())
        return [one for at, one in enumerate(found) if not (one == "paused" and at and found[at - 1] == "paused")]

    def check(self) -> None:
        """What holds of every log of a sweep with agents that is over, whatever was killed on the way."""
        events = self.events()
        check_events(events)
        started = {one.attempt_id for _, one in events if isinstance(one, AttemptStarted) and one.account}
        counted = Counter(one.attempt_id for _, one in events if isinstance(one, UsageCounted))
        assert counted == Counter(dict.fromkeys(started, 1)), "each session is counted once"
        self.check_leases(events)

    def check_leases(self, events: Sequence[tuple[str, Event]]) -> None:
        """No slot is ever granted to two, no account beyond its capacity, and nothing is out at the end."""
        slots = {one.name: one.slots for one in self._accounts}
        out: dict[str, tuple[str, int]] = {}
        for _, event in events:
            if isinstance(event, LeasesGranted):
                for lease in event.leases:
                    assert (lease.account, lease.slot) not in out.values(), f"{lease.account}: a slot is granted twice"
                    out[lease.lease_id] = (lease.account, lease.slot)
                for account, most in slots.items():
                    assert sum(name == account for name, _ in out.values()) <= most, f"{account}: beyond its capacity"
            elif isinstance(event, LeasesReleased | LeasesExpired):
                for lease_id in event.lease_ids:
                    del out[lease_id]
        assert not out, f"leases are out at the end: {out}"
