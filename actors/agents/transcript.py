"""The transcript of a session: written as it comes, redacted, and never larger than its cap.

The first three quarters of the cap go straight to the file; of what follows the end is kept, because errors stand
there, and appended when the transcript is closed, after a line that tells how much was left out. A line of the file is
``SECONDS STREAM TEXT``, for example ``   1.204 out {"type":"system"…``. One line may take an eighth of the cap.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

import msgspec

from actors.agents.lines import CUT_MARK
from actors.agents.redact import Redactor

__all__ = ["Transcript", "TranscriptSize"]

HEAD_SHARE = 0.75
LINE_SHARE = 0.125
NOTE_BYTES = 120
"""Room for the line about what was left out."""


class TranscriptSize(msgspec.Struct, frozen=True, kw_only=True):
    """What a closed transcript holds: ``stored_bytes`` in the file, ``left_out_bytes`` of output that is not there."""

    stored_bytes: int
    left_out_bytes: int


class Transcript:
    """One file that grows by whole lines.

    A crash leaves a file that holds all lines up to then, at most the head; it is readable as it is.
    """

    def __init__(self, path: Path, *, max_bytes: int, redactor: Redactor) -> None:
        self._redactor = redactor
        self._head_bytes = int(max_bytes * HEAD_SHARE)
        self._line_chars = int(max_bytes * LINE_SHARE)
        self._tail_bytes = max(0, max_bytes - self._head_bytes - NOTE_BYTES)
        self._stored = 0
        self._cut = 0
        self._evicted = 0
        self._head_is_full = False
        self._tail: deque[tuple[str, int]] = deque()
        self._tail_size = 0
        self._file = path.open("wb")

    def add(self, line: str, *, stream: str, at_s: float) -> None:
        """Adds one line of ``stream``, ``at_s`` seconds after the start."""
        if len(line) > self._line_chars:
            whole = self._redactor.text(line)
            line = whole[: self._line_chars] + CUT_MARK
            self._cut += max(0, len(whole) - self._line_chars)
        entry = f"{at_s:8.3f} {stream} {line}\n"
        if not self._head_is_full:
            data = self._redactor.text(entry).encode("utf-8", "replace")
            if self._stored + len(data) <= self._head_bytes:
                self._file.write(data)
                self._stored += len(data)
                return
            self._head_is_full = True
        # Redacted when it is written: most of a flood is thrown away unread.
        size = len(entry.encode("utf-8", "replace"))
        self._tail.append((entry, size))
        self._tail_size += size
        while self._tail and self._tail_size > self._tail_bytes:
            _, dropped = self._tail.popleft()
            self._tail_size -= dropped
            self._evicted += dropped

    def flush(self) -> None:
        """Hands to the system what was written so far."""
        self._file.flush()

    def close(self) -> TranscriptSize:
        """Appends the end of the output and closes the file. Idempotent."""
        if not self._file.closed:
            with self._file:
                if self._evicted:
                    self._write(f"         --- headrace left out {self._evicted} bytes here: the transcript is full\n")
                budget = self._head_bytes + NOTE_BYTES + self._tail_bytes
                for entry, _ in self._tail:
                    data = self._redactor.text(entry).encode("utf-8", "replace")
                    # A mask may be longer than what it hides.
                    if self._stored + len(data) > budget:
                        self._evicted += len(data)
                        continue
                    self._file.write(data)
                    self._stored += len(data)
            self._tail.clear()
        return TranscriptSize(stored_bytes=self._stored, left_out_bytes=self._cut + self._evicted)

    def _write(self, text: str) -> None:
        data = text.encode()
        self._file.write(data)
        self._stored += len(data)
