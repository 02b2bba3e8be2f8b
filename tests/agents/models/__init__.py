"""Scripted model servers for the four coding agents, on loopback, standard library only."""

from tests.agents.models.anthropic import AnthropicServer, unified_headers
from tests.agents.models.chat import ChatServer
from tests.agents.models.gemini import GeminiServer, gemini_error, quota_error
from tests.agents.models.responses import ResponsesServer
from tests.agents.models.server import Json, ModelServer, Recorded

SERVERS: dict[str, type[ModelServer]] = {
    "claude": AnthropicServer,
    "codex": ResponsesServer,
    "gemini": GeminiServer,
    "qwen": ChatServer,
}
"""The server that speaks an agent's protocol."""

__all__ = [
    "SERVERS",
    "AnthropicServer",
    "ChatServer",
    "GeminiServer",
    "Json",
    "ModelServer",
    "Recorded",
    "ResponsesServer",
    "gemini_error",
    "quota_error",
    "unified_headers",
]
