"""Applies the rules of a verdict to the outcomes of tests. Pure.

Tests are known by their identity, the node id, from one commit to the next and from one run to the next:

- A failing test that passes when it is run again is a flake. It counts as passed, and its failures stay counted.
- Where a neighbour's context is reused, a test that failed on the neighbour may fail here as well: it counts neither
  for nor against the ratio. A test that passed there has to pass here like any other, however many failed there; one
  that is skipped here counts as one that did not pass, for nothing is as easy to arrange as a skip.
- ``must_pass`` names tests, or patterns of them, that have to pass whatever the ratio is. A name without parameters
  means the test with all of its parameters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

from msgspec.structs import replace

from actors.verifier.suite.report import TestOutcome, counts
from events.work import VerificationRules

__all__ = ["NAMED_TESTS", "first_failures", "judge", "mark_known", "merge_rerun", "refusal", "resolve_names"]

NAMED_TESTS = 5
"""How many failing tests a message names."""


def mark_known(outcomes: Iterable[TestOutcome], allowed: Collection[str]) -> list[TestOutcome]:
    """The outcomes, those marked that failed and were allowed to."""
    return [replace(one, known=True) if one.failed and one.test in allowed else one for one in outcomes]


def merge_rerun(outcomes: Iterable[TestOutcome], again: Iterable[TestOutcome]) -> list[TestOutcome]:
    """The outcomes after some of the tests were run once more."""
    second = {one.test: one for one in again}
    merged = []
    for one in outcomes:
        other = second.get(one.test)
        if other is None or other.outcome == "skipped":
            merged.append(one)
        elif other.failed:
            merged.append(replace(one, runs=one.runs + 1, failures=one.failures + 1))
        else:
            merged.append(replace(one, outcome="passed", runs=one.runs + 1))
    return merged


def judge(
    outcomes: Sequence[TestOutcome], rules: VerificationRules, *, passed_before: Collection[str] = ()
) -> tuple[bool, str]:
    """Whether the outcomes satisfy the rules, and why, in words.

    ``passed_before``: tests that passed on the neighbour.
    """
    count = counts(outcomes)
    lost = _lost(outcomes, passed_before)
    why = refusal(outcomes, rules, passed_before=passed_before)
    if why is not None and not count.run:
        return False, why
    bad = count.failed + count.errors - count.known
    counted = count.run - count.known + len(lost)
    ratio = count.passed / counted if counted else 1.0
    detail = f"{bad} of {counted} tests failed (pass ratio {ratio:.3g}, needed {rules.min_pass_ratio:.3g})"
    detail += f", {count.known} more failed as on the neighbour" if count.known else ""
    detail += f", {count.flaky} passed only when run again" if count.flaky else ""
    detail += f", {count.skipped} skipped" if count.skipped else ""
    detail += f", {len(lost)} of them passed on the neighbour ({', '.join(lost[:NAMED_TESTS])})" if lost else ""
    uncollected = sum(one.failed and "::" not in one.test for one in outcomes)
    detail += f", {uncollected} of the failures are files that could not be collected" if uncollected else ""
    return why is None, (f"{why}; {detail}" if why else detail) + first_failures(outcomes)


def refusal(
    outcomes: Sequence[TestOutcome], rules: VerificationRules, *, passed_before: Collection[str] = ()
) -> str | None:
    """Why the outcomes do not satisfy the rules; ``None`` if they do. ``passed_before``: see ``judge``."""
    count = counts(outcomes)
    if not outcomes:
        return "no test was collected; at least one has to run"
    if count.run == 0:
        return f"all {count.skipped} tests were skipped; at least one has to run"
    if count.passed == 0:
        return "no test passed"
    wanted = rules.min_pass_ratio * (count.run - count.known)
    if count.passed < wanted - 1e-9:
        return "too many tests failed"
    lost = _lost(outcomes, passed_before)
    if count.passed < wanted + rules.min_pass_ratio * len(lost) - 1e-9:
        return "too many tests that passed on the neighbour are skipped"
    return next(filter(None, (_missed(pattern, outcomes) for pattern in rules.must_pass)), None)


def _lost(outcomes: Sequence[TestOutcome], passed_before: Collection[str]) -> list[str]:
    """The tests that were skipped, and passed on the neighbour."""
    return [one.test for one in outcomes if one.outcome == "skipped" and one.test in passed_before]


def _missed(pattern: str, outcomes: Sequence[TestOutcome]) -> str | None:
    """Why what ``pattern`` names did not pass; ``None`` if all of it did."""
    matched = resolve_names([pattern], [one.test for one in outcomes])
    passed = {one.test for one in outcomes if one.outcome == "passed"}
    if not matched:
        return f"{pattern}, which has to pass (setting verify.must_pass), is no test of this commit"
    missed = [test for test in matched if test not in passed]
    return f"{missed[0]}, which has to pass (setting verify.must_pass), did not" if missed else None


def resolve_names(names: Iterable[str], tests: Sequence[str]) -> list[str]:
    """Those of ``tests`` that ``names`` mean: by node id, by node id without parameters, or by pattern."""
    found: dict[str, None] = {}
    known = set(tests)
    for name in names:
        if name in known:
            found[name] = None
            continue
        for test in tests:
            if test.startswith(f"{name}[") or fnmatchcase(test, name):
                found[test] = None
    return list(found)


def first_failures(outcomes: Iterable[TestOutcome]) -> str:
    """``; first: a, b`` for messages; empty when nothing failed that was not allowed to."""
    bad = [one.test for one in outcomes if one.failed and not one.known]
    return f"; first: {', '.join(bad[:NAMED_TESTS])}" if bad else ""
