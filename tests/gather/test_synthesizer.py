"""Preparing and executing a gather: every sentence of CONTRACTS.md section 3 on ``ResultSynthesizer``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.gather import (
    ResultSynthesizer,
    Sheet,
    SynthesisConfig,
    SynthesisResult,
    SynthesisStrategy,
    synthesize_batch,
)
from tests.gather.work import lines_executed

OUTPUTS: dict[Sheet, str] = {1: "one", 2: "two", 3: "three"}


def prepared(config: SynthesisConfig | None = None, *, failed: tuple[int, ...] = ()) -> SynthesisResult:
    completed = [sheet for sheet in (1, 2, 3) if sheet not in failed]
    return ResultSynthesizer(config).prepare_synthesis([1, 2, 3], completed, failed, OUTPUTS)


def content(strategy: SynthesisStrategy, outputs: Mapping[int, str], *, metadata: bool = False) -> str:
    config = SynthesisConfig(strategy=strategy, include_metadata=metadata)
    result = synthesize_batch(list(outputs), list(outputs), [], outputs, config)
    assert result.is_success, result.error_message
    assert result.synthesized_content is not None
    return result.synthesized_content


def test_without_a_configuration_the_default_one_is_used() -> None:
    assert ResultSynthesizer().config == SynthesisConfig()


def test_a_prepared_batch_is_ready_with_an_id_of_its_own() -> None:
    one, other = prepared(), prepared()
    assert (one.status, one.error_message, one.completed_at) == ("ready", None, None)
    assert re.fullmatch(r"batch_[0-9a-f]{8}", one.batch_id)
    assert one.batch_id != other.batch_id
    assert one.sheets == [1, 2, 3]


def test_only_the_outputs_of_completed_sheets_of_the_batch_are_taken() -> None:
    result = ResultSynthesizer().prepare_synthesis([1, 2, 3], [1, 9], [2], {**OUTPUTS, 9: "a stranger's"})
    assert result.sheet_outputs == {1: "one"}


def test_the_metadata_are_those_of_the_contract() -> None:
    result = ResultSynthesizer(SynthesisConfig(detect_conflicts=True)).prepare_synthesis(
        [1, 2, 3, 4], [1, 2, 3], [4], {1: "a", 2: "b"}
    )
    assert result.metadata == {
        "batch_size": 4,
        "completed_count": 3,
        "failed_count": 1,
        "outputs_captured": 2,
        "conflict_detection_enabled": True,
    }


def test_failed_sheets_are_tolerated_unless_a_partial_batch_is_to_fail() -> None:
    assert prepared(failed=(2,)).status == "ready"
    result = prepared(SynthesisConfig(fail_on_partial=True), failed=(2, 3))
    assert result.status == "failed"
    assert result.is_complete
    assert result.error_message == "2 of 3 sheets failed: 2, 3"
    assert prepared(SynthesisConfig(fail_on_partial=True)).status == "ready"


@pytest.mark.parametrize(("completed", "outputs"), [([], OUTPUTS), ([1, 2], {}), ([1], {2: "x"})])
def test_a_batch_without_any_output_fails(completed: list[int], outputs: dict[Sheet, str]) -> None:
    result = ResultSynthesizer().prepare_synthesis([1, 2, 3], completed, [], outputs)
    assert (result.status, result.error_message) == ("failed", "No sheet outputs to synthesize")


def test_an_empty_output_is_an_output() -> None:
    assert ResultSynthesizer().prepare_synthesis([1], [1], [], {1: ""}).status == "ready"


def test_conflicts_fail_a_batch_only_if_they_are_to_and_the_message_names_them() -> None:
    outputs: dict[Sheet, str] = {1: "STAGE: tests", 2: "STAGE: smoke"}
    lenient = SynthesisConfig(detect_conflicts=True)
    result = ResultSynthesizer(lenient).prepare_synthesis([1, 2], [1, 2], [], outputs)
    assert result.status == "ready"
    assert result.conflict_detection is not None
    assert (result.conflict_detection["warning_count"], result.conflict_detection["error_count"]) == (1, 0)
    strict = SynthesisConfig(detect_conflicts=True, fail_on_conflict=True)
    result = ResultSynthesizer(strict).prepare_synthesis([1, 2], [1, 2], [], outputs)
    assert result.status == "failed"
    told = "1 conflicts between sheets (1 errors): Conflict on 'STAGE': sheet 1='tests' vs sheet 2='smoke'"
    assert result.error_message == told
    assert result.conflict_detection is not None
    assert result.conflict_detection["error_count"] == 1


def test_a_message_about_many_conflicts_stays_readable() -> None:
    outputs: dict[Sheet, str] = {n: f"A: {n}" for n in range(1000)}
    config = SynthesisConfig(detect_conflicts=True, fail_on_conflict=True)
    result = ResultSynthesizer(config).prepare_synthesis(list(outputs), list(outputs), [], outputs)
    assert result.error_message is not None
    assert result.error_message.startswith("999 conflicts between sheets (999 errors): ")
    assert result.error_message.endswith("; and 989 more")


@pytest.mark.parametrize(
    ("config", "outputs"),
    [
        (SynthesisConfig(fail_on_conflict=True), {1: "A: 1", 2: "A: 2"}),
        (SynthesisConfig(detect_conflicts=True, fail_on_conflict=True), {1: "A: 1\nA: 2"}),
    ],
)
def test_detection_runs_when_enabled_and_with_two_outputs_at_least(
    config: SynthesisConfig, outputs: dict[Sheet, str]
) -> None:
    result = ResultSynthesizer(config).prepare_synthesis([1, 2], [1, 2], [], outputs)
    assert result.status == "ready"
    assert result.conflict_detection is None


def test_detection_without_a_find_is_kept_too_and_looks_at_the_named_keys_only() -> None:
    config = SynthesisConfig(detect_conflicts=True, fail_on_conflict=True, conflict_key_filter=["B"])
    result = ResultSynthesizer(config).prepare_synthesis([1, 2], [1, 2], [], {1: "A: 1", 2: "A: 2"})
    assert result.status == "ready"
    assert result.conflict_detection is not None
    assert result.conflict_detection["has_conflicts"] is False


def test_the_clock_is_the_only_source_of_times() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    synthesizer = ResultSynthesizer(SynthesisConfig(detect_conflicts=True), clock=lambda: moment)
    result = synthesizer.execute_synthesis(synthesizer.prepare_synthesis([1, 2], [1, 2], [], OUTPUTS))
    assert (result.created_at, result.completed_at) == (moment, moment)
    assert result.conflict_detection is not None
    assert result.conflict_detection["checked_at"] == moment.isoformat()


def test_a_number_and_its_text_cannot_be_two_sheets() -> None:
    with pytest.raises(ValueError, match="same number as text"):
        ResultSynthesizer().prepare_synthesis([1, "1"], [1], [], {1: "x"})


def test_an_executed_batch_is_done_with_content_and_time() -> None:
    result = prepared()
    done = ResultSynthesizer().execute_synthesis(result)
    assert done.status == result.status == "done"
    assert done.synthesized_content
    assert done.completed_at is not None
    assert done.completed_at >= done.created_at


@pytest.mark.parametrize("status", ["pending", "done", "failed"])
def test_a_result_that_is_not_ready_is_refused_with_status_and_batch(status: str) -> None:
    with pytest.raises(ValueError, match=rf"batch_x.*{status}"):
        ResultSynthesizer().execute_synthesis(SynthesisResult("batch_x", status=status))


def test_the_limit_counts_bytes_of_utf8_and_not_characters() -> None:
    text = "ä" * 100
    size = len(content(SynthesisStrategy.MERGE, {1: text}).encode())
    assert size > 200
    for limit, status in ((size, "done"), (size - 1, "failed")):
        config = SynthesisConfig(include_metadata=False, max_content_bytes=limit)
        result = synthesize_batch([1], [1], [], {1: text}, config)
        assert result.status == status
    assert result.error_message is not None
    assert f"{size} bytes" in result.error_message
    assert result.synthesized_content is None


def test_whatever_raises_becomes_a_failed_result_with_a_message() -> None:
    def broken(sheet: Sheet, text: str) -> str:
        raise KeyError(f"no model for {sheet}")

    synthesizer = ResultSynthesizer(SynthesisConfig(strategy=SynthesisStrategy.SUMMARIZE), summarizer=broken)
    result = synthesizer.execute_synthesis(synthesizer.prepare_synthesis([1], [1], [], {1: "x"}))
    assert result.status == "failed"
    assert result.error_message is not None
    assert "KeyError" in result.error_message
    assert "no model for 1" in result.error_message


def test_text_that_is_no_utf8_fails_the_batch_only() -> None:
    assert synthesize_batch([1], [1], [], {1: "\ud800"}).status == "failed"


def test_merging_combines_outputs_in_sheet_order_under_their_numbers() -> None:
    merged = content(SynthesisStrategy.MERGE, {10: "ten", 2: "two\n", 1: "one"})
    assert re.findall(r"^## Sheet (\d+)$", merged, flags=re.MULTILINE) == ["1", "2", "10"]
    assert merged.index("one") < merged.index("two") < merged.index("ten")


@pytest.mark.parametrize("strategy", [SynthesisStrategy.MERGE, SynthesisStrategy.SUMMARIZE])
def test_a_header_with_batch_counts_and_strategy_is_there_if_metadata_are_wanted(strategy: SynthesisStrategy) -> None:
    for wanted in (True, False):
        config = SynthesisConfig(strategy=strategy, include_metadata=wanted)
        result = synthesize_batch([1, 2, 3], [1, 2], [3], OUTPUTS, config)
        assert result.synthesized_content is not None
        header = result.synthesized_content.split("## Sheet")[0]
        assert (result.batch_id in header) is wanted
        assert ("3 (2 completed, 1 failed, 2 outputs)" in header) is wanted
        assert (strategy.value in header) is wanted


def test_passing_through_keeps_the_outputs_apart_in_a_json_object_by_sheet() -> None:
    kept = content(SynthesisStrategy.PASS_THROUGH, {2: "zwei\nü", 1: "one"}, metadata=True)
    assert json.loads(kept) == {"1": "one", "2": "zwei\nü"}
    assert list(json.loads(kept)) == ["1", "2"]


def test_a_summary_has_counts_key_variables_and_the_first_and_last_meaningful_lines() -> None:
    lines = [
        "",
        "---",
        "first",
        "second",
        "third",
        *(f"line {n}" for n in range(100)),
        "STAGE: tests",
        "x",
        "last",
        "==",
    ]
    summary = content(SynthesisStrategy.SUMMARIZE, {1: "\n".join(lines)})
    for told in ("109 lines", "STAGE: tests", "first", "third", "[100 more lines]", "last"):
        assert told in summary
    for hidden in ("line 50", "---", "=="):
        assert hidden not in summary


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60).map(lambda text: text * 400))
def test_a_summary_is_bounded_and_the_same_each_time(text: str) -> None:
    summary = content(SynthesisStrategy.SUMMARIZE, {1: text})
    assert len(summary) < 8_000
    assert content(SynthesisStrategy.SUMMARIZE, {1: text}) == summary


def test_a_summary_of_many_and_long_variables_is_bounded() -> None:
    text = "".join(f"KEY_{n}: {'v' * 5_000}\n" for n in range(500))
    summary = content(SynthesisStrategy.SUMMARIZE, {1: text})
    assert "[480 more variables]" in summary
    assert len(summary) < 8_000


def test_a_summarizer_can_be_injected_and_is_told_the_sheet() -> None:
    config = SynthesisConfig(strategy=SynthesisStrategy.SUMMARIZE, include_metadata=False)
    synthesizer = ResultSynthesizer(config, summarizer=lambda sheet, text: f"{sheet} says {text.upper()}")
    result = synthesizer.execute_synthesis(synthesizer.prepare_synthesis([1, 2], [1, 2], [], OUTPUTS))
    assert result.synthesized_content == "## Sheet 1\n\n1 says ONE\n\n## Sheet 2\n\n2 says TWO\n"


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 99), st.sampled_from(["", "A: 1", "text\nB=2"]), min_size=1), st.randoms())
def test_content_does_not_depend_on_the_order_in_which_outputs_arrive(given_: dict[int, str], random: object) -> None:
    items = list(given_.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    for strategy in SynthesisStrategy:
        assert content(strategy, dict(items)) == content(strategy, dict(given_))


def test_one_call_prepares_and_executes_and_returns_what_failed_as_it_is() -> None:
    done = synthesize_batch([1, 2], [1, 2], [], OUTPUTS)
    assert done.is_success
    failed = synthesize_batch([1, 2], [1], [2], OUTPUTS, SynthesisConfig(fail_on_partial=True))
    assert (failed.status, failed.error_message) == ("failed", "1 of 2 sheets failed: 2")


@pytest.mark.parametrize("strategy", list(SynthesisStrategy))
def test_the_work_grows_linearly_in_the_sheets(strategy: SynthesisStrategy) -> None:
    config = SynthesisConfig(strategy=strategy, detect_conflicts=True, max_content_bytes=10**9)

    def work(sheets: int) -> int:
        outputs: dict[Sheet, str] = {n: f"PR: {n}\nSTAGE: tests\n" + "text\n" * 20 for n in range(sheets)}
        numbers = list(outputs)
        return lines_executed(lambda: synthesize_batch(numbers, numbers, [], outputs, config), package="actors.gather")

    assert work(400) < 2.1 * work(200)
