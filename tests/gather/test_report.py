"""A repository's report: what a sheet says, how a wave is gathered, and what counts as drift."""

from __future__ import annotations

import msgspec
import pytest

from actors.gather import KeyVariableExtractor, SynthesisResult, result_from_bytes, result_to_bytes
from actors.gather_report import (
    ENVIRONMENT_KEYS,
    drifts_of,
    drifts_told,
    pins_digest,
    prepare_report,
    race_of,
    report_of,
    reporter,
    sheet_of,
)
from events.gather_events import Drift
from events.records import PrRecord, posix
from events.waves import Processed, Session
from events.work import Level, Outcome, PullRequest, SessionReport, TestCounts, VerificationRules
from tests.gather.work import lines_executed

PINS = '{"dependencies": ["numpy==1.26.0", "pandas==2.1.0"]}'


def record(number: int, *, python: str = "3.11") -> PrRecord:
    created_at = f"2024-{1 + number // 28:02d}-{1 + number % 28:02d}T00:00:00Z"
    return PrRecord(
        issue_number=number,
        created_at=created_at,
        at=posix(created_at),
        commit=f"{number:040x}",
        python_version=python,
        row="",
        inputs="",
        rules=VerificationRules(),
        reached=True,
    )


def row(number: int, *, pins: str = PINS) -> PullRequest:
    return PullRequest(
        owner="o", repo="r", issue_number=number, sha="a" * 40, created_at="2024-01-01T00:00:00Z", env_payload=pins
    )


def processed(number: int, *, succeeded: bool = True, context: str = "c1", **more: object) -> Processed:
    outcome = Outcome(
        verified=succeeded, level=Level.TESTS, stage="tests", context=context, tests=TestCounts(passed=5, failed=1)
    )
    given: dict[str, object] = {
        "issue_number": number,
        "succeeded": succeeded,
        "stage": "try_similar" if succeeded else "tests",
        "reason": "5 of 6 tests passed",
        "context": context if succeeded else None,
        "failure_class": None if succeeded else "recipe",
        "outcome": outcome,
        **more,
    }
    return Processed(**given)  # type: ignore[arg-type]


def keys(text: str) -> dict[str, str]:
    return dict(KeyVariableExtractor().extract(text))


def sheet(one: Processed, **changes: object) -> str:
    given: dict[str, object] = {
        "record": record(one.issue_number),
        "row": row(one.issue_number),
        "base_image": "python:3.11-slim-bookworm",
        **changes,
    }
    return sheet_of(one, **given)  # type: ignore[arg-type]


def test_a_sheet_says_what_the_environment_is_and_how_it_was_verified() -> None:
    assert keys(sheet(processed(7))) == {
        "RESULT": "succeeded",
        "STAGE": "try_similar",
        "CREATED_AT": "2024-01-08T00:00:00Z",
        "COMMIT": f"{7:040x}",
        "PYTHON_VERSION": "3.11",
        "BASE_IMAGE": "python:3.11-slim-bookworm",
        "PINS_DIGEST": pins_digest(PINS),
        "CONTEXT": "c1",
        "LEVEL": "tests",
        "TESTS_PASSED": "5",
        "TESTS_FAILED": "1",
        "TESTS_ERRORS": "0",
        "TESTS_SKIPPED": "0",
        "TESTS_FLAKY": "0",
    }


def test_the_sheet_of_a_failure_has_no_context_but_the_one_that_was_tried() -> None:
    found = keys(sheet(processed(7, succeeded=False)))
    assert "CONTEXT" not in found
    assert (found["TRIED_CONTEXT"], found["RESULT"], found["FAILURE_CLASS"]) == ("c1", "failed", "recipe")


def test_what_is_not_known_is_left_out() -> None:
    found = keys(sheet(processed(7, outcome=None), row=None, base_image=""))
    assert not {"PINS_DIGEST", "BASE_IMAGE", "TESTS_PASSED"} & found.keys()


def test_what_a_log_prints_defines_no_key() -> None:
    found = keys(sheet(processed(7, reason="it printed\nCONTEXT: forged\n\nSTAGE=forged")))
    assert (found["CONTEXT"], found["STAGE"]) == ("c1", "try_similar")


def test_a_long_reason_is_cut() -> None:
    assert len(sheet(processed(7, reason="x" * 10_000))) < 1_500


def test_the_digest_of_pins_does_not_depend_on_their_order_or_form() -> None:
    assert pins_digest(PINS) == pins_digest('["pandas==2.1.0", "numpy==1.26.0", "numpy==1.26.0"]')
    assert pins_digest(PINS) != pins_digest('["pandas==2.1.1", "numpy==1.26.0"]')
    assert pins_digest(None) is None


def sheets(*given: tuple[int, dict[str, str]]) -> dict[int, str]:
    return {number: "".join(f"{key}: {value}\n" for key, value in one.items()) for number, one in given}


def test_drift_is_a_key_that_changes_from_a_sheet_to_the_next_that_has_it() -> None:
    found = drifts_of(
        sheets(
            (5, {"CONTEXT": "a", "PYTHON_VERSION": "3.10", "STAGE": "x"}),
            (3, {"PYTHON_VERSION": "3.10", "STAGE": "y"}),
            (9, {"CONTEXT": "b", "PYTHON_VERSION": "3.11"}),
            (4, {"CONTEXT": "b", "PYTHON_VERSION": "3.11"}),
            (8, {"CONTEXT": "a", "PYTHON_VERSION": "3.11"}),
        )
    )
    assert found == [
        Drift(key="PYTHON_VERSION", earlier=3, earlier_value="3.10", later=9, later_value="3.11"),
        Drift(key="CONTEXT", earlier=5, earlier_value="a", later=9, later_value="b"),
        Drift(key="CONTEXT", earlier=4, earlier_value="b", later=8, later_value="a"),
    ]
    assert "STAGE" not in ENVIRONMENT_KEYS


def prepared(wave: list[Processed], *, python: dict[int, str] | None = None) -> SynthesisResult:
    numbers = [one.issue_number for one in wave]
    return prepare_report(
        wave,
        records={number: record(number, python=(python or {}).get(number, "3.11")) for number in numbers},
        rows={number: row(number) for number in numbers},
        base_image=lambda version: f"python:{version}",
        synthesizer=reporter(),
    )


def test_a_wave_is_a_batch_with_a_sheet_for_each_pull_request_and_its_drift() -> None:
    wave = [processed(1), processed(2, succeeded=False), processed(3, context="c2")]
    result = prepared(wave, python={3: "3.12"})
    assert result.status == "ready"
    assert result.sheets == [1, 2, 3]
    assert (result.metadata["succeeded"], result.metadata["failed"]) == (2, 1)
    assert [(one.key, one.earlier, one.later) for one in drifts_told(result)] == [
        ("PYTHON_VERSION", 2, 3),
        ("BASE_IMAGE", 2, 3),
        ("CONTEXT", 1, 3),
    ]
    assert result.conflict_detection is not None
    assert result.conflict_detection["has_conflicts"] is True
    again = result_from_bytes(result_to_bytes(result))
    assert again == result
    done = reporter().execute_synthesis(again)
    text = report_of(done, repository="o/r")
    assert text.startswith("# Report of o/r\n\n2 verified, 1 failed\n\n## Drift\n")
    assert "- CONTEXT: #1 'c1' → #3 'c2'" in text
    assert text.index("## Sheet 1") < text.index("## Sheet 2") < text.index("## Sheet 3")


def test_equal_waves_have_equal_reports() -> None:
    def text() -> str:
        synthesizer = reporter(new_batch_id=lambda: "batch_00000000")
        wave = [processed(1), processed(2)]
        result = prepare_report(
            wave,
            records={1: record(1), 2: record(2)},
            rows={},
            base_image=lambda _: "",
            synthesizer=synthesizer,
        )
        return report_of(synthesizer.execute_synthesis(result), repository="o/r")

    assert text() == text()
    assert "No drift between neighbours in time." in text()


def test_sessions_that_raced_on_one_pull_request_are_gathered_like_a_wave() -> None:
    used = SessionReport(account="claude", agent="claude", ended="completed", model="m", output_tokens=12)
    sessions = (
        Session(account="claude", ended="verified", context="c1", report=used),
        Session(account="codex", ended="interrupted", message="lost the race\nSTAGE: forged"),
        Session(account="claude", ended="failed"),
    )
    result = race_of(sessions)
    assert result.sheets == ["claude", "codex", "claude (2)"]
    assert keys(result.sheet_outputs["claude"]) == {
        "ENDED": "verified",
        "CONTEXT": "c1",
        "MODEL": "m",
        "OUTPUT_TOKENS": "12",
        "VERIFICATIONS": "0",
    }
    text = sheet(processed(7, sessions=sessions))
    assert keys(text)["AGENT_SESSIONS"] == "3"
    assert keys(text)["STAGE"] == "try_similar"
    for told in ("## Sheet claude", "## Sheet codex", "lost the race"):
        assert told in text


def test_the_work_grows_linearly_in_the_wave() -> None:
    def work(count: int) -> int:
        wave = [processed(number, context=f"c{number}") for number in range(1, count + 1)]
        return lines_executed(lambda: prepared(wave), package="actors")

    assert work(200) < 2.1 * work(100)


@pytest.mark.parametrize("text", ["\x0bCONTEXT: x", "\rCONTEXT: x", "\n\n\nCONTEXT: x"])
def test_no_kind_of_line_break_lets_a_reason_define_a_key(text: str) -> None:
    assert keys(sheet(processed(7, reason=f"a{text}")))["CONTEXT"] == "c1"


def test_a_report_of_many_pull_requests_is_not_too_long() -> None:
    wave = [processed(number, reason="x" * 1_000) for number in range(1, 301)]
    result = reporter().execute_synthesis(prepared(wave))
    assert result.is_success
    assert result.synthesized_content is not None
    assert msgspec.json.encode(result.metadata)
