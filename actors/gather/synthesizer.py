"""Prepares and executes the gathering of a batch, as CONTRACTS.md section 3 says it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import cast

from actors.gather.combining import Summarizer, combine, digest
from actors.gather.conflicts import ConflictDetectionResult, ConflictDetector
from actors.gather.results import Sheet, SheetOutputs, SynthesisConfig, SynthesisResult, in_sheet_order, utc_now

__all__ = ["ResultSynthesizer", "Summarizer", "synthesize_batch"]

NAMED = 10
"""At most so many sheets or conflicts are named in a message."""


class ResultSynthesizer:
    """Brings the outputs of a batch together.

    - *Success*: ``prepare_synthesis`` gives a ``ready`` result, ``execute_synthesis`` makes it ``done``, with content.
    - *Failure*: what is wrong with a batch is a ``failed`` result with a message, never an exception; only a result in
      the wrong status is one.
    - *Crash*: nothing is kept here. A result that was saved when it was ``ready`` can be executed later, as often as it
      takes, and gives the same content.

    >>> synthesizer = ResultSynthesizer(SynthesisConfig(include_metadata=False))
    >>> ready = synthesizer.prepare_synthesis([1, 2, 3], [1, 3], [2], {3: "c", 1: "a"})
    >>> ready.status, ready.metadata["failed_count"]
    ('ready', 1)
    >>> print(synthesizer.execute_synthesis(ready).synthesized_content)
    ## Sheet 1
    <BLANKLINE>
    a
    <BLANKLINE>
    ## Sheet 3
    <BLANKLINE>
    c
    <BLANKLINE>
    """

    def __init__(
        self,
        config: SynthesisConfig | None = None,
        *,
        summarizer: Summarizer = digest,
        clock: Callable[[], datetime] = utc_now,
        new_batch_id: Callable[[], str] = lambda: f"batch_{secrets.token_hex(4)}",
    ) -> None:
        """``summarizer``: makes the summaries of ``SUMMARIZE``; the default is bounded and the same each time."""
        self.config = config if config is not None else SynthesisConfig()
        self._summarizer, self._clock, self._new_batch_id = summarizer, clock, new_batch_id

    def prepare_synthesis(
        self,
        batch_sheets: Iterable[Sheet],
        completed_sheets: Iterable[Sheet],
        failed_sheets: Iterable[Sheet],
        sheet_outputs: SheetOutputs,
    ) -> SynthesisResult:
        """Takes the outputs of the batch's completed sheets in: ``ready``, or ``failed`` with a message.

        Failed is a batch with failed sheets under ``fail_on_partial``, one without any output, and one with conflicts
        under ``fail_on_conflict``; looked at in this order.

        Raises:
            ValueError: two sheets of the batch have one name, ``1`` and ``"1"``: JSON cannot tell them apart.
        """
        config, sheets = self.config, list(batch_sheets)
        members = frozenset(sheets)
        if len({str(sheet) for sheet in members}) < len(members):
            raise ValueError("a batch names one sheet by number and another by the same number as text; rename one")
        completed = [sheet for sheet in in_sheet_order(completed_sheets) if sheet in members]
        failed = [sheet for sheet in in_sheet_order(failed_sheets) if sheet in members]
        given = cast(dict[Sheet, str], sheet_outputs)
        outputs = {sheet: given[sheet] for sheet in completed if sheet in given}
        result = SynthesisResult(
            batch_id=self._new_batch_id(),
            sheets=sheets,
            strategy=config.strategy,
            created_at=self._clock(),
            sheet_outputs=outputs,
            metadata={
                "batch_size": len(sheets),
                "completed_count": len(completed),
                "failed_count": len(failed),
                "outputs_captured": len(outputs),
                "conflict_detection_enabled": config.detect_conflicts,
            },
        )
        if failed and config.fail_on_partial:
            named = ", ".join(map(str, failed[:NAMED])) + (", …" if len(failed) > NAMED else "")
            return self._failed(result, f"{len(failed)} of {len(sheets)} sheets failed: {named}")
        if not outputs:
            return self._failed(result, "No sheet outputs to synthesize")
        if config.detect_conflicts and len(outputs) >= 2:
            detector = ConflictDetector(
                config.conflict_key_filter, strict_mode=config.fail_on_conflict, clock=self._clock
            )
            found = detector.detect_conflicts(outputs)
            result.conflict_detection = found.to_dict()
            if found.has_conflicts and config.fail_on_conflict:
                return self._failed(result, _told(found))
        result.status = "ready"
        return result

    def execute_synthesis(self, result: SynthesisResult) -> SynthesisResult:
        """Makes the content of a ``ready`` result; the same object is returned, ``done`` or ``failed``.

        Raises:
            ValueError: its status is another; names status and batch.
        """
        if result.status != "ready":
            raise ValueError(f"batch {result.batch_id} is {result.status}, not ready: it cannot be synthesized")
        try:
            content = combine(result, self.config, self._summarizer)
            size, limit = len(content.encode()), self.config.max_content_bytes
        except Exception as exc:  # a summarizer is somebody else's code; what it raises must not end a sweep
            return self._failed(result, f"{type(exc).__name__}: {exc}")
        if size > limit:
            return self._failed(
                result,
                f"the content has {size} bytes, more than the {limit} of max_content_bytes; raise it, or summarize",
            )
        result.synthesized_content, result.status, result.completed_at = content, "done", self._clock()
        return result

    def _failed(self, result: SynthesisResult, message: str) -> SynthesisResult:
        result.status, result.error_message, result.completed_at = "failed", message, self._clock()
        return result


def _told(found: ConflictDetectionResult) -> str:
    """What disagrees, in a line."""
    count, errors = len(found.conflicts), found.error_count
    named = "; ".join(one.format_message() for one in found.conflicts[:NAMED])
    more = f"; and {count - NAMED} more" if count > NAMED else ""
    return f"{count} conflicts between sheets ({errors} errors): {named}{more}"


def synthesize_batch(
    batch_sheets: Iterable[Sheet],
    completed_sheets: Iterable[Sheet],
    failed_sheets: Iterable[Sheet],
    sheet_outputs: SheetOutputs,
    config: SynthesisConfig | None = None,
) -> SynthesisResult:
    """Prepares a batch and, if it is ready, executes it.

    >>> synthesize_batch([1], [], [1], {}).error_message
    'No sheet outputs to synthesize'
    """
    synthesizer = ResultSynthesizer(config)
    result = synthesizer.prepare_synthesis(batch_sheets, completed_sheets, failed_sheets, sheet_outputs)
    return synthesizer.execute_synthesis(result) if result.status == "ready" else result
