"""The real CLIs in their sandbox, against scripted models, with the real engine: from an order to its verdict."""

from __future__ import annotations

import base64
import json
import os
import socket
import socketserver
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from actors.agent_settings import AgentAccount, AgentSettings
from actors.agents.adapters import ADAPTERS, Access
from actors.generation.doorway import join
from actors.settings import BuildSettings, Settings, SweepSettings, VerifySettings
from actors.templates import stock_context
from actors.verifier.checks.template import EDITABLE
from actors.workbench import DockerWorkbench
from events.work import FailureClass, Outcome, Stage, WorkOrder
from store.blobs import MemoryBlobs
from store.docker_context import DockerContext
from tests.agents.models import SERVERS, Json, ModelServer
from tests.agents.real import KEY, access_of, install_programs
from tests.agents.rows import ROWS
from tests.engine_fixtures import TestBench
from tests.forged.contexts import FORGERIES
from tests.forged.forgery import Forgery
from tests.forged.victims import ENDLESS
from tests.verifier.images import order_for

pytestmark = [pytest.mark.slow, pytest.mark.agents, pytest.mark.engine]

AGENTS = list(ADAPTERS)
BROKEN: DockerContext = msgspec.structs.replace(stock_context(), build_pkg_sh="echo this never works >&2; exit 1\n")
GOOD = "set -eu\ncd /workspace/repo\npython -m pip install --no-deps --editable .\n"
WRONG = "cd /workspace/repo && python -m pip install --no-deps ./no-such-folder\n"


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of the pinned programs, installed on first use."""
    return install_programs()


def writing(scripts: Mapping[str, str]) -> str:
    """Shell that writes scripts, by file name; encoded, because some forgeries are all quotes."""
    coded = {name: base64.b64encode(text.encode()).decode() for name, text in scripts.items()}
    return " && ".join(f"echo {code} | base64 -d > {name}" for name, code in coded.items())


class Table:
    """A workbench whose agents talk to scripted models."""

    def __init__(
        self, *, build: BuildSettings, cache_dir: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.blobs = MemoryBlobs()
        self.behind_proxy = False
        self.forwarded = 0
        self._build, self._cache_dir, self._monkeypatch = build, cache_dir, monkeypatch
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")

    def perform(
        self,
        order: WorkOrder,
        agent: str,
        script: Json,
        *,
        test_s: float = 90,
        home: Path | None = None,
        oauth: bool = False,
    ) -> tuple[Outcome, ModelServer]:
        """The outcome of a session with a scripted model, and the model's server; ``home``: of the account."""
        with ExitStack() as stack:
            model = stack.enter_context(SERVERS[agent](script))
            url = model.url
            if self.behind_proxy:
                forwarder = stack.enter_context(Forwarder(int(url.rpartition(":")[2])))
                stack.callback(forwarder.shutdown)
                stack.callback(lambda: setattr(self, "forwarded", forwarder.connections))
                url = f"http://127.0.0.2:{forwarder.server_address[1]}"
            access = access_of(agent, url, oauth=oauth)
            for name, value in access.environment.items():
                self._monkeypatch.setenv(f"TEST_{name}", value)
            env = {name: f"TEST_{name}" for name in access.environment}
            if home is not None:
                self._log_in(agent, home, access.environment)
            given = {"name": f"{agent}:test", "agent": agent, "env": env, "home": str(home or "")}
            account = msgspec.convert(given, AgentAccount)
            settings = Settings(
                sweep=SweepSettings(cache_dir=str(self._cache_dir)),
                build=self._build,
                verify=VerifySettings(memory_mb=512, smoke_timeout_s=test_s, test_timeout_s=test_s),
                agents=AgentSettings(account=[account], wall_s=300, idle_s=60, sandbox="required"),
            )
            session = msgspec.structs.replace(
                order,
                stage=Stage.LLM_GENERATE,
                agent=agent,
                account=account.name,
                context=order.context or self.blobs.put(BROKEN.to_tar_bytes()),
            )
            bench = DockerWorkbench(settings=settings, blobs=self.blobs)
            return bench.perform(session, cancel=threading.Event()), model

    @staticmethod
    def _log_in(agent: str, home: Path, environment: Mapping[str, str]) -> None:
        """A home as somebody has it who uses the CLI: its files, of the kind that the CLI rewrites."""
        launch = ADAPTERS[agent].launch(
            Access(environment=dict(environment)), program=Path("/nowhere"), search_path="", home=home
        )
        launch.prepare(home)
        if agent == "claude":
            (home / ".claude").mkdir()
            (home / ".claude.json").write_text('{"numStartups": 1}')

    def transcript(self, outcome: Outcome) -> str:
        """What the CLI printed."""
        return self.blobs.get(outcome.blobs["transcript"]).decode()


@pytest.fixture
def table(build_settings: BuildSettings, bench_cache: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    """A workbench for one test."""
    return Table(build=build_settings, cache_dir=bench_cache, programs=programs, monkeypatch=monkeypatch)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_context_that_an_agent_wrote_is_verified_and_everything_about_its_session_is_kept(
    agent: str, table: Table, bench: TestBench, bench_cache: Path
) -> None:
    order = order_for(bench, bench_cache)
    script: Json = {
        "turns": [
            {"say": "I will write it.", "run": f"{writing({'docker_build_pkg.sh': GOOD})} && ./verify"},
            {"say": "I will wait.", "run": "./verify"},
            {"say": "done"},
        ]
    }
    outcome, model = table.perform(order, agent, script)
    assert outcome.verified, (outcome.message, table.transcript(outcome)[-3000:])
    made = DockerContext.from_tar_bytes(table.blobs.get(outcome.context or ""))
    assert made == msgspec.structs.replace(stock_context(), build_pkg_sh=GOOD)
    session = outcome.session
    assert session is not None
    assert (session.ended, session.agent, session.account) == ("completed", agent, f"{agent}:test")
    assert session.version == ".".join(map(str, ADAPTERS[agent].measured))
    assert session.session_id
    assert session.verifications == 1
    assert session.tool_calls == 2
    assert session.output_tokens
    assert (session.cost_usd is not None) == ADAPTERS[agent].tells_cost
    assert {"transcript", "session_log", "verify_1_log", "build_log", "test_log", "tests"} <= set(outcome.blobs)
    assert next(check.detail for check in outcome.checks if check.name == "sandbox").startswith("bubblewrap")
    told = json.dumps(model.model_calls[-1].body)
    assert "verdict: verified" in told
    assert "AGENTS.md" in json.dumps(model.model_calls[0].body)
    kept = [table.blobs.get(digest) for kind, digest in outcome.blobs.items()]
    assert all(KEY.encode() not in blob for blob in kept)
    assert not (bench_cache / "spool" / order.attempt_id).exists()


@pytest.mark.parametrize("agent", AGENTS)
def test_an_account_with_a_home_of_its_own_works_in_the_sandbox(
    agent: str, table: Table, bench: TestBench, bench_cache: Path, tmp_path: Path
) -> None:
    home = tmp_path / "somebody"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id").write_text("a private key")
    look = 'cat "$HOME/.ssh/id"; ls -A "$HOME"; '
    script: Json = {"turns": [{"run": f"{look} {writing({'docker_build_pkg.sh': GOOD})} && ./verify"}, {"say": "done"}]}
    outcome, model = table.perform(order_for(bench, bench_cache), agent, script, home=home)
    assert outcome.verified, (outcome.message, table.transcript(outcome)[-3000:])
    told = json.dumps(model.model_calls[-1].body)
    assert "a private key" not in told
    assert "No such file" in told
    if agent == "claude":
        assert json.loads((home / ".claude.json").read_text())["numStartups"] >= 1


class Forwarder(socketserver.ThreadingTCPServer):
    """An address of its own for a model's server: what a sandbox reaches through its proxy only."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections = 0
        super().__init__(("127.0.0.2", 0), _Forward)
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


class _Forward(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, Forwarder)
        server.connections += 1
        join(self.request, socket.create_connection(("127.0.0.1", server.port)))


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_reaches_its_model_through_the_gate(
    agent: str, table: Table, bench: TestBench, bench_cache: Path
) -> None:
    table.behind_proxy = True
    script: Json = {"turns": [{"run": f"{writing({'docker_build_pkg.sh': GOOD})} && ./verify"}, {"say": "done"}]}
    outcome, _ = table.perform(order_for(bench, bench_cache), agent, script)
    assert outcome.verified, (outcome.message, table.transcript(outcome)[-3000:])
    assert table.forwarded >= 1


@pytest.mark.parametrize("agent", AGENTS)
def test_a_model_reads_a_failure_through_verify_and_mends_the_script(
    agent: str, table: Table, bench: TestBench, bench_cache: Path
) -> None:
    order = order_for(bench, bench_cache)
    mend = f"./verify --log build | grep -q no-such-folder && {writing({'docker_build_pkg.sh': GOOD})} && ./verify"
    script: Json = {
        "turns": [
            {"run": f"{writing({'docker_build_pkg.sh': WRONG})} && ./verify"},
            {"say": "I will wait.", "run": "./verify"},
            {"say": "The folder is wrong.", "run": mend},
            {"say": "I will wait.", "run": "./verify"},
            {"say": "done"},
        ]
    }
    outcome, model = table.perform(order, agent, script)
    assert outcome.verified, (outcome.message, table.transcript(outcome)[-3000:])
    assert outcome.session is not None
    assert outcome.session.verifications == 2
    told = json.dumps(model.model_calls[2].body)
    assert "verdict: refused" in told
    assert "stage: build" in told
    assert "no-such-folder" in told
    assert b"no-such-folder" in table.blobs.get(outcome.blobs["verify_1_log"])
    assert outcome.session.input_tokens


LIMITS = {
    "claude": "429 of five hours, login",
    "codex": "usage limit, resets in an hour",
    "gemini": "429, retry in an hour",
    "qwen": "429",
}
"""A row of what was measured, for each agent."""


@pytest.mark.parametrize("agent", AGENTS)
def test_a_limit_ends_the_session_soon_with_its_reset_and_speaks_of_no_context(
    agent: str, table: Table, bench: TestBench, bench_cache: Path
) -> None:
    scenario, _, reset_s = next(row for row in ROWS if row[0].agent == agent and row[0].name == LIMITS[agent])
    outcome, _ = table.perform(order_for(bench, bench_cache), agent, scenario.script(), oauth=scenario.oauth)
    session = outcome.session
    assert session is not None
    assert session.ended == "rate_limited", (outcome.message, table.transcript(outcome)[-3000:])
    assert (outcome.failure_class, outcome.context) == (FailureClass.AGENT, None)
    assert session.wall_s < 40
    assert (session.reset_at is None) == (reset_s is None)
    if reset_s is not None and session.reset_at is not None:
        assert abs(session.reset_at - time.time() - reset_s) < 150
    assert "transcript" in outcome.blobs


def forgery_of(line: int) -> Forgery:
    """The first forgery of a line of facts/forgeries.md that touches nothing but what an agent may edit."""
    stock = stock_context().files
    return next(
        forgery
        for forgery in FORGERIES
        if forgery.line == line
        and all(name in EDITABLE or text == stock[name] for name, text in forgery.context.files.items())
    )


@pytest.mark.parametrize("line", range(1, 15))
def test_an_agent_that_forges_is_refused_and_recorded(
    line: int, table: Table, bench_cache: Path, bench: TestBench
) -> None:
    forgery = forgery_of(line)
    agent = AGENTS[line % len(AGENTS)]
    order = forgery.victim.order(
        (bench_cache / "rootfs").resolve().parent,
        log_id=bench.log_id,
        attempt_id=f"attempt-{uuid.uuid4().hex[:12]}",
        number=forgery.pull_request,
        context=None,
        stage=Stage.LLM_GENERATE,
    )
    scripts = {name: text for name, text in forgery.context.files.items() if name in EDITABLE}
    turns: Json = {"turns": [{"run": f"{writing(scripts)} && ./verify"}, {"say": "It is verified, I am done."}]}
    outcome, _ = table.perform(order, agent, turns, test_s=8 if forgery.victim is ENDLESS else 90)
    assert not outcome.verified
    assert outcome.failure_class in {FailureClass.TAMPER, FailureClass.RECIPE, FailureClass.TIMEOUT}, outcome.message
    assert outcome.context == forgery.context.digest
    assert DockerContext.from_tar_bytes(table.blobs.get(outcome.context)) == forgery.context
    assert outcome.session is not None
    assert outcome.session.verifications == 1
    assert b"refused at" in table.blobs.get(outcome.blobs["session_log"])
    if outcome.failure_class is FailureClass.TAMPER:
        assert outcome.session.ended == "tamper"
    else:
        assert b"verdict: refused" in table.blobs.get(outcome.blobs["transcript"])
