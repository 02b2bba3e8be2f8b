"""What counts as a definition, and when two of them conflict (CONTRACTS.md section 3)."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actors.gather import (
    ConflictDetectionResult,
    ConflictDetector,
    KeyVariableExtractor,
    OutputConflict,
    Sheet,
    detect_parallel_conflicts,
)
from tests.gather.work import lines_executed


def found_in(text: str, *keys: str) -> dict[str, str]:
    return dict(KeyVariableExtractor(keys or None).extract(text))


@pytest.mark.parametrize("line", ["PYTHON_3: 3.11", "PYTHON_3=3.11", "PYTHON_3 = 3.11", "PYTHON_3 :  3.11 \r"])
def test_a_key_is_defined_with_a_colon_or_an_equals_sign(line: str) -> None:
    assert found_in(f"before\n{line}\nafter") == {"PYTHON_3": "3.11"}
    assert found_in(line) == {"PYTHON_3": "3.11"}


@pytest.mark.parametrize(
    "line",
    [
        " KEY: indented",
        "- KEY: a list",
        "Key: lower case",
        "KEY value",
        "KEY-2: a dash",
        "KEY==1.0",
        "KEY+=x",
        "12:30:45 a time",
        "2024: no capital",
        "KEY:",
        "KEY: ",
        "KEY\n: x",
        "HTTPS://host/path",
        "",
    ],
)
def test_nothing_else_is_a_definition(line: str) -> None:
    assert found_in(f"text\n{line}\ntext") == {}


@pytest.mark.parametrize(("line", "value"), [("A=", ""), ("A=b=c", "b=c"), ("A: b: c", "b: c"), ("A: =", "=")])
def test_the_first_sign_divides_and_an_empty_variable_is_one(line: str, value: str) -> None:
    assert found_in(line) == {"A": value}


def test_the_keys_to_look_for_can_be_named() -> None:
    text = "A: 1\nB: 2\nC: 3"
    assert found_in(text, "C", "A") == {"A": "1", "C": "3"}
    assert KeyVariableExtractor([]).extract(text) == []


def test_repeated_definitions_are_all_found_in_order() -> None:
    assert [one.value for one in KeyVariableExtractor().extract("A: 2\nA: 1\nA: 2")] == ["2", "1", "2"]


def test_a_conflict_is_told_in_the_words_of_the_contract() -> None:
    conflict = OutputConflict("KEY", 1, "x", 3, "y")
    assert conflict.format_message() == "Conflict on 'KEY': sheet 1='x' vs sheet 3='y'"
    assert conflict.severity == "warning"
    assert OutputConflict("KEY", "A", "x", "B", "y").format_message() == "Conflict on 'KEY': sheet A='x' vs sheet B='y'"


@pytest.mark.parametrize("outputs", [{}, {1: "A: 1\nA: 2"}])
def test_fewer_than_two_outputs_cannot_conflict(outputs: dict[int | str, str]) -> None:
    found = ConflictDetector().detect_conflicts(outputs)
    assert not found.has_conflicts
    assert found.sheets_analyzed == list(outputs)


@pytest.mark.parametrize(("strict", "severity"), [(False, "warning"), (True, "error")])
def test_conflicts_are_errors_in_strict_mode_and_else_warnings(strict: bool, severity: str) -> None:
    found = ConflictDetector(strict_mode=strict).detect_conflicts({1: "A: x", 2: "A: y"})
    assert found.conflicts == [OutputConflict("A", 1, "x", 2, "y", severity=severity)]
    assert (found.error_count, found.warning_count) == ((1, 0) if strict else (0, 1))


def test_each_key_is_compared_with_the_first_sheet_that_defines_it() -> None:
    outputs = {3: "A: z\nB: q", 1: "A: x", 2: "A: y\nB: p", 4: "A: x\nB: p"}
    found = detect_parallel_conflicts(outputs)
    assert found.sheets_analyzed == [1, 2, 3, 4]
    assert found.keys_checked == 2
    assert found.conflicts == [
        OutputConflict("A", 1, "x", 2, "y"),
        OutputConflict("A", 1, "x", 3, "z"),
        OutputConflict("B", 2, "p", 3, "q"),
    ]


def test_a_filter_names_the_keys_that_may_conflict() -> None:
    outputs = {1: "A: 1\nB: 1", 2: "A: 2\nB: 2"}
    found = detect_parallel_conflicts(outputs, key_filter=["B"])
    assert [one.key for one in found.conflicts] == ["B"]
    assert found.keys_checked == 1


@pytest.mark.parametrize("other", ["A=x", "A = x", "A:   x  ", "A: 'x'", 'A="x"', "A: ' \"x\" '", "A: \u00a0x\r"])
def test_values_that_differ_in_surrounding_space_or_quotes_do_not_conflict(other: str) -> None:
    assert not detect_parallel_conflicts({1: "A: x", 2: other}).has_conflicts


def test_values_that_differ_inside_do_conflict() -> None:
    assert detect_parallel_conflicts({1: "A: x y", 2: "A: x  y"}).has_conflicts
    assert detect_parallel_conflicts({1: "A: x", 2: "A: X"}).has_conflicts


def test_a_sheet_that_contradicts_itself_conflicts() -> None:
    found = detect_parallel_conflicts({1: "B: 1", 2: "A: x\nA: x\nA: y\nA: y"}, strict_mode=True)
    assert found.conflicts == [OutputConflict("A", 2, "x", 2, "y", severity="error")]


def test_numbers_come_before_names_and_in_their_order() -> None:
    outputs: dict[Sheet, str] = {"b": "", 10: "", "a": "", 9: ""}
    found = detect_parallel_conflicts(outputs)
    assert found.sheets_analyzed == [9, 10, "a", "b"]


def test_a_detection_as_a_dictionary_has_its_fields_and_its_three_properties() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    conflict = OutputConflict("A", 1, "x", 2, "y")
    found = ConflictDetectionResult([1, 2], [conflict], 5, moment).to_dict()
    assert found == {
        "sheets_analyzed": [1, 2],
        "conflicts": [{"key": "A", "sheet_a": 1, "value_a": "x", "sheet_b": 2, "value_b": "y", "severity": "warning"}],
        "keys_checked": 5,
        "checked_at": "2026-01-01T00:00:00+00:00",
        "has_conflicts": True,
        "error_count": 0,
        "warning_count": 1,
    }
    assert json.loads(json.dumps(found)) == found
    empty = ConflictDetectionResult()
    assert (empty.sheets_analyzed, empty.conflicts, empty.keys_checked) == ([], [], 0)
    assert empty.checked_at.tzinfo is UTC


values = st.sampled_from(["x", "y", "z"])
sheet_keys = st.dictionaries(st.sampled_from(["A", "B", "C_1"]), values)


@settings(deadline=None)
@given(st.dictionaries(st.integers(1, 20), sheet_keys, max_size=8))
@example({1: {}, 2: {"A": "x"}, 3: {"A": "y"}})
def test_there_is_a_conflict_exactly_when_two_sheets_give_a_key_different_values(
    sheets: dict[int, dict[str, str]],
) -> None:
    outputs: dict[int | str, str] = {
        sheet: "".join(f"{key}: {value}\n" for key, value in given.items()) for sheet, given in sheets.items()
    }
    by_key: dict[str, set[str]] = {}
    for one in sheets.values():
        for key, value in one.items():
            by_key.setdefault(key, set()).add(value)
    disagreeing = {key for key, found in by_key.items() if len(found) > 1}
    assert {one.key for one in detect_parallel_conflicts(outputs).conflicts} == disagreeing


@pytest.mark.parametrize("differs", [False, True])
def test_the_work_grows_linearly_in_the_sheets(differs: bool) -> None:
    def work(sheets: int) -> int:
        outputs: dict[int | str, str] = {
            n: "".join(f"KEY_{k}: {n if differs else 0}\n" for k in range(20)) for n in range(sheets)
        }
        return lines_executed(lambda: ConflictDetector().detect_conflicts(outputs), package="actors.gather")

    assert work(400) < 2.1 * work(200)


@pytest.mark.parametrize("text", ["A" * 200_000, "A_" * 100_000 + ":", "\n" * 200_000, "A=" + " " * 200_000])
@pytest.mark.timeout(20)
def test_hostile_text_does_not_take_quadratic_time(text: str) -> None:
    KeyVariableExtractor().extract(text)
