"""The chat completions protocol, which Qwen Code speaks."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator

from tests.agents.models.server import Json, ModelHandler, ModelServer

__all__ = ["ChatServer"]


class _Handler(ModelHandler):
    def is_model_call(self, path: str, body: Json) -> bool:
        return path.endswith("/chat/completions") and bool(body.get("tools"))

    def conversation(self, body: Json) -> str:
        return json.dumps([message for message in body["messages"] if message.get("role") == "user"][:1])

    def answer_aside(self, path: str, body: Json) -> None:
        if path.endswith("/chat/completions"):
            self.answer(path, body, {"say": "ok"})
        else:
            super().answer_aside(path, body)

    def answer(self, path: str, body: Json, turn: Json) -> None:
        headers = turn.get("headers", {})
        if body.get("stream"):
            events = _chunks(turn, model=body.get("model"))
            self.send_events(events, named=False, done="cut" not in turn, headers=headers)
            return
        message: Json = {"role": "assistant", "content": turn.get("say")}
        if "run" in turn:
            message["tool_calls"] = [_call(turn["run"])]
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if "run" in turn else "stop"}
        self.send_json(
            200, {**_frame("chat.completion", body.get("model")), "choices": [choice], "usage": USAGE}, headers
        )


USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 40,
    "total_tokens": 1040,
    "prompt_tokens_details": {"cached_tokens": 500},
}


def _frame(kind: str, model: object) -> Json:
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def _call(command: str) -> Json:
    words = {"command": command, "description": "As scripted", "is_background": False}
    function = {"name": "run_shell_command", "arguments": json.dumps(words)}
    return {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function}


def _chunks(turn: Json, *, model: object) -> Iterator[Json]:
    frame = _frame("chat.completion.chunk", model)

    def chunk(delta: Json, finish: str | None = None) -> Json:
        return {**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    yield chunk({"role": "assistant", "content": ""})
    if "fail" in turn:
        yield {"error": turn["fail"]}
    if "fail" in turn or "cut" in turn:
        return
    if "say" in turn:
        yield chunk({"content": turn["say"]})
    if "run" in turn:
        yield chunk({"tool_calls": [{"index": 0, **_call(turn["run"])}]})
    yield chunk({}, "tool_calls" if "run" in turn else "stop")
    yield {**frame, "choices": [], "usage": USAGE}


class ChatServer(ModelServer):
    """Scripted server for Qwen Code: ``OPENAI_BASE_URL`` is its ``url`` with ``/v1``."""

    handler = _Handler
