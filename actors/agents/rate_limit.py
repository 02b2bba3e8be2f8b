"""Finds in a coding agent's output that its account has run into a limit, and when the limit ends.

Rules: CONTRACTS.md section 2; what the CLIs print: measured, tests/agents/streams. Two readings of the same signs:

- :func:`check` judges a whole output after the fact.
- :class:`Detector` is fed line by line and says when a session is better ended: at once where the limit is certain, or
  where the CLI announces a wait beyond ``patience_s``; otherwise when requests were turned away (429) and nothing got
  on for ``patience_s`` seconds. A retry that succeeds within that time is no limit.

Only what the CLI itself says is read: its own event types on standard output, its own retry lines on standard error.
Whatever the model, a tool or a file says stands within other events and is never looked at.
"""

from __future__ import annotations

import enum
import math
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import ClassVar

import msgspec

from actors.agents.fields import Fields
from actors.agents.reset_times import from_epoch, reset_time

__all__ = ["AGENTS", "Detector", "Limit", "check"]

PATIENCE_S = 20.0
MAX_MESSAGE_CHARS = 500
HTTP_TOO_MANY = 429


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """An account has run into a limit. ``reset_at``: when it ends, in UTC; ``None``: the CLI does not tell."""

    agent: str
    reset_at: datetime | None
    message: str


class _Kind(enum.Enum):
    LIMITED = "limited"
    """The CLI says so."""
    TURNED_AWAY = "turned away"
    """A request got 429 and will be tried again."""
    PROGRESS = "progress"
    """A request succeeded."""
    SUCCESS = "success"
    """The session ended well: whatever was tried again, succeeded."""


class _Sign(msgspec.Struct, frozen=True):
    kind: _Kind
    message: str = ""
    reset_at: datetime | None = None
    wait_s: float = 0.0


PROGRESS = _Sign(_Kind.PROGRESS)
SUCCESS = _Sign(_Kind.SUCCESS)


def check(agent_name: str, raw_output: str, *, now: datetime | None = None) -> tuple[bool, datetime | None]:
    """Judges the output of a session that is over.

    Args:
        agent_name: ``claude``, ``codex``, ``gemini`` or ``qwen``; of another nothing is known.
        raw_output: what it printed, standard output and standard error, in any order of lines.
        now: the time to which relative and incomplete times refer; ``None``: the current time.

    Returns:
        Whether the account is limited, and the end of the limit in UTC, ``None`` if unknown or not limited.
    """
    reader = READERS.get(agent_name.strip().lower())
    if reader is None:
        return False, None
    moment = now or datetime.now(UTC)
    detector = Detector(agent_name, patience_s=math.inf, clock=lambda: moment)
    for line in raw_output.split("\n"):
        detector.feed(line, stderr=Fields.of_line(line) is None)
    limit = detector.at_end()
    return (True, limit.reset_at) if limit is not None else (False, None)


class Detector:
    """One session's signs of a limit. Never raises on what it is fed.

    ``limit`` is what is certain by now; once set, it stays, and only its reset time may get better.
    """

    def __init__(
        self,
        agent: str,
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes a detector.

        Args:
            agent: which CLI.
            patience_s: seconds that a CLI may try requests again that got 429.
            clock: the time to which incomplete times refer.
            monotonic: seconds, for ``patience_s``.

        Raises:
            KeyError: the agent is unknown.
        """
        self.agent = agent.strip().lower()
        self.limit: Limit | None = None
        self._reader = READERS[self.agent]()
        self._patience_s, self._clock, self._monotonic = patience_s, clock, monotonic
        self._succeeded = False
        self._pending: _Sign | None = None
        self._pending_since = 0.0

    def feed(self, line: str, *, stderr: bool = False) -> Limit | None:
        """Takes one line; returns the limit if the session is to be ended."""
        line = line.rstrip("\r\n")
        now = self._clock()
        sign = self._reader.err(line, now=now) if stderr else self._read_out(line, now=now)
        if sign is None:
            return self.limit
        match sign.kind:
            case _Kind.PROGRESS:
                self._pending = None
            case _Kind.SUCCESS:
                self._pending = None
                self._succeeded = True
            case _Kind.LIMITED:
                self._certain(sign)
            case _Kind.TURNED_AWAY if not self._succeeded:
                if self._pending is None:
                    self._pending_since = self._monotonic()
                earlier = self._pending.reset_at if self._pending else None
                self._pending = msgspec.structs.replace(sign, reset_at=sign.reset_at or earlier)
                if sign.wait_s > self._patience_s:
                    self._certain(self._pending)
        return self.limit

    def poll(self) -> Limit | None:
        """As time passes without a line; returns the limit if the session is to be ended."""
        if self._pending is not None and self._monotonic() - self._pending_since >= self._patience_s:
            self._certain(self._pending)
        return self.limit

    def at_end(self) -> Limit | None:
        """The verdict when the session is over: one that ended while it was turned away is limited."""
        if self._pending is not None:
            self._certain(self._pending)
        return self.limit

    def _read_out(self, line: str, *, now: datetime) -> _Sign | None:
        record = Fields.of_line(line)
        return self._reader.out(record, now=now) if record is not None else None

    def _certain(self, sign: _Sign) -> None:
        self.limit = Limit(agent=self.agent, reset_at=sign.reset_at, message=sign.message[:MAX_MESSAGE_CHARS])
        self._pending = None


class _Reader:
    """Reads one CLI's lines. It may remember what earlier lines said."""

    name: ClassVar[str]

    def out(self, record: Fields, *, now: datetime) -> _Sign | None:
        """The sign in an event of standard output."""
        raise NotImplementedError

    def err(self, line: str, *, now: datetime) -> _Sign | None:  # noqa: ARG002 - only one CLI speaks there
        """The sign in a line of standard error."""
        return None


class _Claude(_Reader):
    """``rate_limit_event``, and for accounts with a key, which have none: retries and the result's status."""

    name = "claude"
    OPEN = frozenset({"allowed", "allowed_warning"})

    def __init__(self) -> None:
        self._resets_at: datetime | None = None
        self._overage_resets_at: datetime | None = None
        self._blocked = False

    def out(self, record: Fields, *, now: datetime) -> _Sign | None:
        match record.text("type"):
            case "rate_limit_event":
                return self._event(record.child("rate_limit_info"))
            case "system" if record.text("subtype") == "api_retry" and record.count("error_status") == HTTP_TOO_MANY:
                wait_s = (record.number("retry_delay_ms") or 0.0) / 1000
                return _Sign(_Kind.TURNED_AWAY, "429: the CLI tries again", wait_s=wait_s)
            case "result" if record.count("api_error_status") == HTTP_TOO_MANY:
                text = record.text("result")
                return _Sign(_Kind.LIMITED, text, self._reset_at() or reset_time(text, now=now))
            case "assistant" if record.text("message", "model") != "<synthetic>":
                return PROGRESS
            case "result" if record.flag("is_error") is False:
                return SUCCESS
        return None

    def _event(self, info: Fields) -> _Sign | None:
        self._resets_at = from_epoch(info.number("resetsAt")) or self._resets_at
        self._overage_resets_at = from_epoch(info.number("overageResetsAt")) or self._overage_resets_at
        status, overage = info.text("status"), info.text("overageStatus")
        # An organisation that has not bought overage has it "rejected" on every successful call, with a reason.
        overage_counts = overage and not info.text("overageDisabledReason")
        if (status and status not in self.OPEN) or (overage_counts and overage not in self.OPEN):
            self._blocked = True
            return _Sign(_Kind.LIMITED, f"{info.text('rateLimitType') or 'usage'} limit: {status}", self._reset_at())
        # A later record may bring the time that the blocking one lacked.
        return _Sign(_Kind.LIMITED, "usage limit", self._reset_at()) if self._blocked else None

    def _reset_at(self) -> datetime | None:
        return self._resets_at or self._overage_resets_at


class _Codex(_Reader):
    """``error`` and ``turn.failed``. ``Reconnecting`` is tried again, and with a long retry-after in silence."""

    name = "codex"
    LIMIT = re.compile(r"usage limit|quota exceeded|exceeded your current quota", re.IGNORECASE)
    RATE = re.compile(r"\b429\b|rate limit", re.IGNORECASE)
    AGAIN = re.compile(r"^Reconnecting")

    def out(self, record: Fields, *, now: datetime) -> _Sign | None:
        match record.text("type"):
            case "error":
                return self._message(record.text("message"), now=now)
            case "turn.failed":
                return self._message(record.text("error", "message"), now=now)
            case "turn.completed":
                return SUCCESS
            case "item.started" | "item.completed" if record.text("item", "type") != "error":
                return PROGRESS
        return None

    def _message(self, message: str, *, now: datetime) -> _Sign | None:
        reset_at = reset_time(message, now=now)
        if self.LIMIT.search(message):
            return _Sign(_Kind.LIMITED, message, reset_at)
        if not self.RATE.search(message):
            return None
        if self.AGAIN.match(message):
            return _Sign(_Kind.TURNED_AWAY, message, reset_at)
        return _Sign(_Kind.LIMITED, message, reset_at)


class _Gemini(_Reader):
    """The result's error; while it tries again, lines on standard error and nothing else."""

    name = "gemini"
    QUOTA = re.compile(
        r"exceeded your current quota|exhausted your (daily )?quota|quota exceeded|resource has been exhausted"
        r"|RESOURCE_EXHAUSTED|rate limit|\"code\": ?429\b",
        re.IGNORECASE,
    )
    ATTEMPT = re.compile(r"^Attempt \d+ failed(?: with status (?P<status>\d{3}))?\b")
    CONTINUED = re.compile(r"^Suggested retry after [\d.]+s")
    WAIT_MS = re.compile(r"Retrying after (\d+)ms")

    def __init__(self) -> None:
        self._attempt_about_quota = False

    def out(self, record: Fields, *, now: datetime) -> _Sign | None:
        match record.text("type"):
            case "result" if record.text("status") == "error":
                message = record.text("error", "message")
                if self.QUOTA.search(message):
                    return _Sign(_Kind.LIMITED, message, reset_time(message, now=now))
            case "result" if record.text("status") == "success":
                return SUCCESS
            case "tool_use" | "tool_result":
                return PROGRESS
            case "message" if record.text("role") == "assistant":
                return PROGRESS
        return None

    def err(self, line: str, *, now: datetime) -> _Sign | None:
        attempt = self.ATTEMPT.match(line)
        continued = self._attempt_about_quota and self.CONTINUED.match(line)
        if attempt:
            status = attempt["status"]
            about_quota = status == str(HTTP_TOO_MANY) if status else bool(self.QUOTA.search(line))
            self._attempt_about_quota = about_quota
            if not about_quota:
                return None
        elif not continued:
            return None
        wait = self.WAIT_MS.search(line)
        # The wait to the next attempt is the CLI's own choice; the suggested one is the server's.
        return _Sign(
            _Kind.TURNED_AWAY,
            line,
            reset_time(line.split(" Retrying ", maxsplit=1)[0], now=now),
            float(wait[1]) / 1000 if wait else 0,
        )


class _Qwen(_Reader):
    """The result's error; before it tries again it says why on standard error (its event does not tell)."""

    name = "qwen"
    QUOTA = re.compile(r"API Error: (?:.{0,40}\b)?429\b|exceeded your current quota|insufficient_quota", re.IGNORECASE)
    RETRYING = re.compile(r"^Retrying in (?P<wait_s>\d+)s \(attempt \d+/\d+\): ")

    def out(self, record: Fields, *, now: datetime) -> _Sign | None:
        match record.text("type"):
            case "result" if record.flag("is_error"):
                return self._limited(record.text("error", "message"), now=now)
            case "result":
                text = record.text("result")
                # Versions before 0.24 report errors of the API as success, with no tokens.
                if text.startswith("[API Error:") and not record.count("usage", "output_tokens"):
                    return self._limited(text, now=now)
                return SUCCESS
            case "assistant" if record.count("message", "usage", "output_tokens"):
                return PROGRESS
        return None

    def err(self, line: str, *, now: datetime) -> _Sign | None:
        retrying = self.RETRYING.match(line)
        if not retrying or not self.QUOTA.search(line):
            return None
        message = line[retrying.end() :]
        return _Sign(_Kind.TURNED_AWAY, message, reset_time(message, now=now), float(retrying["wait_s"]))

    def _limited(self, message: str, *, now: datetime) -> _Sign | None:
        return _Sign(_Kind.LIMITED, message, reset_time(message, now=now)) if self.QUOTA.search(message) else None


READERS: dict[str, type[_Reader]] = {reader.name: reader for reader in (_Claude, _Codex, _Gemini, _Qwen)}
AGENTS = tuple(READERS)
"""The agents whose limits are known."""
