"""A repository's report: each pull request of a wave as a sheet, the sheets gathered, and where environments drift.

Equal waves give equal reports: no ids, no times of this run, nothing of the machine is in a sheet. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256

import msgspec

from actors.gather import (
    KeyVariableExtractor,
    ResultSynthesizer,
    SynthesisConfig,
    SynthesisResult,
    synthesize_batch,
)
from events.gather_events import Drift
from events.records import PrRecord
from events.waves import Processed, Session
from events.work import PullRequest
from store.timeline import parse_env_payload

__all__ = [
    "ENVIRONMENT_KEYS",
    "drifts_of",
    "drifts_told",
    "pins_digest",
    "prepare_report",
    "race_of",
    "report_of",
    "reporter",
    "sheet_of",
]

ENVIRONMENT_KEYS = ("PYTHON_VERSION", "BASE_IMAGE", "CONTEXT", "PINS_DIGEST")
"""What neighbours in time have in common while their environment does not change."""

MAX_REPORT_BYTES = 256 * 1024 * 1024
TEXT_CHARACTERS = 500


def reporter(
    *, clock: Callable[[], datetime] | None = None, new_batch_id: Callable[[], str] | None = None
) -> ResultSynthesizer:
    """What prepares and executes a repository's report."""
    config = SynthesisConfig(
        detect_conflicts=True, conflict_key_filter=list(ENVIRONMENT_KEYS), max_content_bytes=MAX_REPORT_BYTES
    )
    given = {"clock": clock, "new_batch_id": new_batch_id}
    return ResultSynthesizer(config, **{name: one for name, one in given.items() if one is not None})  # type: ignore[arg-type]


def prepare_report(
    wave: Sequence[Processed],
    *,
    records: Mapping[int, PrRecord],
    rows: Mapping[int, PullRequest],
    base_image: Callable[[str], str],
    synthesizer: ResultSynthesizer,
) -> SynthesisResult:
    """A wave as a batch: a sheet for each pull request, numbered as it is, with the drift between them.

    Args:
        wave: ordered by time.
        records: the pull requests of the wave, as their repository has them.
        rows: their rows, as far as they are at hand.
        base_image: the base image of a Python version; empty if it is not known.
        synthesizer: see :func:`reporter`.
    """
    numbers = [one.issue_number for one in wave]
    sheets = {
        one.issue_number: sheet_of(
            one,
            record=records[one.issue_number],
            row=rows.get(one.issue_number),
            base_image=base_image(records[one.issue_number].python_version),
        )
        for one in wave
    }
    result = synthesizer.prepare_synthesis(numbers, numbers, [], sheets)
    result.metadata["succeeded"] = sum(one.succeeded for one in wave)
    result.metadata["failed"] = sum(not one.succeeded for one in wave)
    result.metadata["drift"] = [msgspec.structs.asdict(one) for one in drifts_of(sheets)]
    return result


def sheet_of(one: Processed, *, record: PrRecord, row: PullRequest | None, base_image: str) -> str:
    """The sheet of one pull request: ``KEY: value`` lines, then why it ended so.

    ``CONTEXT`` is the one that is verified on it; of a failed one the last that was tried is ``TRIED_CONTEXT``.
    """
    outcome = one.outcome
    tests = outcome.tests if outcome is not None else None
    values: dict[str, object] = {
        "RESULT": "succeeded" if one.succeeded else "failed",
        "STAGE": one.stage,
        "FAILURE_CLASS": one.failure_class,
        "CREATED_AT": record.created_at,
        "COMMIT": record.commit,
        "PYTHON_VERSION": record.python_version,
        "BASE_IMAGE": base_image,
        "PINS_DIGEST": pins_digest(row.env_payload) if row is not None else None,
        "CONTEXT": one.context if one.succeeded else None,
        "TRIED_CONTEXT": outcome.context if outcome is not None and not one.succeeded else None,
        "LEVEL": record.rules.level.value,
        "TESTS_PASSED": tests and tests.passed,
        "TESTS_FAILED": tests and tests.failed,
        "TESTS_ERRORS": tests and tests.errors,
        "TESTS_SKIPPED": tests and tests.skipped,
        "TESTS_FLAKY": tests and tests.flaky,
        "AGENT_SESSIONS": len(one.sessions) or None,
    }
    lines = [f"{key}: {value}" for key, value in values.items() if value not in (None, "")]
    parts = ["\n".join(lines), _indented(_cut(one.reason))]
    if len(one.sessions) > 1:
        parts.append(_indented(race_of(one.sessions).synthesized_content or ""))
    return "\n\n".join(part for part in parts if part) + "\n"


def race_of(sessions: Sequence[Session]) -> SynthesisResult:
    """The sessions on one pull request, gathered like a wave: a sheet for each, named by its account."""
    names: Counter[str] = Counter()
    sheets: dict[str, str] = {}
    for session in sessions:
        names[session.account] += 1
        count = names[session.account]
        name = session.account if count == 1 else f"{session.account} ({count})"
        used = session.report
        values: dict[str, object] = {
            "ENDED": session.ended,
            "CONTEXT": session.context,
            "MODEL": used and used.model,
            "INPUT_TOKENS": used and used.input_tokens,
            "OUTPUT_TOKENS": used and used.output_tokens,
            "COST_USD": used and used.cost_usd,
            "VERIFICATIONS": used and used.verifications,
        }
        lines = [f"{key}: {value}" for key, value in values.items() if value not in (None, "")]
        sheets[name] = "\n".join([*lines, _indented(_cut(session.message))])
    config = SynthesisConfig(include_metadata=False, max_content_bytes=MAX_REPORT_BYTES)
    return synthesize_batch(list(sheets), list(sheets), [], sheets, config)


def drifts_of(sheets: Mapping[int, str]) -> list[Drift]:
    """Where a key of the environment changes from one sheet to the next that has it; ``sheets`` are ordered by time."""
    extractor = KeyVariableExtractor(ENVIRONMENT_KEYS)
    last: dict[str, tuple[int, str]] = {}
    found: list[Drift] = []
    for number, text in sheets.items():
        variables = dict(extractor.extract(text))
        for key in ENVIRONMENT_KEYS:
            value = variables.get(key)
            if value is None:
                continue
            earlier, before = last.get(key, (number, value))
            if value != before:
                found.append(Drift(key=key, earlier=earlier, earlier_value=before, later=number, later_value=value))
            last[key] = (number, value)
    return found


def drifts_told(result: SynthesisResult) -> list[Drift]:
    """The drift that a prepared or executed result tells of."""
    return msgspec.convert(result.metadata.get("drift", []), list[Drift])


def report_of(result: SynthesisResult, *, repository: str) -> str:
    """The text of a report that was executed: the gathered sheets, and the drift before them."""
    drifts = drifts_told(result)
    lines = [f"# Report of {repository}", ""]
    lines += [f"{result.metadata.get('succeeded', 0)} verified, {result.metadata.get('failed', 0)} failed", ""]
    lines += ["## Drift", ""] if drifts else ["No drift between neighbours in time.", ""]
    lines += [f"- {one.key}: #{one.earlier} '{one.earlier_value}' → #{one.later} '{one.later_value}'" for one in drifts]
    return "\n".join(lines).rstrip() + "\n\n" + (result.synthesized_content or "")


def pins_digest(env_payload: str | None) -> str | None:
    """SHA-256 over the requirements of a pull request, whatever their order and the form of the payload."""
    if env_payload is None:
        return None
    return sha256("\n".join(sorted(set(parse_env_payload(env_payload)))).encode()).hexdigest()


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARACTERS else text[: TEXT_CHARACTERS - 1] + "…"


def _indented(text: str) -> str:
    """Text that no line of defines a key."""
    return "\n".join(f"    {line}".rstrip() for line in _lines(text))


def _lines(text: str) -> Iterable[str]:
    return text.strip("\n").split("\n") if text else []
