"""The real CLIs, against scripted servers on loopback, with dummy keys and homes of their own.

Each row of what was measured about their failures (success, limits, errors, silence) is played with the real program,
must be classified rightly, and must end in time. The sessions run side by side, since most of them only wait.
"""

from __future__ import annotations

import http.server
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from actors.agents.adapters import ADAPTERS, Verdict, probe
from actors.agents.base import FileChanged, ToolCall, ToolResult
from actors.agents.session import SessionLimits, SessionReason
from tests.agents.models import SERVERS, Json, gemini_error, quota_error, unified_headers
from tests.agents.real import KEY, WRITE, Outcome, Scenario, play

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

AT_ONCE = 8
SIGN_TO_END_S = 30.0
HOUR = 3600
PER_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
PER_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
SHORT = SessionLimits(wall_s=90, idle_s=20, tool_idle_s=20, patience_s=4)
SLOW_START = SessionLimits(wall_s=90, idle_s=30, tool_idle_s=30, patience_s=4)
LONG = SessionLimits(wall_s=115, idle_s=110, tool_idle_s=110, patience_s=4)
DEFAULT_PATIENCE = SessionLimits(wall_s=60, idle_s=40, tool_idle_s=40)


def error(status: int, body: Json, **headers: object) -> Json:
    """A script of one HTTP error for ever."""
    return {
        "turns": [{"status": status, "error": body, "headers": {k.replace("_", "-"): v for k, v in headers.items()}}]
    }


def anthropic(status: int, kind: str, message: str = "as scripted", **headers: object) -> Json:
    return error(status, {"type": "error", "error": {"type": kind, "message": message}}, **headers)


def openai(
    status: int, code: str, message: str = "as scripted", *, more: Json | None = None, **headers: object
) -> Json:
    return error(status, {"error": {"type": code, "code": code, "message": message, **(more or {})}}, **headers)


def google(status: int, body: Json) -> Json:
    return error(status, body)


def soon(seconds: float) -> int:
    return int(time.time() + seconds)


def unified(claim: str = "five_hour", *, after_s: int = HOUR, **headers: object) -> Json:
    script = anthropic(429, "rate_limit_error")
    script["turns"][0]["headers"] = {**headers, **unified_headers("rejected", reset=soon(after_s), claim=claim)}
    return script


LIMITED, ACCOUNT, SERVER = SessionReason.RATE_LIMITED, SessionReason.ACCOUNT, SessionReason.SERVER
STALL: Json = {"turns": [{"stall_s": 600}]}

# Scenario, reason, and the reset in seconds from now (None: the CLI cannot know it).
ROWS: list[tuple[Scenario, SessionReason, float | None]] = [
    # qwen first: it takes longest, and the rows are started in this order.
    (
        Scenario(
            agent="qwen", name="429", script=lambda: openai(429, "rate_limit_exceeded", retry_after=2), limits=LONG
        ),
        LIMITED,
        None,
    ),
    (
        Scenario(
            agent="qwen",
            name="insufficient quota",
            script=lambda: openai(429, "insufficient_quota", "You exceeded your current quota, check your plan."),
            limits=LONG,
        ),
        LIMITED,
        None,
    ),
    (Scenario(agent="qwen", name="503", script=lambda: openai(503, "server_error"), limits=LONG), SERVER, None),
    (Scenario(agent="qwen", name="500", script=lambda: openai(500, "server_error"), limits=LONG), SERVER, None),
    (Scenario(agent="qwen", name="401", script=lambda: openai(401, "invalid_api_key")), ACCOUNT, None),
    (Scenario(agent="qwen", name="silence", script=lambda: STALL, limits=SLOW_START), SessionReason.STALLED, None),
    (
        Scenario(
            agent="claude",
            name="429, retry-after 2, default patience",
            script=lambda: anthropic(429, "rate_limit_error", retry_after=2),
            limits=DEFAULT_PATIENCE,
        ),
        LIMITED,
        None,
    ),
    (
        Scenario(
            agent="claude",
            name="429, retry-after 30",
            script=lambda: anthropic(429, "rate_limit_error", retry_after=30),
        ),
        LIMITED,
        None,
    ),
    (
        Scenario(
            agent="claude",
            name="429, retry-after 3600",
            script=lambda: anthropic(429, "rate_limit_error", retry_after=3600),
        ),
        LIMITED,
        None,
    ),
    (Scenario(agent="claude", name="429 of five hours, key", script=unified), LIMITED, None),
    (Scenario(agent="claude", name="429 of five hours, login", script=unified, oauth=True), LIMITED, HOUR),
    (
        Scenario(
            agent="claude",
            name="429 of a week, login",
            script=lambda: unified("seven_day", after_s=73 * HOUR, retry_after=73 * HOUR),
            oauth=True,
        ),
        LIMITED,
        73 * HOUR,
    ),
    (Scenario(agent="claude", name="403", script=lambda: anthropic(403, "permission_error")), ACCOUNT, None),
    (
        Scenario(
            agent="claude",
            name="no credit",
            script=lambda: anthropic(400, "invalid_request_error", "Your credit balance is too low to access the API."),
        ),
        ACCOUNT,
        None,
    ),
    (Scenario(agent="claude", name="401", script=lambda: anthropic(401, "authentication_error")), ACCOUNT, None),
    (Scenario(agent="claude", name="500", script=lambda: anthropic(500, "api_error"), limits=SHORT), SERVER, None),
    (
        Scenario(agent="claude", name="529", script=lambda: anthropic(529, "overloaded_error"), limits=SHORT),
        SERVER,
        None,
    ),
    (Scenario(agent="claude", name="silence", script=lambda: STALL, limits=SHORT), SessionReason.STALLED, None),
    (
        Scenario(
            agent="codex",
            name="usage limit, resets in an hour",
            script=lambda: openai(429, "usage_limit_reached", more={"resets_at": soon(HOUR), "plan_type": "plus"}),
        ),
        LIMITED,
        HOUR,
    ),
    (
        Scenario(
            agent="codex",
            name="usage limit, resets in three days",
            script=lambda: openai(429, "usage_limit_reached", more={"resets_at": soon(72 * HOUR), "plan_type": "plus"}),
        ),
        LIMITED,
        72 * HOUR,
    ),
    (
        Scenario(
            agent="codex",
            name="usage limit, only seconds",
            script=lambda: openai(429, "usage_limit_reached", more={"resets_in_seconds": 7200, "plan_type": "plus"}),
        ),
        LIMITED,
        None,
    ),
    (Scenario(agent="codex", name="no quota", script=lambda: openai(429, "insufficient_quota")), LIMITED, None),
    (
        Scenario(
            agent="codex", name="429, retry-after 2", script=lambda: openai(429, "rate_limit_exceeded", retry_after=2)
        ),
        LIMITED,
        None,
    ),
    (
        Scenario(
            agent="codex", name="429, retry-after 20", script=lambda: openai(429, "rate_limit_exceeded", retry_after=20)
        ),
        LIMITED,
        None,
    ),
    (
        Scenario(
            agent="codex",
            name="429, retry-after 3600",
            script=lambda: openai(429, "rate_limit_exceeded", retry_after=3600),
        ),
        LIMITED,
        None,
    ),
    (
        Scenario(
            agent="codex",
            name="rate limit in the stream",
            script=lambda: {
                "turns": [
                    {"fail": {"code": "rate_limit_exceeded", "message": "Rate limit. Please try again in 11.054s."}}
                ]
            },
        ),
        LIMITED,
        11,
    ),
    (Scenario(agent="codex", name="401", script=lambda: openai(401, "invalid_api_key")), ACCOUNT, None),
    (Scenario(agent="codex", name="500", script=lambda: openai(500, "server_error"), limits=SHORT), SERVER, None),
    (Scenario(agent="codex", name="503", script=lambda: openai(503, "server_is_overloaded")), SERVER, None),
    (Scenario(agent="codex", name="silence", script=lambda: STALL, limits=SHORT), SessionReason.STALLED, None),
    (
        Scenario(
            agent="gemini",
            name="429, retry in an hour",
            script=lambda: google(
                429,
                quota_error(
                    quota_id=PER_MINUTE,
                    retry_delay="3600s",
                    message="You exceeded your current quota. Please retry in 1h0m0s.",
                ),
            ),
        ),
        LIMITED,
        HOUR,
    ),
    (
        Scenario(
            agent="gemini",
            name="429 of the day",
            script=lambda: google(
                429,
                quota_error(
                    quota_id=PER_DAY, retry_delay="34.07s", message="You exceeded your current quota. Retry in 34.07s."
                ),
            ),
        ),
        LIMITED,
        None,
    ),
    (
        Scenario(
            agent="gemini",
            name="429, retry in 2.5 s",
            script=lambda: google(
                429,
                quota_error(
                    quota_id=PER_MINUTE,
                    retry_delay="2.5s",
                    message="You exceeded your current quota. Please retry in 2.5s.",
                ),
            ),
        ),
        LIMITED,
        2.5,
    ),
    (
        Scenario(
            agent="gemini",
            name="429, bare",
            script=lambda: google(429, gemini_error(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted.")),
        ),
        LIMITED,
        None,
    ),
    (
        Scenario(
            agent="gemini",
            name="500",
            script=lambda: google(500, gemini_error(500, "INTERNAL", "An internal error.")),
            limits=SHORT,
        ),
        SERVER,
        None,
    ),
    (
        Scenario(
            agent="gemini",
            name="503",
            script=lambda: google(503, gemini_error(503, "UNAVAILABLE", "Overloaded.")),
            limits=SHORT,
        ),
        SERVER,
        None,
    ),
    (
        Scenario(
            agent="gemini",
            name="401",
            script=lambda: google(401, gemini_error(401, "UNAUTHENTICATED", "Invalid authentication credentials.")),
        ),
        ACCOUNT,
        None,
    ),
    (
        Scenario(
            agent="gemini",
            name="a bad key",
            script=lambda: google(
                400, gemini_error(400, "INVALID_ARGUMENT", "API key not valid. Pass a valid API key.")
            ),
        ),
        ACCOUNT,
        None,
    ),
    (
        Scenario(agent="gemini", name="a stream cut off", script=lambda: {"turns": [{"cut": True}]}),
        SessionReason.FAILED,
        None,
    ),
    (Scenario(agent="gemini", name="silence", script=lambda: STALL, limits=SHORT), SessionReason.STALLED, None),
]


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder of the pinned programs, installed on first use."""
    cache = Path(os.environ.get("HEADRACE_TEST_CACHE") or Path("~/.cache/headrace-tests").expanduser())
    script = Path(__file__).parents[2] / "scripts" / "install_agents.sh"
    environment = {**os.environ, "HEADRACE_TEST_CACHE": str(cache)}
    subprocess.run(["bash", str(script)], env=environment, check=True, stdin=subprocess.DEVNULL)
    return cache / "agents" / "bin"


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
    if reason in (LIMITED, ACCOUNT) and scenario.agent != "qwen":
        assert outcome.ended_s < SIGN_TO_END_S
    if reason is SessionReason.STALLED:
        assert outcome.ended_s < scenario.limits.idle_s + 15
    if reason is not LIMITED:
        assert end.limit is None
        return
    assert end.limit is not None
    if reset_s is None:
        assert end.limit.reset_at is None
    else:
        assert end.limit.reset_at is not None
        expected = datetime.now(UTC) + timedelta(seconds=reset_s)
        assert abs(end.limit.reset_at - expected) < timedelta(seconds=150)


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
