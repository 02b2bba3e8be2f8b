"""What the adapters of all coding agents have in common: how one is started, and what its stream says.

An adapter is pure: it makes a command line, an environment and files out of an account, and events out of lines. It
starts nothing and reads no file; least of all does it look for credentials.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import msgspec

from actors.agents.redact import secrets_of
from events.errors import InputError

__all__ = [
    "Access",
    "Adapter",
    "Event",
    "FileChanged",
    "Final",
    "Launch",
    "Retry",
    "Started",
    "StreamParser",
    "Text",
    "ToolCall",
    "ToolResult",
    "Usage",
    "Version",
    "status_in",
]

Version = tuple[int, int, int]

MAX_TEXT_CHARS = 4000
"""Of a tool's call or result; the transcript holds the whole."""

COMMON_VARIABLES = frozenset(
    name for upper in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY") for name in (upper, upper.lower())
) | {"SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"}


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of a session. ``input_tokens`` counts all input, also the ``cached_input_tokens`` among it.

    ``partial``: the session ended before the CLI summed up; what its messages said until then, a lower bound.
    """

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    partial: bool = False


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """The session has begun. Empty where the CLI does not tell."""

    session_id: str = ""
    model: str = ""
    version: str = ""


class Text(msgspec.Struct, frozen=True):
    """Words of the model. ``more``: they go on the text before."""

    text: str
    more: bool = False


class ToolCall(msgspec.Struct, frozen=True):
    """The CLI runs a tool: a shell command, or the path it works on, in ``detail``."""

    call_id: str
    tool: str
    detail: str


class ToolResult(msgspec.Struct, frozen=True):
    """A tool has ended."""

    call_id: str
    ok: bool
    text: str


class FileChanged(msgspec.Struct, frozen=True):
    """A tool was told to write this file. What a shell command writes is not announced by any CLI."""

    path: str


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """The CLI tries a request again. ``status``: the HTTP status, 0 if it does not tell."""

    status: int = 0
    message: str = ""


class Final(msgspec.Struct, frozen=True, kw_only=True):
    """The CLI says that the session is over.

    ``status``: the HTTP status of an error, 0 if unknown. ``refused``: the error is about the account, whatever its
    status is.
    """

    ok: bool
    text: str = ""
    error: str = ""
    status: int = 0
    refused: bool = False
    usage: Usage | None = None
    cost_usd: float | None = None
    model: str = ""


Event = Started | Text | ToolCall | ToolResult | FileChanged | Retry | Final


class StreamParser(ABC):
    """Turns one session's lines into events. Never raises; what it does not know it passes over."""

    @abstractmethod
    def out(self, line: str) -> list[Event]:
        """Events of a line of standard output."""

    def err(self, line: str) -> list[Event]:  # noqa: ARG002 - three of the four say nothing there
        """Events of a line of standard error."""
        return []

    def usage_so_far(self) -> Usage | None:
        """What the messages until now said about tokens; ``None`` where they say nothing."""
        return None


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """How an account is reached.

    ``environment``: its variables, of those that the adapter allows. ``home``: a home folder in which somebody has
    logged in with the CLI; it is used as it is, because the CLI renews its login there. ``None``: a fresh one.
    """

    environment: dict[str, str] = {}
    home: str | None = None
    model: str | None = None


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """How to start a session. ``files``: path below the fresh home to text, to be written before."""

    command: tuple[str, ...]
    environment: dict[str, str]
    files: dict[str, str]
    secrets: tuple[str, ...]

    def prepare(self, home: Path) -> None:
        """Makes the fresh home with its files and its folder for temporary ones, for this user only."""
        for folder in (home, home / "tmp"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, text in self.files.items():
            path = home / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(text, encoding="utf-8")


class Adapter(ABC):
    """One CLI."""

    name: ClassVar[str]
    program: ClassVar[str]
    package: ClassVar[str]
    """Its name in the npm registry."""
    oldest: ClassVar[Version]
    """What is older behaves otherwise than measured, and is refused."""
    measured: ClassVar[Version]
    """The newest whose behaviour was measured; a newer one is warned about."""
    variables: ClassVar[frozenset[str]]
    """What an account may set."""
    briefing_file: ClassVar[str] = "AGENTS.md"
    """The file of its working folder that it reads by itself, before the prompt."""
    configuration: ClassVar[tuple[str, ...]]
    """Names below a home in which it keeps its login and settings."""
    tells_cost: ClassVar[bool] = False
    fixed_environment: ClassVar[Mapping[str, str]] = {}
    """Variables that every session has."""
    fixed_files: ClassVar[Mapping[str, str]] = {}
    """Configuration of a fresh home: path to text."""

    def allowed(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Of an environment, what this CLI may see."""
        return {name: value for name, value in environment.items() if name in self.variables | COMMON_VARIABLES}

    def launch(self, access: Access, *, program: Path, search_path: str, home: Path) -> Launch:
        """Makes the launch of a session.

        Args:
            access: the account.
            program: the CLI.
            search_path: ``PATH`` of the session, with the folders of ``node`` and of the CLI.
            home: the fresh folder of this session: home, unless the account has its own, and temporary files.

        Raises:
            InputError: the account sets a variable that is not allowed.
        """
        for name in access.environment:
            if name not in self.variables | COMMON_VARIABLES:
                known = ", ".join(sorted(self.variables))
                raise InputError(
                    f"{self.name}: an account may not set {name}; it may set {known}, proxies, certificates"
                )
        environment = {
            "PATH": search_path,
            "HOME": access.home or str(home),
            "TMPDIR": str(home / "tmp"),
            "TERM": "dumb",
            "LANG": "C.UTF-8",
            "TZ": "UTC",  # reset times are printed in local time, without a zone
            **access.environment,
            **self.own_environment(access, home=Path(access.home or home)),
        }
        return Launch(
            command=(str(program), *self.arguments(access)),
            environment=environment,
            files={} if access.home else self.files(access),
            secrets=secrets_of(access.environment),
        )

    @abstractmethod
    def arguments(self, access: Access) -> tuple[str, ...]:
        """The command line after the program. The prompt comes by standard input."""

    def own_environment(self, access: Access, *, home: Path) -> dict[str, str]:  # noqa: ARG002 - a hook
        """Variables of a session that the account cannot set otherwise."""
        return dict(self.fixed_environment)

    def files(self, access: Access) -> dict[str, str]:  # noqa: ARG002 - a hook
        """Configuration for a fresh home: path to text."""
        return dict(self.fixed_files)

    @abstractmethod
    def parser(self) -> StreamParser:
        """A parser for one session."""


STATUS = re.compile(r"(?:\bstatus:? |\bstatus code |\bAPI Error: |\"code\": ?|\()([45]\d{2})\b")


def status_in(message: str) -> int:
    """The HTTP status that an error message names, or 0."""
    found = STATUS.search(message)
    return int(found.group(1)) if found else 0


def is_root() -> bool:
    """Some CLIs refuse to work for root unless they are told that it is a sandbox."""
    return os.geteuid() == 0
