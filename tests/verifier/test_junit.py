"""Reading junit files that may be hostile."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from actors.verifier.junit import (
    MAX_MESSAGE_CHARS,
    ReportRefused,
    TestOutcome,
    counts,
    encode_outcomes,
    parse_junit,
    read_report,
)
from events.work import TestCounts


def junit(*cases: str) -> bytes:
    return f'<?xml version="1.0"?><testsuites><testsuite>{"".join(cases)}</testsuite></testsuites>'.encode()


def case(name: str, inner: str = "", time: str = "0.25") -> str:
    return f'<testcase classname="tests.test_a" name="{name}" time="{time}">{inner}</testcase>'


def test_every_outcome_is_told_apart() -> None:
    data = junit(
        case("ok"),
        case("bad", '<failure message="assert 1 == 2">long text</failure>'),
        case("broken", '<error message="fixture failed"/>'),
        case("left_out", '<skipped type="pytest.xfail" message="known"/>'),
    )
    found = parse_junit(data)
    assert [(outcome.test, outcome.outcome, outcome.message) for outcome in found] == [
        ("tests.test_a::ok", "passed", ""),
        ("tests.test_a::bad", "failed", "assert 1 == 2"),
        ("tests.test_a::broken", "error", "fixture failed"),
        ("tests.test_a::left_out", "skipped", "known"),
    ]
    assert counts(found) == TestCounts(passed=1, failed=1, errors=1, skipped=1)


def test_a_test_reported_twice_counts_once_by_its_worst_outcome() -> None:
    found = parse_junit(junit(case("t", "<failure message='f'/>"), case("t", "<error message='e'/>"), case("t")))
    assert found == [TestOutcome(test="tests.test_a::t", outcome="error", time_s=0.25, message="e")]


def test_a_module_that_was_not_collected_has_its_name_alone() -> None:
    found = parse_junit(
        junit('<testcase classname="" name="tests.test_b"><error message="collection failure"/></testcase>')
    )
    assert found[0].test == "tests.test_b"


@pytest.mark.parametrize("time", ["", "soon", "-1", "inf", "nan"])
def test_a_duration_that_is_none_is_left_out(time: str) -> None:
    assert parse_junit(junit(case("t", time=time)))[0].time_s is None


def test_outcomes_are_written_one_object_a_line() -> None:
    lines = encode_outcomes(parse_junit(junit(case("a"), case("b", "<skipped/>")))).splitlines()
    assert [msgspec.json.decode(line) for line in lines] == [
        {"test": "tests.test_a::a", "outcome": "passed", "time_s": 0.25, "message": ""},
        {"test": "tests.test_a::b", "outcome": "skipped", "time_s": 0.25, "message": ""},
    ]


def test_a_long_message_is_cut() -> None:
    found = parse_junit(junit(case("t", f'<failure message="{"x" * 5000}"/>')))
    assert len(found[0].message) == MAX_MESSAGE_CHARS


def test_a_report_without_tests_is_read_as_none() -> None:
    assert parse_junit(junit()) == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"PASSED", "no valid XML"),
        (b"\xff\xfe\x00", "no valid XML"),
        (junit(case("t"))[:-20], "no valid XML"),
        (b"<html><testcase name='t'/></html>", "begins with <html>"),
        (b'<!DOCTYPE t [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><testsuite name="&b;"/>', "document type"),
        (b'<!DOCTYPE t SYSTEM "file:///etc/passwd"><testsuite/>', "document type"),
        (junit("<a>" * 100 + "</a>" * 100), "nested deeper"),
        (junit("<testcase time='1'/>"), "without a name"),
        (junit(case("t", case("u"))), "inside another"),
    ],
)
def test_what_is_no_junit_file_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ReportRefused, match=reason):
        parse_junit(data)


def test_a_report_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real.xml").write_bytes(junit(case("t")))
    (tmp_path / "junit.xml").symlink_to(tmp_path / "real.xml")
    with pytest.raises(ReportRefused, match=r"junit\.xml cannot be read"):
        read_report(tmp_path / "junit.xml")


def test_a_report_with_a_second_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_bytes(junit(case("t")))
    os.link(tmp_path / "junit.xml", tmp_path / "other.xml")
    with pytest.raises(ReportRefused, match="no regular file"):
        read_report(tmp_path / "junit.xml")


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "junit.xml")
    with pytest.raises(ReportRefused, match="no regular file"):
        read_report(tmp_path / "junit.xml")


def test_a_report_beyond_its_size_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_bytes(b"x" * 11)
    with pytest.raises(ReportRefused, match="larger than 10 bytes"):
        read_report(path, max_bytes=10)
    assert read_report(path, max_bytes=11) == b"x" * 11
    path.write_bytes(b"")
    with pytest.raises(ReportRefused, match="was not written"):
        read_report(path)
    with pytest.raises(ReportRefused, match="cannot be read"):
        read_report(tmp_path / "missing.xml")
