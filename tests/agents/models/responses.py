"""The responses protocol, which Codex speaks."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

from tests.agents.models.server import Json, ModelHandler, ModelServer

__all__ = ["ResponsesServer"]


class _Handler(ModelHandler):
    def is_model_call(self, path: str, body: Json) -> bool:
        return path.endswith("/responses") and bool(body)

    def conversation(self, body: Json) -> str:
        said = [item for item in body.get("input", []) if item.get("role") == "user"]
        return json.dumps(said)

    def answer(self, path: str, body: Json, turn: Json) -> None:
        tools = [tool.get("name", "") for tool in body.get("tools", [])]
        self.send_events(
            _events(turn, model=body.get("model"), tools=tools), named=True, done=False, headers=turn.get("headers", {})
        )


def _events(turn: Json, *, model: object, tools: list[str]) -> Iterator[Json]:
    response = {"id": f"resp_{uuid.uuid4().hex}", "object": "response", "model": model}
    yield {"type": "response.created", "response": {**response, "status": "in_progress"}}
    if "fail" in turn:
        yield {"type": "response.failed", "response": {**response, "status": "failed", "error": turn["fail"]}}
    if "fail" in turn or "cut" in turn:
        return
    items: list[Json] = []
    if "say" in turn:
        content = [{"type": "output_text", "text": turn["say"], "annotations": []}]
        items.append({"type": "message", "role": "assistant", "content": content})
    if "run" in turn:
        name = "exec_command" if "exec_command" in tools else "shell"
        # Without it the CLI answers after ten seconds that the command still runs.
        long: Json = {"cmd": turn["run"], "yield_time_ms": 30_000}
        words: Json = long if name == "exec_command" else {"command": ["bash", "-lc", turn["run"]]}
        call = {"call_id": f"call_{uuid.uuid4().hex}", "name": name, "arguments": json.dumps(words)}
        items.append({"type": "function_call", **call})
    for index, item in enumerate(items):
        full = {**item, "id": f"item_{uuid.uuid4().hex}", "status": "completed"}
        yield {"type": "response.output_item.done", "output_index": index, "item": full}
    usage = {
        "input_tokens": 1000,
        "input_tokens_details": {"cached_tokens": 500},
        "output_tokens": 40,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 1040,
    }
    yield {"type": "response.completed", "response": {**response, "status": "completed", "usage": usage}}


class ResponsesServer(ModelServer):
    """Scripted server for Codex: a provider's ``base_url`` is its ``url`` with ``/v1``."""

    handler = _Handler
