"""The messages protocol, which Claude Code speaks."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator

from tests.agents.models.server import Json, ModelHandler, ModelServer

__all__ = ["AnthropicServer", "unified_headers"]


def unified_headers(status: str, *, reset: int, claim: str = "five_hour") -> dict[str, object]:
    """Headers that tell a subscription's use; ``reset`` in seconds since 1970."""
    name = "anthropic-ratelimit-unified"
    return {
        f"{name}-status": status,
        f"{name}-reset": reset,
        f"{name}-representative-claim": claim,
        f"{name}-5h-status": status,
        f"{name}-5h-reset": reset,
        f"{name}-5h-utilization": "1.0" if status == "rejected" else "0.91",
        f"{name}-7d-status": "allowed",
        f"{name}-7d-reset": reset + 5 * 86400,
        f"{name}-7d-utilization": "0.5",
        f"{name}-overage-status": "rejected",
        f"{name}-overage-disabled-reason": "org_level_disabled",
        **({f"{name}-5h-surpassed-threshold": "0.9"} if status == "allowed_warning" else {}),
    }


class _Handler(ModelHandler):
    def is_model_call(self, path: str, body: Json) -> bool:
        return path.endswith("/v1/messages") and bool(body.get("tools"))

    def conversation(self, body: Json) -> str:
        return json.dumps(body["messages"][0])

    def answer_aside(self, path: str, body: Json) -> None:
        if path.endswith("/count_tokens"):
            self.send_json(200, {"input_tokens": 1000}, {})
        elif path.endswith("/v1/messages"):
            self.answer(path, body, {"say": "ok"})
        else:
            super().answer_aside(path, body)

    def answer(self, path: str, body: Json, turn: Json) -> None:
        blocks: list[Json] = []
        if "say" in turn:
            blocks.append({"type": "text", "text": turn["say"]})
        if "tool" in turn:
            call_id = f"toolu_{uuid.uuid4().hex}"
            blocks.append({"type": "tool_use", "id": call_id, "name": turn["tool"], "input": turn["input"]})
        if "run" in turn:
            call = {"command": turn["run"], "description": "As scripted"}
            blocks.append({"type": "tool_use", "id": f"toolu_{uuid.uuid4().hex}", "name": "Bash", "input": call})
        headers = turn.get("headers", {})
        message: Json = {
            "id": f"msg_{uuid.uuid4().hex}",
            "type": "message",
            "role": "assistant",
            "model": body.get("model"),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 1000, "cache_read_input_tokens": 500, "output_tokens": 1},
        }
        if body.get("stream"):
            self.send_events(_events(message, blocks, turn), named=True, done=False, headers=headers)
        elif "cut" in turn:
            self.close_connection = True
        else:
            stop = _stop_reason(turn)
            self.send_json(200, {**message, "content": blocks, "stop_reason": stop}, headers)


def _stop_reason(turn: Json) -> str:
    return "tool_use" if "run" in turn or "tool" in turn else "end_turn"


def _events(message: Json, blocks: list[Json], turn: Json) -> Iterator[Json]:
    yield {"type": "message_start", "message": message}
    if "fail" in turn:
        yield {"type": "error", "error": turn["fail"]}
    if "fail" in turn or "cut" in turn:
        return
    for index, block in enumerate(blocks):
        if block["type"] == "text":
            empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
        else:
            empty = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": _stop_reason(turn), "stop_sequence": None},
        "usage": {"output_tokens": 40},
    }
    yield {"type": "message_stop"}


class AnthropicServer(ModelServer):
    """Scripted server for Claude Code: ``ANTHROPIC_BASE_URL`` is its ``url``."""

    handler = _Handler
