"""Reading reports that may be hostile, and real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from actors.verifier.containers.inside import run_tests
from actors.verifier.suite.report import (
    MAX_MESSAGE_CHARS,
    ReportRefused,
    RunReport,
    TestOutcome,
    counts,
    decode_outcomes,
    encode_outcomes,
    parse_report,
    read_report,
)
from events.work import TestCounts


def lines(*told: dict[str, object]) -> bytes:
    return b"".join(msgspec.json.encode(one) + b"\n" for one in told)


def call(test: str, outcome: str = "passed", *, when: str = "call", message: str = "") -> dict[str, object]:
    return {"test": test, "when": when, "outcome": outcome, "time_s": 0.25, "message": message}


def test_every_outcome_is_told_apart() -> None:
    report = parse_report(
        lines(
            call("a.py::ok"),
            call("a.py::bad", "failed", message="assert 1 == 2"),
            call("a.py::broken", "failed", when="setup", message="fixture failed"),
            call("a.py::left_out", "skipped", when="setup", message="known"),
        )
    )
    assert [(one.test, one.outcome, one.message, one.failures) for one in report.outcomes] == [
        ("a.py::ok", "passed", "", 0),
        ("a.py::bad", "failed", "assert 1 == 2", 1),
        ("a.py::broken", "error", "fixture failed", 1),
        ("a.py::left_out", "skipped", "known", 0),
    ]
    assert counts(report.outcomes) == TestCounts(passed=1, failed=1, errors=1, skipped=1)


def test_a_test_counts_once_by_its_worst_phase() -> None:
    report = parse_report(lines(call("t", "failed"), call("t", "failed", when="teardown", message="e"), call("t")))
    assert report.outcomes == [TestOutcome(test="t", outcome="error", time_s=0.25, message="e", failures=1)]


def test_a_test_that_a_plugin_ran_again_counts_as_its_last_run_says() -> None:
    report = parse_report(lines(call("t", "rerun"), call("t", "failed", when="setup"), call("t", "rerun"), call("t")))
    assert [one.outcome for one in report.outcomes] == ["passed"]


def test_a_file_that_was_not_collected_is_an_error_or_skipped_under_its_own_name() -> None:
    report = parse_report(
        lines(
            {"module": "tests/test_b.py", "outcome": "failed", "message": "ImportError"},
            {"module": "tests/test_c.py", "outcome": "skipped", "message": "no numpy"},
        )
    )
    assert [(one.test, one.outcome) for one in report.outcomes] == [
        ("tests/test_b.py", "error"),
        ("tests/test_c.py", "skipped"),
    ]
    assert [one.outcome for one in report.modules] == ["failed", "skipped"]


def test_tests_from_outside_are_kept_apart() -> None:
    told = lines(call("a.py::test_1", "failed"), call("a.py::test_2"), call("t"))
    report = parse_report(told, canaries=["test_1", "test_2"])
    assert report.canaries == {"test_1": "failed", "test_2": "passed"}
    assert [one.test for one in report.outcomes] == ["t"]


@pytest.mark.parametrize("time_s", ["-1", "1e999"])
def test_a_duration_that_is_none_is_left_out(time_s: str) -> None:
    line = f'{{"test": "t", "when": "call", "outcome": "passed", "time_s": {time_s}, "message": ""}}'
    try:
        report = parse_report(line.encode())
    except ReportRefused:
        return
    assert report.outcomes[0].time_s is None


def test_outcomes_are_written_one_object_a_line_and_read_back() -> None:
    outcomes = [
        TestOutcome(test="a", outcome="passed", time_s=0.25, runs=2, failures=1),
        TestOutcome(test="b", outcome="skipped"),
    ]
    written = encode_outcomes(outcomes)
    assert [msgspec.json.decode(line) for line in written.splitlines()] == [
        {"test": "a", "outcome": "passed", "time_s": 0.25, "runs": 2, "failures": 1},
        {"test": "b", "outcome": "skipped"},
    ]
    assert decode_outcomes(written) == outcomes


def test_a_long_message_is_cut() -> None:
    report = parse_report(lines(call("t", "failed", message="x" * 5000)))
    assert len(report.outcomes[0].message) == MAX_MESSAGE_CHARS


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"PASSED", "line 1 of the report is none"),
        (b"\xff\xfe\x00", "line 1 of the report is none"),
        (lines(call("t"))[:-20], "line 1 of the report is none"),
        (b"[]", "line 1 of the report is none"),
        (b"{}", "without a subject"),
        (lines(call("")), "without a name"),
        (lines({**call("t"), "result": "fine"}), "unknown field"),
        (lines({"test": "t", "when": "later", "outcome": "passed"}), "line 1 of the report is none"),
        (lines({"module": "m", "outcome": "rerun"}), "without a subject"),
    ],
)
def test_what_is_no_report_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ReportRefused, match=reason):
        parse_report(data)


def test_a_report_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(lines(call("t")))
    (tmp_path / "report.jsonl").symlink_to(tmp_path / "real")
    with pytest.raises(ReportRefused, match=r"report\.jsonl cannot be read"):
        read_report(tmp_path / "report.jsonl")


def test_a_report_with_a_second_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.jsonl").write_bytes(lines(call("t")))
    os.link(tmp_path / "report.jsonl", tmp_path / "other")
    with pytest.raises(ReportRefused, match="no regular file"):
        read_report(tmp_path / "report.jsonl")


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "report.jsonl")
    with pytest.raises(ReportRefused, match="no regular file"):
        read_report(tmp_path / "report.jsonl")


def test_a_report_beyond_its_size_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.jsonl"
    path.write_bytes(b"x" * 11)
    with pytest.raises(ReportRefused, match="larger than 10 bytes"):
        read_report(path, max_bytes=10)
    assert read_report(path, max_bytes=11) == b"x" * 11
    path.write_bytes(b"")
    with pytest.raises(ReportRefused, match="was not written"):
        read_report(path)
    with pytest.raises(ReportRefused, match="cannot be read"):
        read_report(tmp_path / "missing")


# ---------------------------------------------------------------- the reporter itself, in a real pytest on this host

SUITE = """\
import unittest

import pytest


def test_ok():
    pass


def test_bad():
    assert 0


@pytest.mark.xfail
def test_known():
    assert 0


@pytest.mark.skip(reason="no")
def test_left_out():
    pass


@pytest.fixture
def broken():
    raise ValueError("b")


def test_error(broken):
    pass


class TestUnit(unittest.TestCase):
    def test_one(self):
        pass


@pytest.mark.parametrize("value", ["a::b", "[x]", "\\n"])
def test_odd(value):
    pass
"""
CANARIES = ["test_c0", "test_c1", "test_c2"]
FILTERED = "def pytest_collection_modifyitems(items):\n    del items[3:]\n"


def run(folder: Path, files: dict[str, str], *, only: list[str] | None = None) -> tuple[int, RunReport]:
    """Runs ``inside/run_tests.py`` on these files as a container would."""
    checkout = folder / "checkout"
    for name, text in files.items():
        path = checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    request = {"report": str(folder / "report.jsonl"), "only": only, "plugins": [], "prepare": [], "traceback": "auto"}
    (folder / "report.jsonl").touch()
    asked = folder / "request.json"
    asked.write_text(json.dumps({**request, "canaries": CANARIES}))
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPYCACHEPREFIX": str(folder / "pyc")}
    done = subprocess.run(
        [sys.executable, "-s", run_tests.__file__, str(asked)], cwd=checkout, env=environment, check=False
    )
    return done.returncode, parse_report(read_report(folder / "report.jsonl"), canaries=CANARIES)


def test_the_reporter_tells_of_every_test_of_a_real_run(tmp_path: Path) -> None:
    code, report = run(
        tmp_path,
        {
            "tests/test_a.py": SUITE,
            "tests/test_b.py": "import not_there\n",
            "tests/test_c.py": "import pytest\n\npytest.importorskip('not_there')\n",
            "pytest.ini": "[pytest]\nfilterwarnings = error\n",
        },
    )
    assert (code, report.finished) == (1, 1)
    outcomes = {one.test.removeprefix("tests/"): one.outcome for one in report.outcomes}
    assert outcomes == {
        "test_b.py": "error",
        "test_c.py": "skipped",
        "test_a.py::test_ok": "passed",
        "test_a.py::test_bad": "failed",
        "test_a.py::test_known": "skipped",
        "test_a.py::test_left_out": "skipped",
        "test_a.py::test_error": "error",
        "test_a.py::TestUnit::test_one": "passed",
        "test_a.py::test_odd[a::b]": "passed",
        "test_a.py::test_odd[[x]]": "passed",
        "test_a.py::test_odd[\\n]": "passed",
    }
    assert {one.nodeid: one.outcome for one in report.modules}["tests/test_c.py"] == "skipped"
    assert report.selected == report.collected
    assert set(report.canaries.values()) == {"failed"}
    assert len(report.canaries) == 3


def test_what_the_repository_deselects_was_collected_but_not_selected(tmp_path: Path) -> None:
    _, report = run(tmp_path, {"tests/test_a.py": SUITE, "conftest.py": FILTERED})
    assert (len(report.collected), len(report.selected)) == (9, 3)


def test_only_the_tests_asked_for_run_and_the_canaries_with_them(tmp_path: Path) -> None:
    wanted = ["tests/test_a.py::test_odd[a::b]", "tests/test_a.py::test_ok"]
    _, report = run(tmp_path, {"tests/test_a.py": SUITE}, only=wanted)
    assert sorted(one.test for one in report.outcomes) == wanted
    assert len(report.canaries) == 3


def test_a_plugin_that_makes_every_test_pass_gives_itself_away(tmp_path: Path) -> None:
    whitewash = "def pytest_runtest_makereport(item, call):\n    call.excinfo = None\n"
    code, report = run(tmp_path, {"tests/test_a.py": SUITE, "conftest.py": whitewash})
    assert code == 0
    assert set(report.canaries.values()) == {"passed"}


def test_a_suite_of_doctests_alone_gets_its_canaries_too(tmp_path: Path) -> None:
    _, report = run(tmp_path, {"notes.txt": ">>> 1\n1\n", "pytest.ini": "[pytest]\naddopts = --doctest-glob=*.txt\n"})
    assert [one.outcome for one in report.outcomes] == ["passed"]
    assert report.canaries == dict.fromkeys(CANARIES, "failed")


def test_without_tests_nothing_is_added(tmp_path: Path) -> None:
    code, report = run(tmp_path, {"readme.txt": ""})
    assert (code, report.collected, report.canaries) == (5, [], {})
