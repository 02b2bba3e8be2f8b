"""Sessions: what recorded streams of the real CLIs add up to, and when a session is to be ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.agents.adapters import ADAPTERS
from actors.agents.base import FileChanged, Retry, Started, Text, ToolCall, ToolResult, Usage
from actors.agents.process import EndReason, ProcessEnd, Pulse
from actors.agents.session import Session, SessionReason

STREAMS = Path(__file__).parent / "streams"
Exit = tuple[EndReason, int | None]


def lines(name: str, suffix: str) -> list[str]:
    path = STREAMS / f"{name}.{suffix}"
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def process_end(reason: EndReason = EndReason.EXITED, exit_code: int | None = 0) -> ProcessEnd:
    return ProcessEnd(reason=reason, exit_code=exit_code, duration_s=12.0)


def follow(name: str, **options: object) -> Session:
    """A session that was fed a recorded run."""
    session = Session(ADAPTERS[name.split("-", maxsplit=1)[0]], **options)  # type: ignore[arg-type]
    for suffix, stream in (("stderr", "err"), ("jsonl", "out")):
        for line in lines(name, suffix):
            session.line(stream, line)
    return session


@pytest.mark.parametrize(
    ("name", "usage", "model", "cost"),
    [
        (
            "claude-latest-ok",
            Usage(input_tokens=13000, cached_input_tokens=10000, output_tokens=84),
            "claude-opus-5-5",
            0.01628,
        ),
        (
            "claude-latest-oauth-ok-warning",
            Usage(input_tokens=13000, cached_input_tokens=10000, output_tokens=84),
            "claude-sonnet-5-5",
            0.00814,
        ),
        ("codex-ok", Usage(input_tokens=2400, cached_input_tokens=1600, output_tokens=84), None, None),
        ("codex-flaky_2_429", Usage(input_tokens=2400, cached_input_tokens=1600, output_tokens=84), None, None),
        ("gemini-ok", Usage(input_tokens=3600, cached_input_tokens=2400, output_tokens=126), "gemini-3.8-flash", None),
        (
            "qwen-latest-ok",
            Usage(input_tokens=2400, cached_input_tokens=1600, output_tokens=84),
            "qwen3-coder-plus",
            None,
        ),
    ],
)
def test_a_run_that_succeeded_adds_up(name: str, usage: Usage, model: str | None, cost: float | None) -> None:
    end = follow(name).end(process_end())
    assert (end.ok, end.reason, end.limit, end.message) == (True, SessionReason.COMPLETED, None, "")
    assert (end.usage, end.model, end.cost_usd) == (usage, model, cost)
    assert (end.final_text, end.tool_calls) == ("done", 1)
    assert end.session_id


@pytest.mark.parametrize(
    ("name", "exit_code", "reason"),
    [
        ("claude-latest-429-nr0", 1, SessionReason.RATE_LIMITED),
        ("claude-latest-oauth-429unified", 1, SessionReason.RATE_LIMITED),
        ("claude-latest-401-nr0", 1, SessionReason.ACCOUNT),
        ("claude-latest-400credit", 1, SessionReason.ACCOUNT),
        ("codex-429usage", 1, SessionReason.RATE_LIMITED),
        ("codex-429-nr0", 1, SessionReason.RATE_LIMITED),
        ("codex-401", 1, SessionReason.ACCOUNT),
        ("codex-500-nr0", 1, SessionReason.SERVER),
        ("gemini-429daily", 173, SessionReason.RATE_LIMITED),
        ("gemini-429-hour", 173, SessionReason.RATE_LIMITED),
        ("gemini-401", 145, SessionReason.ACCOUNT),
        ("qwen-latest-429-mr0", 1, SessionReason.RATE_LIMITED),
        ("qwen-latest-401", 1, SessionReason.ACCOUNT),
        # An old version that reports it as success, with exit code 0.
        ("qwen-401", 0, SessionReason.ACCOUNT),
    ],
)
def test_a_run_that_failed_is_classified(name: str, exit_code: int, reason: SessionReason) -> None:
    end = follow(name).end(process_end(exit_code=exit_code))
    assert (end.ok, end.reason) == (False, reason)
    assert end.message
    assert (end.limit is not None) == (reason is SessionReason.RATE_LIMITED)


@pytest.mark.parametrize("name", ["claude-latest-ok", "codex-ok", "gemini-ok", "qwen-latest-ok"])
def test_success_needs_the_final_event_and_the_exit_code(name: str) -> None:
    agent = name.split("-", maxsplit=1)[0]
    assert follow(name).end(process_end(exit_code=1)).reason is SessionReason.EXIT_CODE
    session = Session(ADAPTERS[agent])
    for line in lines(name, "jsonl")[:-1]:
        session.line("out", line)
    end = session.end(process_end())
    assert (end.ok, end.reason) == (False, SessionReason.NO_FINAL)
    # Claude and Qwen tell of each message what it took.
    assert (end.usage is not None and end.usage.partial) == (agent in ("claude", "qwen"))


@pytest.mark.parametrize(
    ("ended", "reason"),
    [
        (EndReason.IDLE, SessionReason.STALLED),
        (EndReason.WALL, SessionReason.TIMEOUT),
        (EndReason.CANCELLED, SessionReason.CANCELLED),
        (EndReason.LOST, SessionReason.LOST),
        (EndReason.NOT_STARTED, SessionReason.NOT_STARTED),
    ],
)
def test_a_session_that_was_ended_says_why(ended: EndReason, reason: SessionReason) -> None:
    session = Session(ADAPTERS["codex"])
    for line in lines("codex-ok", "jsonl")[:-2]:
        session.line("out", line)
    assert session.end(process_end(ended, None)).reason is reason


def test_a_server_that_fails_is_blamed_when_the_watchdog_ended_the_retries() -> None:
    session = Session(ADAPTERS["claude"])
    retry = json.dumps({"type": "system", "subtype": "api_retry", "error_status": 529, "error": "overloaded"})
    assert session.line("out", retry) is Pulse.NOTHING
    assert session.end(process_end(EndReason.IDLE, 143)).reason is SessionReason.SERVER


def test_a_refused_account_ends_its_session_when_the_patience_is_over() -> None:
    session = Session(ADAPTERS["claude"], patience_s=0.0)
    session.line("out", json.dumps({"type": "system", "subtype": "api_retry", "error_status": 401}))
    assert session.tick() is Pulse.STOP
    assert session.end(process_end(EndReason.STOPPED, 143)).reason is SessionReason.ACCOUNT


def test_a_limit_ends_its_session_at_once_but_not_after_the_final_event() -> None:
    limited = Session(ADAPTERS["claude"])
    pulses = [limited.line("out", line) for line in lines("claude-latest-oauth-429unified", "jsonl")]
    assert pulses[:2] == [Pulse.PROGRESS, Pulse.STOP]
    assert limited.tick() is Pulse.NOTHING


@pytest.mark.parametrize("name", ["claude-latest-ok", "codex-ok", "gemini-ok", "qwen-latest-ok"])
def test_while_a_tool_runs_the_session_may_be_silent(name: str) -> None:
    session = Session(ADAPTERS[name.split("-", maxsplit=1)[0]])
    pulses = [pulse for line in lines(name, "jsonl") if (pulse := session.line("out", line)) is not Pulse.NOTHING]
    assert pulses.count(Pulse.TOOL) == 1
    assert pulses[-1] is Pulse.PROGRESS


def test_events_are_told_in_order() -> None:
    events: list[object] = []
    follow("gemini-ok", on_event=events.append)
    assert [type(event) for event in events][:4] == [Started, Text, ToolCall, ToolResult]


@pytest.mark.parametrize(
    ("agent", "line"),
    [
        (
            "claude",
            {
                "type": "assistant",
                "message": {
                    "content": [{"type": "tool_use", "id": "1", "name": "Write", "input": {"file_path": "/w/a.sh"}}]
                },
            },
        ),
        ("codex", {"type": "item.completed", "item": {"type": "file_change", "changes": [{"path": "/w/a.sh"}]}}),
        ("gemini", {"type": "tool_use", "tool_name": "write_file", "parameters": {"file_path": "/w/a.sh"}}),
        (
            "qwen",
            {
                "type": "assistant",
                "message": {
                    "content": [{"type": "tool_use", "id": "1", "name": "edit", "input": {"file_path": "/w/a.sh"}}]
                },
            },
        ),
    ],
)
def test_files_that_tools_change_are_noted(agent: str, line: dict[str, object]) -> None:
    events: list[object] = []
    session = Session(ADAPTERS[agent], on_event=events.append)
    session.line("out", json.dumps(line))
    assert FileChanged("/w/a.sh") in events
    assert session.end(process_end()).files_changed == ("/w/a.sh",)


def test_what_a_session_stores_is_without_secrets() -> None:
    secret = "the-key-of-the-account"  # noqa: S105
    session = Session(ADAPTERS["codex"], secrets=(secret,))
    session.line("out", json.dumps({"type": "turn.failed", "error": {"message": f"usage limit for {secret}"}}))
    end = session.end(process_end(exit_code=1))
    assert end.limit is not None
    assert secret not in end.message + end.limit.message
    assert "[redacted]" in end.message


def test_retries_of_gemini_on_standard_error_are_no_progress() -> None:
    events: list[object] = []
    session = Session(ADAPTERS["gemini"], on_event=events.append)
    for line in lines("gemini-429-short", "stderr"):
        assert session.line("err", line) is Pulse.NOTHING
    assert sum(isinstance(event, Retry) for event in events) >= 1
