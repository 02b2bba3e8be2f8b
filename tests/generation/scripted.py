"""A coding agent that runs one shell script, and a judge that decides by a word: for sessions without model or engine.

The agent speaks Claude Code's stream, so that the real adapter, session and supervisor are what is tested.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

import msgspec

from actors.agent_settings import AgentAccount, AgentSettings
from actors.generation.cage import Limits
from actors.generation.generator import Generator
from actors.generation.workspace import INTERPRETER
from actors.templates import stock_context
from events.work import FailureClass, Level, Outcome, PullRequest, Stage, VerificationRules, WorkOrder
from store.blobs import MemoryBlobs
from store.docker_context import DockerContext
from store.sources import Sources
from tests.engine_fixtures import GitProject

__all__ = ["KEY", "ScriptedJudge", "Stand", "write_agent"]

KEY = "sk-test-0123456789abcdef"

PROGRAM = '''\
#!{interpreter} -IS
"""A scripted coding agent."""
import json
import subprocess
import sys

if "--version" in sys.argv:
    print("2.1.330 (scripted)")
    sys.exit(0)


def say(**record):
    print(json.dumps(record), flush=True)


prompt = sys.stdin.read()
say(type="system", subtype="init", session_id="session-1", model="scripted-1", claude_code_version="2.1.330")
use = {{"type": "tool_use", "id": "t1", "name": "Bash", "input": {{"command": "the script"}}}}
usage = {{"input_tokens": 100, "output_tokens": 5}}
say(type="assistant", message={{"id": "m1", "model": "scripted-1", "content": [use], "usage": usage}})
done = subprocess.run(["/bin/bash", "-c", {script!r}], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                      stderr=subprocess.STDOUT, text=True, errors="replace")
result = {{"type": "tool_result", "tool_use_id": "t1", "is_error": done.returncode != 0, "content": done.stdout}}
say(type="user", message={{"content": [result]}})
for line in {lines!r}:
    print(line, flush=True)
if {final}:
    say(type="result", subtype="success", is_error=False, result="done", total_cost_usd=0.25,
        usage={{"input_tokens": 200, "output_tokens": 10, "cache_read_input_tokens": 50}},
        modelUsage={{"scripted-1": {{"costUSD": 0.25}}}})
sys.exit({exit_code})
'''


def write_agent(
    folder: Path, script: str, *, final: bool = True, exit_code: int = 0, lines: tuple[str, ...] = ()
) -> Path:
    """Writes the program ``claude`` that runs ``script`` with bash, prints ``lines``, and ends."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "claude"
    text = PROGRAM.format(interpreter=INTERPRETER, script=script, final=final, exit_code=exit_code, lines=list(lines))
    program.write_text(text, encoding="utf-8")
    program.chmod(0o755)
    return program


class ScriptedJudge:
    """Verifies a context whose package script says GOOD, calls one that says CHEAT tampering, and one that says SLOW
    waits for ``cancel`` or ``release``."""

    def __init__(self) -> None:
        self.judged: list[str] = []
        self.outages = 0
        self.release = threading.Event()

    def __call__(self, context: DockerContext, *, spool: Path, cancel: threading.Event) -> Outcome:
        """See ``Judge``."""
        script = context.build_pkg_sh
        self.judged.append(script)
        (spool / "build.log").write_text(f"building\n{script}\nthe end of the build\n", encoding="utf-8")
        outcome = Outcome(
            verified=False,
            level=Level.TESTS,
            stage="build",
            failure_class=FailureClass.RECIPE,
            message="fatal error: Python.h: No such file",
            context=context.digest,
            log_tail="Python.h is missing",
        )
        if "SLOW" in script:
            while not cancel.wait(0.02) and not self.release.is_set():
                pass
            if cancel.is_set():
                return msgspec.structs.replace(outcome, cancelled=True, failure_class=FailureClass.INFRA)
        if self.outages:
            self.outages -= 1
            return msgspec.structs.replace(outcome, failure_class=FailureClass.INFRA, message="the engine is away")
        if "CHEAT" in script:
            return msgspec.structs.replace(outcome, stage="audit", failure_class=FailureClass.TAMPER, message="a shim")
        if "GOOD" in script:
            (spool / "tests.jsonl").write_text('{"test":"t","outcome":"passed"}\n', encoding="utf-8")
            return msgspec.structs.replace(
                outcome, verified=True, stage="tests", failure_class=None, message="1 of 1 tests passed", log_tail=""
            )
        return outcome


class Stand:
    """Everything that one session needs: a repository, an order, a spool, blobs, a judge."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = GitProject(folder / "project")
        self.commit = self.project.commit({"setup.py": "print('setup')\n", "tests/test_it.py": "def test(): pass\n"})
        self.blobs = MemoryBlobs()
        self.judge = ScriptedJudge()
        self.cancel = threading.Event()
        self.spool = folder / "cache" / "spool" / "attempt-1"
        self.programs = folder / "programs"
        self.order = WorkOrder(
            attempt_id="attempt-1",
            log_id="log-1",
            sweep="test",
            stage=Stage.LLM_GENERATE,
            pull_request=PullRequest(
                owner="acme",
                repo="tool",
                issue_number=7,
                sha=self.commit,
                created_at="2023-01-01T00:00:00Z",
                title="Speed up the tool",
                body="It was slow.",
                clone_url=self.project.clone_url,
                env_payload=json.dumps({"dependencies": []}),
                python_version="3.11",
            ),
            rules=VerificationRules(),
            anchor=self.commit,
            agent="claude",
            account="claude",
        )

    @property
    def workspace(self) -> Path:
        """Where the session's workspace is while it runs."""
        return self.spool / "session" / "workspace"

    def settings(self, **changes: object) -> AgentSettings:
        """Settings with one account, whose key is this process's variable ``TEST_AGENT_KEY``."""
        account = AgentAccount(name="claude", agent="claude", env={"ANTHROPIC_API_KEY": "TEST_AGENT_KEY"})
        given = {"account": [account], "wall_s": 60.0, "idle_s": 40.0, "sandbox": "auto", **changes}
        return msgspec.convert(given, AgentSettings, from_attributes=True)

    def generator(self, settings: AgentSettings | None = None, *, limits: Limits | None = None) -> Generator:
        """A generator over this stand's cache."""
        return Generator(
            settings=settings or self.settings(),
            blobs=self.blobs,
            sources=Sources(self.folder / "cache"),
            limits=limits,
        )

    def run(
        self,
        script: str,
        *,
        settings: AgentSettings | None = None,
        limits: Limits | None = None,
        final: bool = True,
        exit_code: int = 0,
        lines: tuple[str, ...] = (),
    ) -> Outcome:
        """The outcome of a session whose agent runs this script."""
        write_agent(self.programs, script, final=final, exit_code=exit_code, lines=lines)
        self.spool.mkdir(parents=True)
        return self.generator(settings, limits=limits).perform(
            self.order, base=stock_context(), spool=self.spool, judge=self.judge, cancel=self.cancel
        )

    @property
    def transcript(self) -> str:
        """What the agent printed."""
        return (self.spool / "transcript").read_text(encoding="utf-8")

    def said(self) -> str:
        """What the agent's script printed."""
        for line in self.transcript.splitlines():
            _, _, text = line.partition(" out ")
            if '"tool_result"' in text:
                content = json.loads(text)["message"]["content"][0]["content"]
                assert isinstance(content, str)
                return content
        return ""
