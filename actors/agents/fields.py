"""Reads a CLI's JSON without trusting it: every access has a type and a default, none can fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Self

__all__ = ["Fields"]


class Fields:
    """A JSON object of unknown contents. A path that leads nowhere, or to another type, gives the default."""

    def __init__(self, value: object = None) -> None:
        self._value: dict[str, object] = value if isinstance(value, dict) else {}

    @classmethod
    def of_line(cls, line: str) -> Self | None:
        """The object that a line of JSON Lines holds; ``None`` if it holds none."""
        if not line.lstrip().startswith("{"):
            return None
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return None
        return cls(value) if isinstance(value, dict) else None

    def __bool__(self) -> bool:
        return bool(self._value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._value)

    def has(self, *path: str) -> bool:
        """Is there anything but null?"""
        return self._at(path) is not None

    def child(self, *path: str) -> Fields:
        """An object within."""
        return Fields(self._at(path))

    def children(self, *path: str) -> list[Fields]:
        """The objects of a list within."""
        value = self._at(path)
        return [Fields(item) for item in value if isinstance(item, dict)] if isinstance(value, list) else []

    def text(self, *path: str) -> str:
        """A string, or the empty one."""
        value = self._at(path)
        return value if isinstance(value, str) else ""

    def texts(self, *path: str) -> list[str]:
        """The strings of a list within."""
        value = self._at(path)
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []

    def number(self, *path: str) -> float | None:
        """A finite number."""
        value = self._at(path)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if abs(number) < float("inf") else None

    def count(self, *path: str) -> int:
        """A number of things, 0 without one."""
        return max(0, int(self.number(*path) or 0))

    def flag(self, *path: str) -> bool | None:
        """True, false, or neither."""
        value = self._at(path)
        return value if isinstance(value, bool) else None

    def _at(self, path: tuple[str, ...]) -> object:
        value: object = self._value
        for name in path:
            if not isinstance(value, dict):
                return None
            value = value.get(name)
        return value
