"""Cuts a byte stream into lines, in memory that does not grow with the stream."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["CUT_MARK", "MAX_LINE_BYTES", "LineCutter"]

MAX_LINE_BYTES = 8 << 20
CUT_MARK = " [headrace: the rest of this line was dropped]"


class LineCutter:
    """Turns chunks into lines without their line ends, decoded as UTF-8 with replacements.

    Of a line longer than ``max_line_bytes`` the beginning is kept, less ``margin_bytes``, so that the cut cannot leave
    a recognisable piece of a secret of that length; :data:`CUT_MARK` is put in place of the rest.
    """

    def __init__(self, *, max_line_bytes: int = MAX_LINE_BYTES, margin_bytes: int = 0) -> None:
        self._max, self._margin = max_line_bytes, margin_bytes
        self._pieces: list[bytes] = []
        self._size = 0
        self._cutting = False
        self.dropped_bytes = 0

    def feed(self, data: bytes) -> Iterator[str]:
        """Takes a chunk; yields the lines that it completes."""
        *complete, rest = data.split(b"\n")
        for piece in complete:
            self._add(piece)
            yield self._take()
        self._add(rest)

    def close(self) -> Iterator[str]:
        """Yields the last line, if the stream did not end with a line end."""
        if self._size:
            yield self._take()

    def _add(self, piece: bytes) -> None:
        if self._cutting:
            self.dropped_bytes += len(piece)
            return
        if not piece:
            return
        self._pieces.append(piece)
        self._size += len(piece)
        self._cutting = self._size > self._max

    def _take(self) -> str:
        line = b"".join(self._pieces)
        if self._cutting:
            kept = line[: max(0, self._max - self._margin)]
            self.dropped_bytes += len(line) - len(kept)
            text = kept.decode("utf-8", "replace") + CUT_MARK
        else:
            text = line.removesuffix(b"\r").decode("utf-8", "replace")
        self._pieces, self._size, self._cutting = [], 0, False
        return text
