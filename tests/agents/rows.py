"""What was measured about the failures of the real CLIs, as scenarios: each with its reason and its reset time."""

from __future__ import annotations

import time

from actors.agents.session import SessionLimits, SessionReason
from tests.agents.models import Json, gemini_error, quota_error, unified_headers
from tests.agents.real import Scenario

__all__ = ["DEFAULT_PATIENCE", "ROWS", "anthropic", "google", "openai"]

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
