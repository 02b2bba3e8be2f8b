"""Strategy, configuration and result of a gather, as CONTRACTS.md section 3 has them; round trips."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.gather import (
    SynthesisConfig,
    SynthesisResult,
    SynthesisStrategy,
    result_from_bytes,
    result_to_bytes,
)
from actors.gather.results import STATUSES

FIELDS = [
    "batch_id",
    "sheets",
    "strategy",
    "status",
    "created_at",
    "completed_at",
    "sheet_outputs",
    "synthesized_content",
    "error_message",
    "metadata",
    "conflict_detection",
]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.integers(-(2**53), 2**53)
json_values: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
moments = st.datetimes(timezones=st.integers(-720, 720).map(lambda minutes: timezone(timedelta(minutes=minutes))))


@st.composite
def results(draw: st.DrawFn) -> SynthesisResult:
    sheets = draw(st.lists(st.integers(0, 10**6) | texts, unique_by=str, max_size=5))
    with_output = draw(st.lists(st.sampled_from(sheets), unique=True)) if sheets else []
    return SynthesisResult(
        batch_id=draw(texts),
        sheets=sheets,
        strategy=draw(st.sampled_from(SynthesisStrategy)),
        status=draw(st.sampled_from(STATUSES)),
        created_at=draw(moments),
        completed_at=draw(st.none() | moments),
        sheet_outputs={sheet: draw(texts) for sheet in with_output},
        synthesized_content=draw(st.none() | texts),
        error_message=draw(st.none() | texts),
        metadata=draw(st.dictionaries(texts, json_values, max_size=3)),
        conflict_detection=draw(st.none() | st.dictionaries(texts, json_values, max_size=3)),
    )


def test_a_strategy_is_text_with_the_values_of_the_contract() -> None:
    assert issubclass(SynthesisStrategy, str)
    assert issubclass(SynthesisStrategy, Enum)
    assert {one.name: one.value for one in SynthesisStrategy} == {
        "MERGE": "merge",
        "SUMMARIZE": "summarize",
        "PASS_THROUGH": "pass_through",
    }


def test_a_configuration_has_the_defaults_and_the_order_of_the_contract() -> None:
    default = SynthesisConfig()
    assert default.strategy is SynthesisStrategy.MERGE
    assert default.include_metadata is True
    assert default.max_content_bytes == 1024 * 1024
    assert default.fail_on_partial is False
    assert default.detect_conflicts is False
    assert default.conflict_key_filter is None
    assert default.fail_on_conflict is False
    assert SynthesisConfig(SynthesisStrategy.SUMMARIZE, False, 10, True, True, ["A"], True) == SynthesisConfig(
        strategy=SynthesisStrategy.SUMMARIZE,
        include_metadata=False,
        max_content_bytes=10,
        fail_on_partial=True,
        detect_conflicts=True,
        conflict_key_filter=["A"],
        fail_on_conflict=True,
    )


def test_a_configuration_refuses_a_negative_limit_and_an_unknown_strategy() -> None:
    with pytest.raises(ValueError, match="max_content_bytes is -5"):
        SynthesisConfig(max_content_bytes=-5)
    with pytest.raises(ValueError, match="'concat'"):
        SynthesisConfig(strategy="concat")  # type: ignore[arg-type]


def test_a_result_has_the_defaults_of_the_contract() -> None:
    before = datetime.now(UTC)
    result = SynthesisResult("batch_00000001")
    assert before <= result.created_at <= datetime.now(UTC)
    assert result.created_at.tzinfo is UTC
    assert result.sheets == []
    assert result.strategy is SynthesisStrategy.MERGE
    assert result.status == "pending"
    assert (result.completed_at, result.synthesized_content, result.error_message) == (None, None, None)
    assert (result.sheet_outputs, result.metadata, result.conflict_detection) == ({}, {}, None)


def test_two_results_share_no_defaults() -> None:
    one, other = SynthesisResult("a"), SynthesisResult("b")
    one.sheets.append(1)
    one.metadata["x"] = 1
    one.sheet_outputs[1] = "x"
    assert (other.sheets, other.metadata, other.sheet_outputs) == ([], {}, {})


@pytest.mark.parametrize(
    ("status", "complete", "success"),
    [("pending", False, False), ("ready", False, False), ("done", True, True), ("failed", True, False)],
)
def test_complete_is_done_or_failed_and_success_is_done(status: str, complete: bool, success: bool) -> None:
    result = SynthesisResult("b", status=status)
    assert (result.is_complete, result.is_success) == (complete, success)


def test_as_a_dictionary_it_has_the_same_field_names_the_strategys_value_and_iso_times() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=UTC)
    result = SynthesisResult(
        "b", [1, 2], SynthesisStrategy.PASS_THROUGH, "done", created_at=moment, completed_at=moment
    )
    given = result.to_dict()
    assert list(given) == FIELDS
    assert given["strategy"] == "pass_through"
    assert type(given["strategy"]) is str
    assert given["created_at"] == given["completed_at"] == "2026-01-02T03:04:05.000600+00:00"
    assert given["sheets"] == [1, 2]


def test_absent_optional_fields_get_their_defaults() -> None:
    found = SynthesisResult.from_dict({"batch_id": "batch_12345678"})
    assert found == SynthesisResult("batch_12345678", created_at=found.created_at)
    assert found.created_at.tzinfo is not None


def test_unknown_fields_are_passed_over() -> None:
    assert SynthesisResult.from_dict({"batch_id": "b", "later": 1}).batch_id == "b"


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({}, "batch_id"),
        ({"batch_id": 7}, "batch_id"),
        ({"batch_id": "b", "strategy": "concat"}, "strategy"),
        ({"batch_id": "b", "status": "over"}, "'over' is none of pending, ready, done, failed"),
        ({"batch_id": "b", "created_at": "yesterday"}, "created_at"),
        ({"batch_id": "b", "sheet_outputs": {"1": 2}}, "sheet_outputs"),
        ({"batch_id": "b", "sheet_outputs": None}, "sheet_outputs"),
    ],
)
def test_what_is_no_result_is_refused_with_the_field(data: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SynthesisResult.from_dict(data)


@settings(deadline=None)
@given(results())
def test_a_result_round_trips_through_its_dictionary(result: SynthesisResult) -> None:
    assert SynthesisResult.from_dict(result.to_dict()) == result


@settings(deadline=None)
@given(results())
def test_its_dictionary_is_stable_under_json(result: SynthesisResult) -> None:
    written = json.dumps(result.to_dict())
    again = SynthesisResult.from_dict(json.loads(written))
    assert again == result
    assert again.to_dict() == result.to_dict()
    assert json.dumps(again.to_dict()) == written


@settings(deadline=None)
@given(results())
def test_a_result_round_trips_through_bytes_that_equal_results_share(result: SynthesisResult) -> None:
    data = result_to_bytes(result)
    again = result_from_bytes(data)
    assert again == result
    assert result_to_bytes(again) == data


def test_outputs_of_sheets_that_the_batch_does_not_name_are_read_by_their_looks() -> None:
    result = SynthesisResult("b", sheet_outputs={3: "x", "left": "y"})
    assert SynthesisResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_a_batch_may_name_its_sheets_by_text_that_looks_like_a_number() -> None:
    result = SynthesisResult("b", sheets=["1"], sheet_outputs={"1": "x"})
    assert SynthesisResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result


def test_the_dictionary_is_a_copy() -> None:
    result = SynthesisResult("b", [1], sheet_outputs={1: "x"}, metadata={"a": 1})
    given = result.to_dict()
    for name in ("sheets", "sheet_outputs", "metadata"):
        given[name].clear()  # type: ignore[attr-defined]
    assert (result.sheets, result.sheet_outputs, result.metadata) == ([1], {1: "x"}, {"a": 1})
