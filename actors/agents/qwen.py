"""Qwen Code: command line, environment, configuration, and its stream (version 0.24.4 was measured).

Its stream is modelled on Claude Code's. It tells no cost. Versions before 0.24 report errors of the API as success.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import ClassVar

from actors.agents.base import (
    MAX_TEXT_CHARS,
    Access,
    Adapter,
    Event,
    Final,
    Retry,
    Started,
    StreamParser,
    Usage,
    status_in,
)
from actors.agents.claude import MessageParser
from actors.agents.fields import Fields

__all__ = ["Qwen"]

DEFAULT_MODEL = "qwen3-coder-plus"
SETTINGS = {
    "privacy": {"usageStatisticsEnabled": False},
    "telemetry": {"enabled": False},
    "general": {"enableAutoUpdate": False, "disableAutoUpdate": True},
    "security": {"auth": {"selectedType": "openai"}},
    # With the default it is silent for up to two minutes before it says that it is turned away.
    "model": {"generationConfig": {"maxRetries": 0}},
}
"""Quiet on the network, no update, a key instead of a login."""

RETRYING = re.compile(r"^Retrying in \d+s \(attempt")


class Qwen(Adapter):
    """Speaks to any server with the chat completions protocol."""

    name = "qwen"
    program = "qwen"
    package = "@qwen-code/qwen-code"
    oldest = (0, 24, 0)
    measured = (0, 24, 4)
    briefing_file = "QWEN.md"
    configuration = (".qwen",)
    variables = frozenset({"OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL"})
    fixed_environment: ClassVar = {"QWEN_CODE_SUPPRESS_YOLO_WARNING": "1"}
    fixed_files: ClassVar = {".qwen/settings.json": json.dumps(SETTINGS, indent=1)}

    def arguments(self, access: Access) -> tuple[str, ...]:  # noqa: ARG002 - the model is in the environment
        """Without a prompt it reads one from standard input."""
        return ("--yolo", "-o", "stream-json")

    def own_environment(self, access: Access, *, home: Path) -> dict[str, str]:
        """The model is named in the environment."""
        model = access.model or access.environment.get("OPENAI_MODEL") or DEFAULT_MODEL
        return {**super().own_environment(access, home=home), "OPENAI_MODEL": model}

    def parser(self) -> StreamParser:
        """A parser for one session."""
        return _QwenParser()


class _QwenParser(MessageParser):
    def system(self, record: Fields) -> list[Event]:
        match record.text("subtype"):
            case "init":
                started = Started(
                    session_id=record.text("session_id"),
                    model=record.text("model"),
                    version=record.text("qwen_code_version"),
                )
                return [started]
            case "retry":
                return [Retry()]
        return []

    def err(self, line: str) -> list[Event]:
        retrying = RETRYING.match(line)
        return [Retry(status=status_in(line), message=line[:MAX_TEXT_CHARS])] if retrying else []

    def result(self, record: Fields) -> Final:
        usage = self.usage(record.child("usage"))
        text, error = record.text("result"), record.text("error", "message")
        ok = record.flag("is_error") is False and record.text("subtype") == "success"
        if ok and text.startswith("[API Error:") and not usage.output_tokens:
            ok, error = False, text
        return Final(
            ok=ok,
            text=text if ok else "",
            error="" if ok else error or text or record.text("subtype"),
            status=0 if ok else status_in(error),
            usage=usage,
        )

    def usage(self, record: Fields) -> Usage:
        return Usage(
            input_tokens=record.count("input_tokens"),
            cached_input_tokens=record.count("cache_read_input_tokens"),
            output_tokens=record.count("output_tokens"),
        )
