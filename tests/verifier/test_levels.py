"""What a verification does with tests beyond running them: again, without the package, against a patch, by identity."""

from __future__ import annotations

import threading
from pathlib import Path

import msgspec
import pytest

from actors.settings import VerifySettings
from actors.templates import stock_context
from actors.verifier import Verdict, Verifier
from actors.verifier.defences import Defence
from actors.verifier.suite.report import TestOutcome, decode_outcomes, encode_outcomes
from events.work import FailureClass, Level, TestCounts, VerificationRules, WorkOrder
from tests.engine_fixtures import TestBench
from tests.verifier.images import LAID_OVER, SAMPLE, Judge

pytestmark = pytest.mark.engine

FLAKY = """\
import sample_pkg

seen = []


def test_first():
    seen.append(1)
    assert sample_pkg.double(1) == 2


def test_second():
    assert not seen
    assert sample_pkg.double(2) == 4
"""
MIXED = """\
import sample_pkg


def test_good():
    assert sample_pkg.double(1) == 2


def test_bad():
    assert sample_pkg.double(1) == 3
"""
GREEN = "def test_nothing():\n    pass\n"
STRICT = VerificationRules(min_pass_ratio=1.0)
T = "tests/test_sample.py::"


def outcomes_of(verdict: Verdict) -> dict[str, TestOutcome]:
    return {one.test.removeprefix(T): one for one in decode_outcomes(verdict.files["tests"].read_bytes())}


def test_a_failure_that_passes_when_run_again_fails_nothing_and_keeps_its_rate(judge: Judge) -> None:
    image = judge.image(FLAKY)
    verdict = judge.verify(image, rules=STRICT)
    assert verdict.verified, verdict.message
    assert verdict.tests == TestCounts(passed=2, flaky=1)
    assert verdict.message == "2 of 2 tests passed, 1 of them when run again"
    flaky = outcomes_of(verdict)["test_second"]
    assert (flaky.outcome, flaky.runs, flaky.failures) == ("passed", 2, 1)
    assert "rerun_1_log" in verdict.files
    assert "rerun_2_log" not in verdict.files
    refused = judge.verify(image, rules=msgspec.structs.replace(STRICT, reruns=0))
    assert (refused.verified, refused.failure_class) == (False, FailureClass.RECIPE)


def test_a_failure_that_stays_is_run_as_often_as_the_rules_say(judge: Judge) -> None:
    verdict = judge.verify(judge.image(MIXED), rules=STRICT)
    assert not verdict.verified
    bad = outcomes_of(verdict)["test_bad"]
    assert (bad.outcome, bad.runs, bad.failures) == ("failed", 3, 3)


def test_what_failed_on_the_neighbour_may_fail_here_and_nothing_else_may(judge: Judge) -> None:
    image = judge.image(MIXED)
    known = encode_outcomes([TestOutcome(test=f"{T}test_bad", outcome="failed", failures=3, runs=3)])
    verdict = judge.verify(image, rules=STRICT, known_failures=known)
    assert verdict.verified, verdict.message
    assert verdict.tests == TestCounts(passed=1, failed=1, known=1)
    other = encode_outcomes([TestOutcome(test=f"{T}test_other", outcome="failed", failures=3, runs=3)])
    assert not judge.verify(image, rules=STRICT, known_failures=other).verified
    distrustful = msgspec.structs.replace(STRICT, allow_known_failures=False)
    assert not judge.verify(image, rules=distrustful, known_failures=known).verified


def test_named_tests_have_to_pass(judge: Judge) -> None:
    rules = VerificationRules(min_pass_ratio=0.5, must_pass=(f"{T}test_bad",), reruns=0)
    verdict = judge.verify(judge.image(MIXED), rules=rules)
    assert (verdict.verified, verdict.failure_class) == (False, FailureClass.RECIPE)
    assert "tests/test_sample.py::test_bad, which has to pass" in verdict.message


def test_tests_that_pass_without_the_package_verify_nothing(judge: Judge) -> None:
    image = judge.image(GREEN)
    verdict = judge.verify(image, without=LAID_OVER - {Defence.CONTROL})
    assert (verdict.verified, verdict.failure_class) == (False, FailureClass.TAMPER)
    assert verdict.message.startswith("control: 1 of 1 tests pass with the package's own code taken away")
    assert judge.verify(image).verified


def test_what_makes_every_test_pass_makes_the_canaries_pass(judge: Judge) -> None:
    whitewash = "def pytest_runtest_makereport(item, call):\n    call.excinfo = None\n"
    image = judge.image(MIXED, files={"workspace/repo/conftest.py": whitewash})
    verdict = judge.verify(image)
    assert (verdict.verified, verdict.failure_class) == (False, FailureClass.TAMPER)
    assert verdict.message.startswith("canaries: a test from outside that must fail was reported as passed")
    assert judge.verify(image, without=LAID_OVER | {Defence.CANARIES}).verified


def test_a_test_that_is_left_out_is_missed(judge: Judge) -> None:
    hiding = "def pytest_collection_modifyitems(items):\n    items.clear()\n"
    image = judge.image(files={"workspace/repo/conftest.py": hiding})
    verdict = judge.verify(image, without=LAID_OVER - {Defence.COLLECTION})
    assert (verdict.verified, verdict.failure_class) == (False, FailureClass.TAMPER)
    assert verdict.message.startswith("collection: ")
    assert "test_double" in verdict.message


def test_an_unchanged_image_is_inspected_once(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    image = judge.image(MIXED)
    rules = VerificationRules(level=Level.BUILD)
    assert judge.verify(image, rules=rules).verified

    def unreachable(*_: object, **__: object) -> None:
        raise AssertionError("the image was looked at again")

    monkeypatch.setattr("actors.verifier.inspection.open_image", unreachable)
    assert judge.verify(image, rules=rules).verified


# ---------------------------------------------------------------- level f2p

BROKEN = {**SAMPLE, "sample_pkg.py": "def double(number):\n    return 3 * number\n"}
OLD_TEST = "import sample_pkg\n\n\ndef test_zero():\n    assert sample_pkg.double(0) == 0\n"
PATCH = """\
diff --git a/sample_pkg.py b/sample_pkg.py
--- a/sample_pkg.py
+++ b/sample_pkg.py
@@ -1,2 +1,2 @@
 def double(number):
-    return 3 * number
+    return 2 * number
"""
TEST_PATCH = """\
diff --git a/tests/test_three.py b/tests/test_three.py
new file mode 100644
--- /dev/null
+++ b/tests/test_three.py
@@ -0,0 +1,5 @@
+import sample_pkg
+
+
+def test_three():
+    assert sample_pkg.double(3) == 6
"""


def f2p(bench: TestBench, folder: Path, **fields: object) -> tuple[Verdict, WorkOrder]:
    """The verdict at level f2p on a commit with a bug, whose own test passes all the same."""
    project = bench.project()
    commit = project.commit({**BROKEN, "tests/test_sample.py": OLD_TEST})
    order = bench.order(project, commit, dependencies=("pytest==8.3.4",))
    request = msgspec.structs.replace(order.pull_request, **fields)
    order = msgspec.structs.replace(order, pull_request=request, rules=VerificationRules(level=Level.F2P))
    image, _ = bench.build(order)
    spool = folder / "spool"
    spool.mkdir()
    verifier = Verifier(
        engine=bench.engine,
        settings=VerifySettings(memory_mb=512, test_timeout_s=60, smoke_timeout_s=60),
        build=bench.settings,
        cache_dir=bench.cache_dir,
    )
    verdict = verifier.verify(order, image, context=stock_context(), spool=spool, cancel=threading.Event())
    return verdict, order


def test_a_fix_is_verified_by_the_tests_that_fail_without_it(bench: TestBench, tmp_path: Path) -> None:
    named = ["tests/test_three.py::test_three"]
    verdict, _ = f2p(
        bench,
        tmp_path,
        patch=PATCH,
        test_patch=TEST_PATCH,
        fail_to_pass=named,
        pass_to_pass=["tests/test_sample.py::test_zero"],
    )
    assert verdict.verified, verdict.message
    assert verdict.stage == "f2p"
    assert verdict.checks[-1].detail == "1 tests fail before the patch and pass after it, 1 pass on both sides, 2 times"
    assert {"f2p_before_1_log", "f2p_before_2_log", "f2p_after_1_log", "f2p_after_2_log"} <= set(verdict.files)


def test_without_names_the_tests_of_the_test_patch_are_looked_at(bench: TestBench, tmp_path: Path) -> None:
    verdict, _ = f2p(bench, tmp_path, patch=PATCH, test_patch=TEST_PATCH)
    assert verdict.verified, verdict.message


def test_a_patch_that_mends_nothing_is_refused(bench: TestBench, tmp_path: Path) -> None:
    useless = PATCH.replace("+    return 2 * number", "+    return 4 * number")
    named = ["tests/test_three.py::test_three"]
    verdict, _ = f2p(bench, tmp_path, patch=useless, test_patch=TEST_PATCH, fail_to_pass=named)
    assert (verdict.verified, verdict.stage, verdict.failure_class) == (False, "f2p", FailureClass.RECIPE)
    assert verdict.message == "tests/test_three.py::test_three does not pass with the patch"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "has no patch with tests; level f2p needs patch, and fail_to_pass or test_patch"),
        ({"patch": "nonsense", "test_patch": TEST_PATCH}, "patch"),
        (
            {"patch": PATCH, "test_patch": TEST_PATCH, "fail_to_pass": ["tests/test_three.py::absent"]},
            "tests/test_three.py::absent, named in fail_to_pass, is no test of",
        ),
        (
            {"patch": PATCH, "test_patch": TEST_PATCH, "fail_to_pass": ["tests/test_sample.py::test_zero"]},
            "tests/test_sample.py::test_zero passes without the patch",
        ),
    ],
    ids=["no_patch", "no_diff", "unknown_name", "passes_already"],
)
def test_what_cannot_show_a_fix_is_refused_with_its_reason(
    bench: TestBench, tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    verdict, _ = f2p(bench, tmp_path, **fields)
    assert (verdict.verified, verdict.stage, verdict.failure_class) == (False, "f2p", FailureClass.RECIPE)
    assert message in verdict.message
