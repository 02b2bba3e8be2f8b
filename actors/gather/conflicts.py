"""Finds what parallel outputs disagree on: the values of keys that several sheets, or one sheet twice, define.

A key is compared with its first definition, in the first sheet that has it. So each definition is looked at once, and
the work grows linearly in the text. Values that differ in nothing but surrounding white space or quotes agree.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NamedTuple, cast

import msgspec
from msgspec import field

from actors.gather.results import Sheet, SheetOutputs, in_sheet_order, utc_now

__all__ = [
    "ConflictDetectionResult",
    "ConflictDetector",
    "KeyVariable",
    "KeyVariableExtractor",
    "OutputConflict",
    "detect_parallel_conflicts",
]

# A line break begins the pattern, for which the text is searched quickly. A key has a capital: times of day are none.
# `==` is a comparison or a pinned requirement, `KEY:` with nothing behind it a heading, `KEY=` an empty variable.
_DEFINITION = re.compile(r"\n(?=[0-9_]*[A-Z])([A-Z0-9_]++)(?:[ \t]*+=(?!=)|[ \t]*+:[ \t](?=[ \t]*\S))([^\n]*+)")
_AROUND = "'\"" + "".join(chr(code) for code in range(0x3001) if chr(code).isspace())


class KeyVariable(NamedTuple):
    """A line that gives a key a value, without the white space and quotes around that."""

    key: str
    value: str


class KeyVariableExtractor:
    """Finds lines ``KEY: value``, ``KEY=value`` and ``KEY = value`` that begin with the key.

    >>> KeyVariableExtractor().extract("built it\\nPYTHON_VERSION: 3.11\\nSTAGE='tests'\\n")
    [KeyVariable(key='PYTHON_VERSION', value='3.11'), KeyVariable(key='STAGE', value='tests')]
    """

    def __init__(self, key_filter: Iterable[str] | None = None) -> None:
        """``key_filter``: the keys to look for; ``None``: all."""
        self._keys = None if key_filter is None else frozenset(key_filter)

    def extract(self, text: str) -> list[KeyVariable]:
        """All definitions of a text, in order, repeated ones too."""
        found = _DEFINITION.findall("\n" + text)
        keys = self._keys
        return [KeyVariable(key, value.strip(_AROUND)) for key, value in found if keys is None or key in keys]


class OutputConflict(msgspec.Struct, frozen=True):
    """Two values of one key. ``severity``: ``warning``, or ``error`` in strict mode.

    >>> OutputConflict("STAGE", 1, "tests", 2, "smoke").format_message()
    "Conflict on 'STAGE': sheet 1='tests' vs sheet 2='smoke'"
    """

    key: str
    sheet_a: Sheet
    value_a: str
    sheet_b: Sheet
    value_b: str
    severity: str = "warning"

    def format_message(self) -> str:
        """The conflict in a line."""
        a, b = f"sheet {self.sheet_a}='{self.value_a}'", f"sheet {self.sheet_b}='{self.value_b}'"
        return f"Conflict on '{self.key}': {a} vs {b}"


class ConflictDetectionResult(msgspec.Struct):
    """What a detection looked at and found. ``keys_checked``: different keys that any sheet defines.

    >>> found = ConflictDetectionResult(conflicts=[OutputConflict("A", 1, "x", 2, "y", severity="error")])
    >>> found.has_conflicts, found.error_count, found.warning_count
    (True, 1, 0)
    """

    sheets_analyzed: list[Sheet] = field(default_factory=list)
    conflicts: list[OutputConflict] = field(default_factory=list)
    keys_checked: int = 0
    checked_at: datetime = field(default_factory=utc_now)

    @property
    def has_conflicts(self) -> bool:
        """Whether anything disagrees."""
        return bool(self.conflicts)

    @property
    def error_count(self) -> int:
        """How many conflicts are errors."""
        return sum(one.severity == "error" for one in self.conflicts)

    @property
    def warning_count(self) -> int:
        """How many conflicts are warnings."""
        return sum(one.severity == "warning" for one in self.conflicts)

    def to_dict(self) -> dict[str, object]:
        """All fields and the three properties by their names, times as ISO 8601."""
        return {
            "sheets_analyzed": list(self.sheets_analyzed),
            "conflicts": [msgspec.structs.asdict(one) for one in self.conflicts],
            "keys_checked": self.keys_checked,
            "checked_at": self.checked_at.isoformat(),
            "has_conflicts": self.has_conflicts,
            "error_count": self.error_count,
            "warning_count": self.warning_count,
        }


class ConflictDetector:
    """Compares what sheets say of their keys.

    >>> outputs = {1: "STAGE: tests", 2: "BASE_IMAGE: a", 3: "BASE_IMAGE: b"}
    >>> [one.format_message() for one in ConflictDetector().detect_conflicts(outputs).conflicts]
    ["Conflict on 'BASE_IMAGE': sheet 2='a' vs sheet 3='b'"]
    """

    def __init__(
        self,
        key_filter: Iterable[str] | None = None,
        strict_mode: bool = False,
        *,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """``key_filter``: the keys that may conflict; ``strict_mode``: conflicts are errors."""
        self._extractor, self._clock = KeyVariableExtractor(key_filter), clock
        self._severity = "error" if strict_mode else "warning"

    def detect_conflicts(self, sheet_outputs: SheetOutputs) -> ConflictDetectionResult:
        """The conflicts between these outputs, in sheet order; fewer than two outputs cannot conflict.

        A sheet that gives a key several values conflicts once with each value that is not the key's first.
        """
        outputs = cast(dict[Sheet, str], sheet_outputs)
        sheets = in_sheet_order(outputs)
        result = ConflictDetectionResult(sheets_analyzed=sheets, checked_at=self._clock())
        if len(sheets) < 2:
            return result
        first: dict[str, tuple[Sheet, str]] = {}
        for sheet in sheets:
            for key, value in dict.fromkeys(self._extractor.extract(outputs[sheet])):
                sheet_a, value_a = first.setdefault(key, (sheet, value))
                if value != value_a:
                    result.conflicts.append(OutputConflict(key, sheet_a, value_a, sheet, value, self._severity))
        result.keys_checked = len(first)
        return result


def detect_parallel_conflicts(
    sheet_outputs: SheetOutputs, key_filter: Iterable[str] | None = None, strict_mode: bool = False
) -> ConflictDetectionResult:
    """A :class:`ConflictDetector`'s answer in one call.

    >>> detect_parallel_conflicts({1: "A=1", 2: "A = '1'"}).has_conflicts
    False
    """
    return ConflictDetector(key_filter, strict_mode).detect_conflicts(sheet_outputs)
