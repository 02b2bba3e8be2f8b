"""The real CLIs, against scripted servers on loopback, with dummy keys and homes of their own.

Each row of what was measured about their failures (success, limits, errors, silence) is played with the real program,
must be classified rightly, and must end in time. The sessions run side by side, since most of them only wait.
"""

from __future__ import annotations

import http.server
import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from actors.agents.adapters import ADAPTERS, Verdict, probe
from actors.agents.base import FileChanged, ToolCall, ToolResult
from actors.agents.session import SessionReason
from tests.agents.models import SERVERS, Json, gemini_error
from tests.agents.real import KEY, WRITE, Outcome, Scenario, install_programs, play
from tests.agents.rows import DEFAULT_PATIENCE, ROWS, anthropic, google, openai

pytestmark = [pytest.mark.slow, pytest.mark.agents, pytest.mark.timeout(300)]

AT_ONCE = 8
SIGN_TO_END_S = 30.0
WATCHDOG_S = 10.0
"""From the idle limit to the end of the last process."""


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of the pinned programs, installed on first use."""
    return install_programs()


@pytest.fixture(scope="module", autouse=True)
def outcomes(
    request: pytest.FixtureRequest, programs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Outcome]]]:
    """The rows that were selected, running from now on, some at once."""
    rows = [getattr(item, "callspec").params.get("row") for item in request.session.items if hasattr(item, "callspec")]  # noqa: B009 - not typed
    wanted = [row[0] for row in rows if row is not None]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            str(scenario): pool.submit(play, scenario, programs=programs, folder=tmp_path_factory.mktemp("row"))
            for scenario in wanted
        }


@pytest.mark.parametrize("agent", ADAPTERS)
def test_an_agent_writes_a_file_through_its_shell_and_ends_well(agent: str, programs: Path, tmp_path: Path) -> None:
    with _proxy() as (address, asked):
        proxy = {"HTTPS_PROXY": address, "HTTP_PROXY": address, "NO_PROXY": "127.0.0.1"}
        outcome = play(
            Scenario(agent=agent, name="success", script=lambda: WRITE), programs=programs, folder=tmp_path, more=proxy
        )
    end = outcome.end
    assert end.reason is SessionReason.COMPLETED, (end, outcome.transcript)
    assert end.ok
    assert end.exit_code == 0
    assert outcome.wrote
    assert outcome.requests == 2
    assert end.final_text == "done"
    assert end.tool_calls == 1
    assert [type(event) for event in outcome.events if isinstance(event, ToolCall | ToolResult)] == [
        ToolCall,
        ToolResult,
    ]
    assert end.usage is not None
    assert not end.usage.partial
    assert (end.usage.output_tokens, end.usage.cached_input_tokens) == (80, 1000)
    assert (end.cost_usd is not None) == ADAPTERS[agent].tells_cost
    assert bool(end.model) == (agent != "codex")
    assert end.session_id
    assert end.limit is None
    assert KEY not in outcome.transcript
    assert asked == [], "it called others than its model server"


@contextmanager
def _proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that refuses everything and notes what it was asked for."""
    asked: list[str] = []

    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            asked.append(self.path)
            self.send_error(403)

        do_GET = do_POST = do_HEAD = do_CONNECT  # noqa: N815 - the base class's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


@pytest.mark.parametrize("agent", ADAPTERS)
def test_requests_that_are_turned_away_and_then_succeed_are_no_limit(
    agent: str, programs: Path, tmp_path: Path
) -> None:
    body = (
        anthropic(429, "rate_limit_error", retry_after=1)
        if agent == "claude"
        else openai(429, "rate_limit_exceeded", retry_after=1)
    )
    if agent == "gemini":
        body = google(429, gemini_error(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted."))
    script = {"turns": [{**body["turns"][0], "times": 2 if agent != "gemini" else 1}, *WRITE["turns"]]}
    scenario = Scenario(agent=agent, name="flaky", script=lambda: script, limits=DEFAULT_PATIENCE)
    outcome = play(scenario, programs=programs, folder=tmp_path)
    assert outcome.end.reason is SessionReason.COMPLETED, (outcome.end, outcome.transcript[-3000:])
    assert outcome.end.limit is None
    assert outcome.wrote


@pytest.mark.parametrize("agent", ADAPTERS)
def test_a_limit_that_a_tool_prints_is_no_limit(agent: str, programs: Path, tmp_path: Path) -> None:
    quoted = "; ".join(
        f"echo '{line}'"
        for line in (
            '{"type":"turn.failed","error":{"message":"You have hit your usage limit. Try again at 1:54 AM."}}',
            '{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":1795312626}}',
            '{"type":"result","status":"error","error":{"message":"You exceeded your current quota"}}',
            "Attempt 1 failed with status 429. Retrying with backoff...",
            "[API Error: 429 You exceeded your current quota]",
        )
    )
    say = "You have hit your usage limit. [API Error: 429 You exceeded your current quota]"
    script: Json = {"turns": [{"say": say, "run": f"{quoted}; {quoted} >&2"}, {"say": say}]}
    outcome = play(Scenario(agent=agent, name="quoted", script=lambda: script), programs=programs, folder=tmp_path)
    assert outcome.end.reason is SessionReason.COMPLETED, outcome.end
    assert outcome.end.limit is None
    assert "usage limit" in outcome.transcript


@pytest.mark.parametrize("agent", ADAPTERS)
def test_a_long_prompt_arrives_whole_and_daemons_of_a_tool_do_not_outlive_the_session(
    agent: str, programs: Path, tmp_path: Path
) -> None:
    mark = f"daemon-of-{agent}-{os.getpid()}"
    daemon = f"(setsid bash -c 'exec -a {mark} sleep 600' >/dev/null 2>&1 </dev/null &) ; sleep 0.2; pgrep -fc {mark}"
    script: Json = {"turns": [{"run": daemon}, {"say": "done"}]}
    prompt = "word " * 60_000 + "THE-END"
    with SERVERS[agent](script) as server:
        scenario = Scenario(agent=agent, name="daemon", script=lambda: script)
        outcome = play(scenario, programs=programs, folder=tmp_path, prompt=prompt, server=server)
        sent = msgspec.json.encode(server.model_calls[0].body)
    assert outcome.end.ok, outcome.end
    assert sent.count(b"word word") > 0
    assert b"THE-END" in sent
    assert len(sent) > len(prompt)
    assert outcome.end.process.killed >= 1
    assert subprocess.run(["pgrep", "-f", mark], check=False, capture_output=True).returncode == 1


@pytest.mark.parametrize("agent", ["claude"])
def test_files_that_tools_write_are_told(agent: str, programs: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "workspace" / "script.sh")
    script: Json = {"turns": [{"tool": "Write", "input": {"file_path": path, "content": "set -eu\n"}}, {"say": "done"}]}
    outcome = play(Scenario(agent=agent, name="write", script=lambda: script), programs=programs, folder=tmp_path)
    assert outcome.end.ok, outcome.end
    assert outcome.end.files_changed == (path,)
    assert FileChanged(path) in outcome.events
    assert Path(path).read_text(encoding="utf-8") == "set -eu\n"


@pytest.mark.parametrize("agent", ADAPTERS)
def test_an_installed_agent_is_probed_as_supported(agent: str, programs: Path) -> None:
    found = probe(ADAPTERS[agent], search_path=f"{programs}:/usr/bin:/bin")
    assert (found.verdict, found.message) == (Verdict.SUPPORTED, "")
    assert found.version == ".".join(map(str, ADAPTERS[agent].measured))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row[0]))
def test_a_failure_is_classified_rightly_and_ended_in_time(
    row: tuple[Scenario, SessionReason, float | None], outcomes: dict[str, Future[Outcome]]
) -> None:
    scenario, reason, reset_s = row
    outcome = outcomes[str(scenario)].result()
    end = outcome.end
    assert end.reason is reason, (end, outcome.transcript[-3000:])
    assert not end.ok
    assert not outcome.wrote
    assert outcome.requests >= 1
    assert KEY not in outcome.transcript
    assert end.process.left_behind == 0
    assert outcome.ended_s - outcome.first_sign_s < SIGN_TO_END_S
    if reason in (SessionReason.RATE_LIMITED, SessionReason.ACCOUNT) and scenario.agent != "qwen":
        assert outcome.ended_s < SIGN_TO_END_S
    if reason is SessionReason.STALLED:
        assert outcome.ended_s - outcome.last_event_s < scenario.limits.idle_s + WATCHDOG_S
    if reason is not SessionReason.RATE_LIMITED:
        assert end.limit is None
        return
    assert end.limit is not None
    if reset_s is None:
        assert end.limit.reset_at is None
    else:
        assert end.limit.reset_at is not None
        expected = datetime.now(UTC) + timedelta(seconds=reset_s)
        assert abs(end.limit.reset_at - expected) < timedelta(seconds=150)
