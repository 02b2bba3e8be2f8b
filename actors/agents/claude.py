"""Claude Code: command line, environment, and its stream (version 2.1.330 was measured)."""

from __future__ import annotations

from pathlib import Path
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
    is_root,
    status_in,
)
from actors.agents.fields import Fields

__all__ = ["Claude", "MessageParser"]

WRITING_TOOLS = frozenset({"Write", "Edit", "MultiEdit", "NotebookEdit", "write_file", "edit", "replace"})


class Claude(Adapter):
    """The only one of the four that tells what a session cost."""

    name = "claude"
    program = "claude"
    package = "@anthropic-ai/claude-code"
    oldest = (2, 1, 197)
    measured = (2, 1, 330)
    briefing_file = "CLAUDE.md"
    configuration = (".claude", ".claude.json")
    tells_cost = True
    # Without these it calls its maker, whatever the base URL is.
    fixed_environment: ClassVar = {"DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
    variables = frozenset(
        {
            "ANTHROPIC_API_KEY",
            "ANTHROPIC_AUTH_TOKEN",
            "ANTHROPIC_BASE_URL",
            "ANTHROPIC_MODEL",
            "CLAUDE_CODE_OAUTH_TOKEN",
        }
    )

    def arguments(self, access: Access) -> tuple[str, ...]:
        """Print mode with a stream; the workspace is disposable, so nothing is asked."""
        model = ("--model", access.model) if access.model else ()
        return (
            "-p",
            "--dangerously-skip-permissions",
            "--output-format",
            "stream-json",
            "--verbose",
            "--no-session-persistence",
            *model,
        )

    def own_environment(self, access: Access, *, home: Path) -> dict[str, str]:
        """For root it works only where it is told that this is a sandbox."""
        return {**super().own_environment(access, home=home), **({"IS_SANDBOX": "1"} if is_root() else {})}

    def parser(self) -> StreamParser:
        """A parser for one session."""
        return _ClaudeParser()


class MessageParser(StreamParser):
    """The stream of messages with content blocks, which Qwen Code has taken over from Claude Code."""

    def __init__(self) -> None:
        self._usage: dict[str, Usage] = {}

    def usage_so_far(self) -> Usage | None:
        """Sum over the messages; the output of each is what was known when it began."""
        if not self._usage:
            return None
        messages = self._usage.values()
        return Usage(
            input_tokens=sum(usage.input_tokens for usage in messages),
            cached_input_tokens=sum(usage.cached_input_tokens for usage in messages),
            output_tokens=sum(usage.output_tokens for usage in messages),
            partial=True,
        )

    def out(self, line: str) -> list[Event]:
        """Events of a line of standard output."""
        record = Fields.of_line(line)
        if record is None:
            return []
        match record.text("type"):
            case "system":
                return self.system(record)
            case "assistant":
                return self._assistant(record)
            case "user":
                return [
                    ToolResult(
                        block.text("tool_use_id"), not block.flag("is_error"), block.text("content")[:MAX_TEXT_CHARS]
                    )
                    for block in record.children("message", "content")
                    if block.text("type") == "tool_result"
                ]
            case "result":
                return [self.result(record)]
        return []

    def system(self, record: Fields) -> list[Event]:
        """Events of a ``system`` line."""
        raise NotImplementedError

    def synthetic(self, record: Fields) -> None:
        """Takes an ``assistant`` line in which the CLI, and not the model, speaks about an error."""

    def result(self, record: Fields) -> Final:
        """The final event."""
        raise NotImplementedError

    def usage(self, record: Fields) -> Usage:
        """Tokens of a ``usage`` object."""
        raise NotImplementedError

    def _assistant(self, record: Fields) -> list[Event]:
        message = record.child("message")
        if message.text("model") == "<synthetic>":
            self.synthetic(record)
            return []  # the result repeats it
        usage = self.usage(message.child("usage"))
        if usage.input_tokens:
            self._usage[message.text("id")] = usage
        events: list[Event] = []
        for block in message.children("content"):
            if block.text("type") == "text":
                events.append(Text(block.text("text")))
            elif block.text("type") == "tool_use":
                given = block.child("input")
                path = given.text("file_path") or given.text("notebook_path")
                detail = given.text("command") or path
                events.append(ToolCall(block.text("id"), block.text("name"), detail[:MAX_TEXT_CHARS]))
                if path and block.text("name") in WRITING_TOOLS:
                    events.append(FileChanged(path))
        return events


class _ClaudeParser(MessageParser):
    REFUSED = frozenset({"authentication_failed", "billing_error"})

    def __init__(self) -> None:
        super().__init__()
        self._refused = False

    def synthetic(self, record: Fields) -> None:
        self._refused = record.text("error") in self.REFUSED

    def system(self, record: Fields) -> list[Event]:
        match record.text("subtype"):
            case "init":
                started = Started(
                    session_id=record.text("session_id"),
                    model=record.text("model"),
                    version=record.text("claude_code_version"),
                )
                return [started]
            case "api_retry":
                return [Retry(status=record.count("error_status"), message=record.text("error"))]
        return []

    def result(self, record: Fields) -> Final:
        # The subtype of an error is "success" too.
        status = record.count("api_error_status")
        text = record.text("result")
        ok = record.flag("is_error") is False and not status and record.text("subtype") == "success"
        models = record.child("modelUsage")
        costs = {name: models.number(name, "costUSD") or 0.0 for name in models}
        return Final(
            ok=ok,
            text=text if ok else "",
            error="" if ok else text or record.text("subtype"),
            status=0 if ok else status or status_in(text),
            refused=not ok and self._refused,
            usage=self.usage(record.child("usage")),
            cost_usd=record.number("total_cost_usd"),
            # Side requests go to smaller models; the dearest one did the work.
            model=max(costs, key=lambda name: costs[name], default=""),
        )

    def usage(self, record: Fields) -> Usage:
        cached = record.count("cache_read_input_tokens")
        return Usage(
            input_tokens=record.count("input_tokens") + record.count("cache_creation_input_tokens") + cached,
            cached_input_tokens=cached,
            output_tokens=record.count("output_tokens"),
        )
