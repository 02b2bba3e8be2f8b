"""Rules applied to outcomes, by the tests' identity."""

from __future__ import annotations

import pytest

from actors.verifier.suite.judging import judge, mark_known, merge_rerun, resolve_names
from actors.verifier.suite.report import OutcomeName, TestOutcome, counts
from events.work import VerificationRules


def outcomes(**given: OutcomeName) -> list[TestOutcome]:
    return [
        TestOutcome(test=f"t.py::{name}", outcome=outcome, failures=int(outcome in ("failed", "error")))
        for name, outcome in given.items()
    ]


def many(count: int, outcome: OutcomeName, prefix: str) -> list[TestOutcome]:
    return [TestOutcome(test=f"t.py::{prefix}{number}", outcome=outcome) for number in range(count)]


def test_the_ratio_is_of_the_tests_that_ran() -> None:
    rules = VerificationRules(min_pass_ratio=0.9)
    good, detail = judge([*many(9, "passed", "p"), *many(1, "failed", "f"), *many(5, "skipped", "s")], rules)
    assert good
    assert detail == "1 of 10 tests failed (pass ratio 0.9, needed 0.9), 5 skipped; first: t.py::f0"
    good, detail = judge([*many(8, "passed", "p"), *many(1, "failed", "f"), *many(1, "error", "e")], rules)
    assert not good
    assert (
        detail == "too many tests failed; 2 of 10 tests failed (pass ratio 0.8, needed 0.9); first: t.py::f0, t.py::e0"
    )


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ([], "no test was collected; at least one has to run"),
        (many(3, "skipped", "s"), "all 3 tests were skipped; at least one has to run"),
    ],
)
def test_without_a_test_that_ran_nothing_is_verified(found: list[TestOutcome], why: str) -> None:
    assert judge(found, VerificationRules()) == (False, why)


def test_a_failure_that_the_neighbour_had_too_counts_neither_way() -> None:
    found = mark_known(outcomes(a="passed", b="failed", c="error"), {"t.py::b", "t.py::c", "t.py::gone"})
    good, detail = judge(found, VerificationRules(min_pass_ratio=1.0))
    assert good
    assert detail == "0 of 1 tests failed (pass ratio 1, needed 1), 2 more failed as on the neighbour"
    assert counts(found).known == 2


def test_a_test_that_passed_on_the_neighbour_has_to_pass_however_many_failed_there() -> None:
    allowed = {f"t.py::f{number}" for number in range(50)}
    found = mark_known([*many(1, "passed", "p"), *many(1, "failed", "other")], allowed)
    good, _ = judge(found, VerificationRules(min_pass_ratio=0.9))
    assert not good


def test_a_test_that_passed_on_the_neighbour_and_is_skipped_here_counts_as_not_passed() -> None:
    found = [*many(8, "passed", "p"), *many(2, "skipped", "s"), *many(5, "skipped", "never")]
    rules = VerificationRules(min_pass_ratio=0.9)
    good, detail = judge(found, rules, passed_before={"t.py::s0", "t.py::s1", "t.py::p0"})
    assert not good
    assert detail == (
        "too many tests that passed on the neighbour are skipped; 0 of 10 tests failed (pass ratio 0.8, needed 0.9), "
        "7 skipped, 2 of them passed on the neighbour (t.py::s0, t.py::s1)"
    )
    assert judge(found, rules)[0]
    assert judge(found, rules, passed_before={"t.py::never9", "t.py::p0"})[0]
    assert judge([*many(9, "passed", "p"), *many(1, "skipped", "s")], rules, passed_before={"t.py::s0"})[0]


def test_a_file_that_could_not_be_collected_is_told_apart() -> None:
    _, detail = judge([*many(9, "passed", "p"), TestOutcome(test="t.py", outcome="error")], VerificationRules())
    assert "1 of the failures are files that could not be collected" in detail


def test_known_failures_alone_verify_nothing() -> None:
    found = mark_known(many(3, "failed", "f"), {"t.py::f0", "t.py::f1", "t.py::f2"})
    good, detail = judge(found, VerificationRules())
    assert not good
    assert detail.startswith("no test passed")


def test_a_known_failure_that_passes_is_an_ordinary_pass() -> None:
    assert counts(mark_known(outcomes(a="passed"), {"t.py::a"})).known == 0


def test_a_failure_that_passes_when_run_again_is_a_flake_and_is_not_hidden() -> None:
    first = outcomes(a="failed", b="failed", c="passed")
    second = merge_rerun(first, outcomes(a="passed", b="failed"))
    third = merge_rerun(second, outcomes(b="failed"))
    assert [(one.outcome, one.runs, one.failures) for one in third] == [
        ("passed", 2, 1),
        ("failed", 3, 3),
        ("passed", 1, 0),
    ]
    assert counts(third).flaky == 1
    _, detail = judge(third, VerificationRules(min_pass_ratio=0.5))
    assert "1 passed only when run again" in detail


def test_a_rerun_that_skips_a_test_or_leaves_it_out_does_not_clear_it() -> None:
    assert merge_rerun(outcomes(a="failed", b="failed"), outcomes(a="skipped")) == outcomes(a="failed", b="failed")


def test_named_tests_have_to_pass_whatever_the_ratio_is() -> None:
    found = [TestOutcome(test="t.py::test_core[1]", outcome="failed"), *many(99, "passed", "p")]
    good, detail = judge(found, VerificationRules(must_pass=("t.py::test_core",)))
    assert not good
    assert detail.startswith("t.py::test_core[1], which has to pass (setting verify.must_pass), did not")
    good, detail = judge(found, VerificationRules(must_pass=("t.py::absent",)))
    assert not good
    assert "t.py::absent, which has to pass (setting verify.must_pass), is no test" in detail
    assert judge(found, VerificationRules(must_pass=("t.py::p*",)))[0]


def test_names_mean_tests_by_id_without_parameters_or_by_pattern() -> None:
    tests = ["a.py::t", "a.py::t[1]", "a.py::t[2]", "a.py::tt", "b.py::t"]
    assert resolve_names(["a.py::t[2]"], tests) == ["a.py::t[2]"]
    assert resolve_names(["a.py::t"], tests) == ["a.py::t"]
    assert resolve_names(["a.py::t"], tests[1:]) == ["a.py::t[1]", "a.py::t[2]"]
    assert resolve_names(["*::t"], tests) == ["a.py::t", "b.py::t"]
    assert resolve_names(["c.py::t"], tests) == []
