"""The generateContent protocol, which Gemini CLI speaks."""

from __future__ import annotations

import json
import uuid

from tests.agents.models.server import Json, ModelHandler, ModelServer

__all__ = ["GeminiServer", "gemini_error", "quota_error"]

TYPES = "type.googleapis.com/google.rpc."


def gemini_error(code: int, status: str, message: str, details: list[Json] | None = None) -> Json:
    """An error body."""
    return {"error": {"code": code, "status": status, "message": message, **({"details": details} if details else {})}}


def quota_error(*, quota_id: str, retry_delay: str | None, message: str) -> Json:
    """An error about an exhausted quota; ``retry_delay`` such as ``3600s``."""
    violation = {"quotaMetric": "generate_content_free_tier_requests", "quotaId": quota_id, "quotaValue": "250"}
    details: list[Json] = [{"@type": TYPES + "QuotaFailure", "violations": [violation]}]
    if retry_delay:
        details.append({"@type": TYPES + "RetryInfo", "retryDelay": retry_delay})
    return gemini_error(429, "RESOURCE_EXHAUSTED", message, details)


class _Handler(ModelHandler):
    def is_model_call(self, path: str, body: Json) -> bool:
        return path.endswith((":generateContent", ":streamGenerateContent")) and bool(body.get("tools"))

    def conversation(self, body: Json) -> str:
        return json.dumps(body["contents"][0])

    def answer_aside(self, path: str, body: Json) -> None:
        if path.endswith(":countTokens"):
            self.send_json(200, {"totalTokens": 1000}, {})
        elif "enerateContent" in path:
            # Which model shall answer, and the like: JSON that serves all such questions.
            choice = {"reasoning": "simple", "model_choice": "flash", "complexity_score": 10}
            self.answer(path, body, {"say": json.dumps({**choice, "complexity_reasoning": "simple"})})
        else:
            super().answer_aside(path, body)

    def answer(self, path: str, body: Json, turn: Json) -> None:
        parts: list[Json] = []
        if "say" in turn:
            parts.append({"text": turn["say"]})
        if "run" in turn:
            words = {"command": turn["run"], "description": "As scripted"}
            parts.append({"functionCall": {"name": "run_shell_command", "args": words}})
        candidate: Json = {"content": {"role": "model", "parts": parts}, "index": 0}
        if "cut" not in turn:
            candidate["finishReason"] = "STOP"
        answer = {
            "candidates": [candidate],
            "modelVersion": path.rpartition("/")[2].partition(":")[0],
            "responseId": uuid.uuid4().hex,
            "usageMetadata": {
                "promptTokenCount": 1000,
                "cachedContentTokenCount": 500,
                "candidatesTokenCount": 40,
                "totalTokenCount": 1040,
            },
        }
        headers = turn.get("headers", {})
        if "stream" not in path:
            self.send_json(200, answer, headers)
            return
        events = [turn["fail"]] if "fail" in turn else [answer] if parts else []
        self.send_events(events, named=False, done=False, headers=headers)


class GeminiServer(ModelServer):
    """Scripted server for Gemini CLI: ``GOOGLE_GEMINI_BASE_URL`` is its ``url``."""

    handler = _Handler
