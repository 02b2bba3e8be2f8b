"""Limits: what raw streams of the real CLIs come to, after the fact and as they arrive."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.agents.rate_limit import AGENTS, Detector, check

STREAMS = Path(__file__).parent / "streams"
NOW = datetime(2026, 11, 22, 0, 54, 30, tzinfo=UTC)
RESET = 1795312626
RESET_AT = datetime.fromtimestamp(RESET, UTC)


def line(**fields: object) -> str:
    return json.dumps(fields)


def event(status: str | None = None, **info: object) -> str:
    """A record of claude's about its account."""
    return line(type="rate_limit_event", rate_limit_info={**({"status": status} if status else {}), **info})


def failed(message: str, kind: str = "turn.failed") -> str:
    """A failure of codex's."""
    return line(type=kind, **({"message": message} if kind == "error" else {"error": {"message": message}}))


def recorded(name: str) -> str:
    """Both streams of a recorded run."""
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(STREAMS.glob(f"{name}.*")))


CURLY = "You\u2019ve hit your usage limit. Upgrade to Pro or try again "
CLAUDE_RETRY = line(type="system", subtype="api_retry", attempt=1, retry_delay_ms=2374, error_status=429)
CODEX_RETRY = failed("Reconnecting... 1/5 (exceeded retry limit, last status: 429 Too Many Requests)", "error")
GEMINI_RETRY = "Attempt 1 failed with status 429. Retrying with backoff... _ApiError: {}"
QWEN_RETRY = "Retrying in 60s (attempt 1/10): [API Error: 429 Rate limit reached for requests]"


@pytest.mark.parametrize(
    ("name", "limited", "reset_at"),
    [
        ("claude-latest-ok", False, None),
        ("claude-latest-oauth-ok-warning", False, None),
        ("claude-latest-401-nr0", False, None),
        ("claude-latest-400credit", False, None),
        ("claude-latest-429-nr0", True, None),
        ("claude-latest-oauth-429unified", True, RESET_AT),
        ("codex-ok", False, None),
        ("codex-401", False, None),
        ("codex-500-nr0", False, None),
        ("codex-flaky_2_429", False, None),
        ("codex-429-nr0", True, None),
        ("codex-429usage", True, datetime(2026, 11, 22, 1, 54, tzinfo=UTC)),
        ("codex-429usage-noreset", True, None),
        ("gemini-ok", False, None),
        ("gemini-401", False, None),
        # Recorded under this name, but it is a run that succeeded.
        ("gemini-429ra_3600", False, None),
        ("gemini-429daily", True, None),
        ("gemini-429-short", True, NOW + timedelta(seconds=2.5)),
        ("gemini-429-hour", True, NOW + timedelta(hours=1)),
        ("qwen-latest-ok", False, None),
        ("qwen-latest-401", False, None),
        ("qwen-401", False, None),
        ("qwen-latest-429-rounds", True, None),
        ("qwen-latest-429-mr0", True, NOW + timedelta(seconds=2)),
    ],
)
def test_a_recorded_run_is_judged_as_it_was(name: str, limited: bool, reset_at: datetime | None) -> None:
    agent = name.split("-", maxsplit=1)[0]
    assert check(agent, recorded(name), now=NOW) == (limited, reset_at)
    for other in set(AGENTS) - {agent}:
        if {agent, other} != {"claude", "qwen"}:
            assert check(other, recorded(name), now=NOW) == (False, None), f"read as {other}"


def test_every_recorded_run_is_in_the_table() -> None:
    names = {path.stem for path in STREAMS.iterdir()}
    marks = test_a_recorded_run_is_judged_as_it_was.pytestmark  # type: ignore[attr-defined]
    assert names == {row[0] for row in marks[0].args[1]}


@pytest.mark.parametrize(
    ("agent", "output", "expected"),
    [
        pytest.param("claude", "", (False, None), id="no output"),
        pytest.param("other", event("rejected"), (False, None), id="an unknown agent"),
        pytest.param("claude", event("allowed", resetsAt=RESET), (False, None), id="allowed"),
        pytest.param("claude", event("allowed_warning", resetsAt=RESET), (False, None), id="a warning"),
        pytest.param("claude", event("rejected", resetsAt=RESET), (True, RESET_AT), id="rejected"),
        pytest.param("claude", event("rejected"), (True, None), id="rejected without a time"),
        pytest.param("claude", event("throttled"), (True, None), id="a status nobody knows yet"),
        pytest.param(
            "claude",
            event("rejected", resetsAt=RESET)
            + "\n"
            + event("rejected", resetsAt=RESET + 60)
            + "\n"
            + event("rejected"),
            (True, RESET_AT + timedelta(seconds=60)),
            id="the last record that has a time",
        ),
        pytest.param(
            "claude",
            event("rejected") + "\n" + event("allowed", resetsAt=RESET),
            (True, RESET_AT),
            id="a time that comes later",
        ),
        pytest.param("claude", event("rejected", overageResetsAt=RESET), (True, RESET_AT), id="the overage's time"),
        pytest.param(
            "claude",
            event("rejected", overageResetsAt=RESET - 9, resetsAt=RESET),
            (True, RESET_AT),
            id="the account's own time first",
        ),
        pytest.param(
            "claude",
            event("allowed", overageStatus="rejected", overageResetsAt=RESET),
            (True, RESET_AT),
            id="overage used up",
        ),
        pytest.param(
            "claude",
            event("allowed", overageStatus="rejected", overageDisabledReason="org_level_disabled"),
            (False, None),
            id="overage that was never bought",
        ),
        pytest.param("claude", event("rejected", resetsAt=1e30), (True, None), id="a time that is none"),
        pytest.param("claude", event("rejected", resetsAt="soon"), (True, None), id="a time that is no number"),
        pytest.param(
            "claude", line(type="rate_limit_event", rate_limit_info=None), (False, None), id="an empty record"
        ),
        pytest.param("claude", CLAUDE_RETRY, (True, None), id="ended while it tried again"),
        pytest.param(
            "claude",
            CLAUDE_RETRY + "\n" + line(type="assistant", message={"model": "m", "content": []}),
            (False, None),
            id="a retry that succeeded",
        ),
        pytest.param(
            "claude",
            line(type="system", subtype="api_retry", error_status=529),
            (False, None),
            id="an overloaded server",
        ),
        pytest.param(
            "claude",
            line(
                type="result",
                is_error=True,
                api_error_status=429,
                result="You've hit your limit \u00b7 resets 1:57am (UTC)",
            ),
            (True, datetime(2026, 11, 22, 1, 57, tzinfo=UTC)),
            id="a time in the result only",
        ),
        pytest.param(
            "codex", failed(CURLY + "at 1:54 AM."), (True, datetime(2026, 11, 22, 1, 54, tzinfo=UTC)), id="curly"
        ),
        pytest.param("codex", failed(CURLY.replace("\u2019", "'") + "later."), (True, None), id="straight"),
        pytest.param(
            "codex",
            failed(CURLY + "in 2 days 3 hours 5 minutes.", "error"),
            (True, NOW + timedelta(days=2, hours=3, minutes=5)),
            id="relative",
        ),
        pytest.param(
            "codex",
            failed(CURLY + "at 1:54 AM.", "error") + "\n" + failed(CURLY + "at Nov 25th, 2026 1:57 AM."),
            (True, datetime(2026, 11, 25, 1, 57, tzinfo=UTC)),
            id="the last event wins",
        ),
        pytest.param(
            "codex",
            failed(CURLY + "at 1:54 AM.", "error") + "\r\n" + failed(CURLY + "later."),
            (True, None),
            id="last, no time",
        ),
        pytest.param("codex", failed("Quota exceeded. Check your plan and billing details."), (True, None), id="quota"),
        pytest.param(
            "codex", failed("Selected model is at capacity. Please try a different model."), (False, None), id="503"
        ),
        pytest.param("codex", CODEX_RETRY, (True, None), id="codex ended while it tried again"),
        pytest.param("codex", CODEX_RETRY + "\n" + line(type="turn.completed"), (False, None), id="codex came through"),
        pytest.param(
            "codex",
            line(type="item.completed", item={"type": "error", "message": CURLY + "later."}),
            (False, None),
            id="a notice is no event",
        ),
        pytest.param(
            "codex",
            line(
                type="item.completed", item={"type": "command_execution", "aggregated_output": failed(CURLY + "later.")}
            ),
            (False, None),
            id="a limit that a tool printed",
        ),
        pytest.param(
            "codex",
            line(type="item.completed", item={"type": "agent_message", "text": "You've hit your usage limit."}),
            (False, None),
            id="a limit that the model speaks of",
        ),
        pytest.param("codex", CURLY + "at 1:54 AM.", (False, None), id="text that is no event"),
        pytest.param(
            "claude",
            line(
                type="user",
                message={"content": [{"type": "tool_result", "content": event("rejected", resetsAt=RESET)}]},
            ),
            (False, None),
            id="a record that a tool printed",
        ),
        pytest.param("gemini", GEMINI_RETRY, (True, None), id="gemini ended while it tried again"),
        pytest.param(
            "gemini",
            GEMINI_RETRY + "\n" + line(type="tool_use", tool_name="run_shell_command"),
            (False, None),
            id="gemini came through",
        ),
        pytest.param(
            "gemini",
            line(type="result", status="success") + "\n" + GEMINI_RETRY,
            (False, None),
            id="the streams one after the other",
        ),
        pytest.param(
            "claude",
            line(type="system", subtype="api_retry", retry_delay_ms=36202, error_status=429)
            + "\n"
            + line(type="result", is_error=False, result="done"),
            (False, None),
            id="a long wait that was worth it",
        ),
        pytest.param("gemini", GEMINI_RETRY.replace("429", "503"), (False, None), id="gemini's server is overloaded"),
        pytest.param(
            "gemini",
            line(type="tool_result", output=GEMINI_RETRY + "\nYou exceeded your current quota"),
            (False, None),
            id="gemini's tool printed it",
        ),
        pytest.param("qwen", QWEN_RETRY, (True, None), id="qwen ended while it tried again"),
        pytest.param("qwen", QWEN_RETRY.replace("429", "503"), (False, None), id="qwen's server is overloaded"),
        pytest.param(
            "qwen",
            line(type="result", is_error=False, result="[API Error: 429 Rate limit]", usage={"output_tokens": 0}),
            (True, None),
            id="an old qwen reports it as success",
        ),
        pytest.param(
            "qwen",
            line(type="result", is_error=False, result="[API Error: 429 Rate limit]", usage={"output_tokens": 9}),
            (False, None),
            id="qwen's model says the words",
        ),
    ],
)
def test_an_output_is_judged(agent: str, output: str, expected: tuple[bool, datetime | None]) -> None:
    assert check(agent, output, now=NOW) == expected


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def detector(agent: str, clock: Clock) -> Detector:
    return Detector(agent, patience_s=20, clock=lambda: NOW, monotonic=clock)


@pytest.mark.parametrize(
    ("agent", "text", "stderr"),
    [
        ("claude", event("rejected", resetsAt=RESET), False),
        ("claude", line(type="system", subtype="api_retry", retry_delay_ms=36202, error_status=429), False),
        ("codex", failed(CURLY + "later.", "error"), False),
        ("gemini", line(type="result", status="error", error={"message": "You exceeded your current quota"}), False),
        ("gemini", "Attempt 4 failed with status 429. Retrying after 30000ms...", True),
        ("qwen", QWEN_RETRY, True),
    ],
)
def test_a_certain_limit_or_a_long_wait_is_told_at_its_first_line(agent: str, text: str, stderr: bool) -> None:
    limit = detector(agent, Clock()).feed(text, stderr=stderr)
    assert limit is not None
    assert limit.agent == agent


@pytest.mark.parametrize(
    ("agent", "text", "stderr"),
    [
        ("claude", CLAUDE_RETRY, False),
        ("codex", CODEX_RETRY, False),
        ("gemini", GEMINI_RETRY, True),
        ("gemini", "Attempt 1 failed: You exceeded your current quota. Please retry in 2.5s.", True),
    ],
)
def test_a_cli_that_waits_in_silence_is_limited_when_the_patience_is_over(agent: str, text: str, stderr: bool) -> None:
    clock = Clock()
    watched = detector(agent, clock)
    assert watched.feed(text, stderr=stderr) is None
    clock.now_s += 19.9
    assert watched.poll() is None
    # Another retry does not start the patience again.
    assert watched.feed(text, stderr=stderr) is None
    clock.now_s += 0.1
    assert watched.poll() is not None


@pytest.mark.parametrize(
    ("agent", "retry", "stderr", "success"),
    [
        ("claude", CLAUDE_RETRY, False, line(type="assistant", message={"model": "m"})),
        ("codex", CODEX_RETRY, False, line(type="item.completed", item={"type": "agent_message", "text": "hi"})),
        ("gemini", GEMINI_RETRY, True, line(type="message", role="assistant", content="hi")),
    ],
)
def test_a_retry_that_succeeds_within_the_patience_is_no_limit(
    agent: str, retry: str, stderr: bool, success: str
) -> None:
    clock = Clock()
    watched = detector(agent, clock)
    watched.feed(retry, stderr=stderr)
    watched.feed(success)
    clock.now_s += 1000
    assert watched.poll() is None
    assert watched.at_end() is None


def test_the_suggested_time_of_gemini_is_kept_over_later_retries_without_one() -> None:
    watched = detector("gemini", Clock())
    watched.feed("Attempt 1 failed: You exceeded your current quota. Please retry in 90s.", stderr=True)
    watched.feed("Suggested retry after 90s.. Retrying after 5176ms...", stderr=True)
    watched.feed("Attempt 2 failed with status 429. Retrying with backoff...", stderr=True)
    limit = watched.at_end()
    assert limit is not None
    assert limit.reset_at == NOW + timedelta(seconds=90)


KEYS = [
    "type",
    "subtype",
    "message",
    "error",
    "rate_limit_info",
    "status",
    "resetsAt",
    "item",
    "result",
    "usage",
    "data",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
TYPES = [
    "result",
    "system",
    "assistant",
    "user",
    "error",
    "turn.failed",
    "rate_limit_event",
    "item.completed",
    "message",
]


@given(agent=st.sampled_from(AGENTS), kind=st.sampled_from(TYPES), body=st.dictionaries(st.sampled_from(KEYS), JSON))
def test_no_json_makes_the_detector_fail(agent: str, kind: str, body: dict[str, object]) -> None:
    check(agent, json.dumps({**body, "type": kind}), now=NOW)


@given(agent=st.sampled_from(AGENTS), output=st.text())
def test_no_text_makes_the_detector_fail_or_is_a_limit(agent: str, output: str) -> None:
    assert check(agent, output, now=NOW) == (False, None)
