"""Codex: command line, environment, configuration, and its stream (version 0.169.0 was measured).

Its stream names neither the model nor a cost. ``OPENAI_BASE_URL`` is ignored by the CLI itself; here an account's key
and base URL become a provider in its configuration, which it honours.
"""

from __future__ import annotations

import json
from pathlib import Path

from actors.agents.base import (
    MAX_TEXT_CHARS,
    Access,
    Adapter,
    Event,
    FileChanged,
    Final,
    Retry,
    Started,
    StreamParser,
    Text,
    ToolCall,
    ToolResult,
    Usage,
    status_in,
)
from actors.agents.fields import Fields

__all__ = ["Codex"]

DEFAULT_MODEL = "gpt-5-codex"
DEFAULT_BASE_URL = "https://api.openai.com/v1"
KEY = "OPENAI_API_KEY"

QUIET = {"check_for_update_on_startup": "false", "analytics.enabled": "false", "features.plugins": "false"}
"""Without these it looks up hosts of its maker, whatever the provider is."""

STATUS_OF_MESSAGE = {
    "experiencing high demand": 500,
    "Selected model is at capacity": 503,
    "Quota exceeded": 429,
}
"""Messages that stand for a status without naming it."""


class Codex(Adapter):
    """Runs under a key, with a provider of its own, or under a home folder in which somebody has logged in."""

    name = "codex"
    program = "codex"
    package = "@openai/codex"
    oldest = (0, 169, 0)
    measured = (0, 169, 0)
    configuration = (".codex",)
    variables = frozenset({KEY, "OPENAI_BASE_URL", "OPENAI_MODEL"})

    def arguments(self, access: Access) -> tuple[str, ...]:
        """Without approvals and without its own sandbox; ``-`` reads the prompt from standard input."""
        model = ("-m", access.model) if access.model and access.home else ()
        quiet = [word for name, value in QUIET.items() for word in ("-c", f"{name}={value}")]
        return (
            "exec",
            "--json",
            "--ephemeral",
            "--dangerously-bypass-approvals-and-sandbox",
            "--skip-git-repo-check",
            *quiet,
            *model,
            "-",
        )

    def own_environment(self, access: Access, *, home: Path) -> dict[str, str]:  # noqa: ARG002 - home is what counts
        """Where its configuration and its login are."""
        return {"CODEX_HOME": str(home / ".codex")}

    def files(self, access: Access) -> dict[str, str]:
        """A provider for the account's key. The key itself stays in the environment."""
        model = access.model or access.environment.get("OPENAI_MODEL") or DEFAULT_MODEL
        base_url = access.environment.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
        # A JSON string is a TOML string too.
        lines = [
            f"model = {json.dumps(model)}",
            'model_provider = "headrace"',
            "[model_providers.headrace]",
            'name = "headrace"',
            f"base_url = {json.dumps(base_url)}",
            f"env_key = {json.dumps(KEY)}",
            'wire_api = "responses"',
        ]
        return {".codex/config.toml": "\n".join(lines) + "\n"}

    def parser(self) -> StreamParser:
        """A parser for one session."""
        return _CodexParser()


class _CodexParser(StreamParser):
    def __init__(self) -> None:
        self._said = ""

    def out(self, line: str) -> list[Event]:
        record = Fields.of_line(line) or Fields()
        events: list[Event] = []
        match record.text("type"):
            case "thread.started":
                events.append(Started(session_id=record.text("thread_id")))
            case "item.started" if record.text("item", "type") == "command_execution":
                command = record.text("item", "command")[:MAX_TEXT_CHARS]
                events.append(ToolCall(record.text("item", "id"), "shell", command))
            case "item.completed":
                events += self._item(record.child("item"))
            case "error":
                # Only turn.failed is final: the CLI may still connect again.
                message = record.text("message")
                events.append(Retry(status=_status(message), message=message))
            case "turn.failed":
                message = record.text("error", "message")
                events.append(Final(ok=False, error=message or "turn.failed", status=_status(message)))
            case "turn.completed":
                usage = Usage(
                    input_tokens=record.count("usage", "input_tokens"),
                    cached_input_tokens=record.count("usage", "cached_input_tokens"),
                    output_tokens=record.count("usage", "output_tokens"),
                )
                events.append(Final(ok=True, text=self._said, usage=usage))
        return events

    def _item(self, item: Fields) -> list[Event]:
        match item.text("type"):
            case "agent_message":
                self._said = item.text("text")
                return [Text(self._said)]
            case "command_execution":
                output = item.text("aggregated_output")[-MAX_TEXT_CHARS:]
                return [ToolResult(item.text("id"), item.number("exit_code") == 0, output)]
            case "file_change":
                return [FileChanged(change.text("path")) for change in item.children("changes")]
        # Items of type "error" are notices, for example about a model it has no data on.
        return []


def _status(message: str) -> int:
    for words, status in STATUS_OF_MESSAGE.items():
        if words in message:
            return status
    return status_in(message)
