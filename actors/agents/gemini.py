"""Gemini CLI: command line, environment, configuration, and its stream (version 0.61.0 was measured).

Its stream tells no cost. While it waits to try again it is silent on standard output and says so on standard error.
"""

from __future__ import annotations

import json
import re
from typing import ClassVar

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
from actors.agents.claude import WRITING_TOOLS
from actors.agents.fields import Fields

__all__ = ["Gemini"]

DEFAULT_MODEL = "gemini-2.5-flash"
"""Without a model the CLI asks another model which one to take, and tries that for more than a minute."""

SETTINGS = {
    "general": {"enableAutoUpdate": False, "enableAutoUpdateNotification": False},
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
    "security": {"auth": {"selectedType": "gemini-api-key"}},
}
"""Quiet on the network, no update, a key instead of a login."""

BAD_KEY = "API key not valid"
"""An error of status 400."""

RETRYING = re.compile(r"^Attempt \d+ failed(?: with status (?P<status>\d{3})\b|:)")
"""Without a status where the server suggested a time; the message may go on in the next line."""


class Gemini(Adapter):
    """Speaks to Google's API, or to a server with its protocol."""

    name = "gemini"
    program = "gemini"
    package = "@google/gemini-cli"
    oldest = (0, 61, 0)
    measured = (0, 61, 0)
    briefing_file = "GEMINI.md"
    configuration = (".gemini",)
    variables = frozenset({"GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GEMINI_MODEL"})
    # In a folder that it does not trust it refuses to work.
    fixed_environment: ClassVar = {"GEMINI_CLI_TRUST_WORKSPACE": "true", "GEMINI_TELEMETRY_ENABLED": "false"}
    fixed_files: ClassVar = {".gemini/settings.json": json.dumps(SETTINGS, indent=1)}

    def arguments(self, access: Access) -> tuple[str, ...]:
        """Without a prompt it reads one from standard input."""
        model = access.model or access.environment.get("GEMINI_MODEL") or DEFAULT_MODEL
        return ("--yolo", "-o", "stream-json", "-m", model)

    def parser(self) -> StreamParser:
        """A parser for one session."""
        return _GeminiParser()


class _GeminiParser(StreamParser):
    def __init__(self) -> None:
        self._said = ""
        self._speaking = False
        self._error = ""

    def out(self, line: str) -> list[Event]:
        record = Fields.of_line(line) or Fields()
        kind = record.text("type")
        events: list[Event] = []
        match kind:
            case "init":
                model = record.text("model")
                events.append(Started(session_id=record.text("session_id"), model="" if model == "auto" else model))
            case "message" if record.text("role") == "assistant":
                events.append(self._assistant(record.text("content")))
            case "tool_use":
                events += self._tool(record)
            case "tool_result":
                text = (record.text("output") or record.text("error", "message"))[:MAX_TEXT_CHARS]
                events.append(ToolResult(record.text("tool_id"), record.text("status") == "success", text))
            case "error":
                self._error = record.text("message")
            case "result":
                events.append(self._result(record))
        self._speaking = kind == "message"
        return events

    def err(self, line: str) -> list[Event]:
        found = RETRYING.match(line)
        return [Retry(status=int(found["status"] or 0), message=line[:MAX_TEXT_CHARS])] if found else []

    def _assistant(self, text: str) -> Text:
        """A piece of what the model says; a new text begins after anything else."""
        more = self._speaking
        self._said = self._said + text if more else text
        return Text(text, more)

    def _tool(self, record: Fields) -> list[Event]:
        given = record.child("parameters")
        path = given.text("file_path")
        detail = (given.text("command") or path)[:MAX_TEXT_CHARS]
        events: list[Event] = [ToolCall(record.text("tool_id"), record.text("tool_name"), detail)]
        if path and record.text("tool_name") in WRITING_TOOLS:
            events.append(FileChanged(path))
        return events

    def _result(self, record: Fields) -> Final:
        ok = record.text("status") == "success"
        error = record.text("error", "message") or self._error
        models = record.child("stats", "models")
        used = {name: models.count(name, "total_tokens") for name in models}
        usage = Usage(
            input_tokens=record.count("stats", "input_tokens"),
            cached_input_tokens=record.count("stats", "cached"),
            output_tokens=record.count("stats", "output_tokens"),
        )
        return Final(
            ok=ok,
            text=self._said if ok else "",
            error="" if ok else error or record.text("status") or "error",
            status=0 if ok else status_in(error),
            refused=BAD_KEY in error,
            usage=usage,
            model=max(used, key=lambda name: used[name], default=""),
        )
