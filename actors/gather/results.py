"""What a gather is asked for, and what it came to: strategy, configuration, result.

A result goes ``pending`` → ``ready`` → ``done`` or ``failed``, or at once to ``failed``. ``from_dict(to_dict())`` gives
an equal result, also by way of JSON, where the numbers of sheets become text as keys: ``sheets`` tells what they were.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Self, cast

import msgspec
from msgspec import field

__all__ = [
    "STATUSES",
    "Sheet",
    "SheetOutputs",
    "SynthesisConfig",
    "SynthesisResult",
    "SynthesisStrategy",
    "in_sheet_order",
    "utc_now",
]

Sheet = int | str
"""What names a sheet within its batch: its number, or a name (of an account in a race)."""

SheetOutputs = Mapping[Sheet, str] | Mapping[int, str] | Mapping[str, str]
"""Outputs by sheet."""

STATUSES = ("pending", "ready", "done", "failed")
_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,17}")


def in_sheet_order(sheets: Iterable[Sheet]) -> list[Sheet]:
    """Each sheet once: by number, then by name."""
    return sorted(set(sheets), key=lambda sheet: (1, 0, sheet) if isinstance(sheet, str) else (0, sheet, ""))


def utc_now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


class SynthesisStrategy(str, Enum):  # noqa: UP042 - CONTRACTS.md names these bases, and StrEnum prints otherwise
    """What becomes of the outputs.

    >>> SynthesisStrategy("merge") is SynthesisStrategy.MERGE
    True
    """

    MERGE = "merge"
    """All outputs, in sheet order, in one text."""
    SUMMARIZE = "summarize"
    """A bounded digest of each output."""
    PASS_THROUGH = "pass_through"  # noqa: S105 - no password
    """The outputs kept apart: a JSON object by sheet."""


class SynthesisConfig(msgspec.Struct, frozen=True):
    """How outputs are gathered.

    ``max_content_bytes`` counts bytes of UTF-8. ``fail_on_partial``: a failed sheet fails the batch.
    ``conflict_key_filter``: the keys that may conflict; ``None``: all. With ``fail_on_conflict`` (which needs
    ``detect_conflicts``) every conflict is an error and fails the batch.

    >>> SynthesisConfig(strategy="summarize").strategy
    <SynthesisStrategy.SUMMARIZE: 'summarize'>
    >>> SynthesisConfig(max_content_bytes=-1)
    Traceback (most recent call last):
        ...
    ValueError: max_content_bytes is -1; it counts bytes of UTF-8: 0 or more
    """

    strategy: SynthesisStrategy = SynthesisStrategy.MERGE
    include_metadata: bool = True
    max_content_bytes: int = 1024 * 1024
    fail_on_partial: bool = False
    detect_conflicts: bool = False
    conflict_key_filter: list[str] | None = None
    fail_on_conflict: bool = False

    def __post_init__(self) -> None:
        if self.max_content_bytes < 0:
            raise ValueError(f"max_content_bytes is {self.max_content_bytes}; it counts bytes of UTF-8: 0 or more")
        msgspec.structs.force_setattr(self, "strategy", SynthesisStrategy(self.strategy))


class SynthesisResult(msgspec.Struct):
    """One batch on its way through a gather, and its content at the end.

    >>> result = SynthesisResult("batch_00c0ffee", sheets=[1, 2], sheet_outputs={1: "a", 2: "b"}, status="ready")
    >>> result.is_complete, result.is_success
    (False, False)
    >>> SynthesisResult.from_dict(result.to_dict()) == result
    True
    """

    batch_id: str
    sheets: list[Sheet] = field(default_factory=list)
    strategy: SynthesisStrategy = SynthesisStrategy.MERGE
    status: str = "pending"
    created_at: datetime = field(default_factory=utc_now)
    completed_at: datetime | None = None
    sheet_outputs: dict[Sheet, str] = field(default_factory=dict)
    synthesized_content: str | None = None
    error_message: str | None = None
    metadata: dict[str, object] = field(default_factory=dict)
    conflict_detection: dict[str, object] | None = None

    @property
    def is_complete(self) -> bool:
        """Whether nothing more will happen to it: done or failed."""
        return self.status in ("done", "failed")

    @property
    def is_success(self) -> bool:
        """Whether it has its content."""
        return self.status == "done"

    def to_dict(self) -> dict[str, object]:
        """All fields by their names: the strategy as its value, times as ISO 8601."""
        return {
            "batch_id": self.batch_id,
            "sheets": list(self.sheets),
            "strategy": self.strategy.value,
            "status": self.status,
            "created_at": self.created_at.isoformat(),
            "completed_at": None if self.completed_at is None else self.completed_at.isoformat(),
            "sheet_outputs": dict(self.sheet_outputs),
            "synthesized_content": self.synthesized_content,
            "error_message": self.error_message,
            "metadata": dict(self.metadata),
            "conflict_detection": None if self.conflict_detection is None else dict(self.conflict_detection),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Reads what ``to_dict`` wrote; absent optional fields get their defaults, unknown ones are passed over.

        A key of ``sheet_outputs`` that is text is the sheet of that name in ``sheets``, else the number that it looks
        like.

        Raises:
            ValueError: ``batch_id`` is missing, or a field has the wrong type or a value that it cannot have.
        """
        given = {name: data[name] for name in cls.__struct_fields__ if name in data}
        try:
            result = msgspec.convert(given, cls, str_keys=True)
        except msgspec.ValidationError as exc:
            raise ValueError(f"no result of a gather: {exc}") from exc
        if result.status not in STATUSES:
            raise ValueError(f"no result of a gather: status {result.status!r} is none of {', '.join(STATUSES)}")
        given_outputs = cast(Mapping[Sheet, str], given.get("sheet_outputs", {}))
        sheets = {str(sheet): sheet for sheet in result.sheets}
        result.sheet_outputs = {_sheet_of(key, sheets): text for key, text in given_outputs.items()}
        return result


def _sheet_of(key: Sheet, sheets: Mapping[str, Sheet]) -> Sheet:
    """The sheet that a key of a JSON object stands for: one of the batch, or else by its looks."""
    if isinstance(key, int):
        return key
    return sheets.get(key, int(key) if _NUMBER.fullmatch(key) else key)
