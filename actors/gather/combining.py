"""The strategies: outputs by sheet to one text. Pure, and linear in the outputs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from actors.gather.conflicts import KeyVariableExtractor
from actors.gather.results import Sheet, SynthesisConfig, SynthesisResult, SynthesisStrategy, in_sheet_order

__all__ = ["Summarizer", "combine", "digest"]

Summarizer = Callable[[Sheet, str], str]
"""Makes the summary of one sheet's output."""

FIRST_LINES = LAST_LINES = 3
LINE_CHARACTERS = 200
VARIABLES = 20
_LINE_ENDS = "\r\n"


def combine(result: SynthesisResult, config: SynthesisConfig, summarize: Summarizer) -> str:
    """The content of a batch by its strategy."""
    outputs = {sheet: result.sheet_outputs[sheet] for sheet in in_sheet_order(result.sheet_outputs)}
    if result.strategy is SynthesisStrategy.PASS_THROUGH:
        return json.dumps(outputs, ensure_ascii=False, indent=2)
    if result.strategy is SynthesisStrategy.SUMMARIZE:
        outputs = {sheet: summarize(sheet, text) for sheet, text in outputs.items()}
    sections = [f"## Sheet {sheet}\n\n{text.strip(_LINE_ENDS)}\n" for sheet, text in outputs.items()]
    return "\n".join([_header(result), *sections] if config.include_metadata else sections)


def _header(result: SynthesisResult) -> str:
    meta: Mapping[str, object] = result.metadata
    counts = f"{meta.get('completed_count', len(result.sheet_outputs))} completed, {meta.get('failed_count', 0)} failed"
    lines = [
        f"# Batch {result.batch_id}",
        "",
        f"- Sheets: {len(result.sheets)} ({counts}, {len(result.sheet_outputs)} outputs)",
        f"- Strategy: {result.strategy.value}",
    ]
    found = result.conflict_detection
    if found is not None:
        lines.append(f"- Conflicts: {found.get('error_count', 0)} errors, {found.get('warning_count', 0)} warnings")
    return "\n".join(lines) + "\n"


def digest(sheet: Sheet, text: str) -> str:  # noqa: ARG001 - a Summarizer is told the sheet
    """A bounded digest of an output, the same each time: counts, key variables, first and last meaningful lines.

    Meaningful is a line with a letter or a digit in it. At most 3 + 3 lines and 20 variables are told, each cut at 200
    characters.
    """
    lines = text.splitlines()
    meaningful = [line for line in lines if any(map(str.isalnum, line))]
    size = f"{len(text.encode())} bytes, {len(lines)} lines"
    if len(meaningful) <= FIRST_LINES + LAST_LINES:
        shown = [_cut(line) for line in meaningful]
    else:
        hidden = len(meaningful) - FIRST_LINES - LAST_LINES
        shown = [
            *map(_cut, meaningful[:FIRST_LINES]),
            f"[{hidden} more lines]",
            *map(_cut, meaningful[-LAST_LINES:]),
        ]
    variables = dict(reversed(KeyVariableExtractor().extract(text)))  # the first definition of a key stays
    told = [_cut(f"{key}: {variables[key]}") for key in sorted(variables)[:VARIABLES]]
    more = [f"[{len(variables) - VARIABLES} more variables]"] if len(variables) > VARIABLES else []
    parts = [size, "\n".join([*told, *more]), "\n".join(shown)]
    return "\n\n".join(part for part in parts if part)


def _cut(line: str) -> str:
    line = line.strip()
    return line if len(line) <= LINE_CHARACTERS else line[: LINE_CHARACTERS - 1] + "…"
