"""Verdicts on real images by the real engine."""

from __future__ import annotations

import threading
import time

import pytest

from actors.settings import VerifySettings
from actors.verifier.defences import Defence
from events.work import FailureClass, Level, TestCounts, VerificationRules
from tests.verifier.images import LAID_OVER, SAMPLE, Judge, outcomes_of, wheel

pytestmark = pytest.mark.engine

ENDLESS = "import time\n\n\ndef test_endless():\n    print('begun', flush=True)\n    time.sleep(600)\n"
MIXED = """\
import pytest


@pytest.mark.parametrize("number", range(3))
def test_good(number):
    pass


@pytest.mark.parametrize("number", range(2))
def test_bad(number):
    assert number > 5
"""
SITE = "/opt/venv/lib/python3.11/site-packages"


def test_an_honest_project_is_verified(judge: Judge) -> None:
    verdict = judge.verify(judge.image(), without=frozenset())
    assert verdict.verified, verdict.message
    assert (verdict.stage, verdict.failure_class) == ("tests", None)
    assert (verdict.message, verdict.log_tail) == ("1 of 1 tests passed", "")
    assert all(check.ok for check in verdict.checks)
    assert [check.name for check in verdict.checks] == [
        *("template", "audit", "channel", "environment", "tools", "startup", "provenance", "tree", "origin"),
        *("import", "canaries", "collection", "tests", "control"),
    ]
    details = {check.name: check.detail for check in verdict.checks}
    assert details["import"] == "sample_pkg is /workspace/repo/sample_pkg.py"
    assert details["tests"] == "0 of 1 tests failed (pass ratio 1, needed 0.9)"
    assert details["control"] == "0 of 1 passed without the package's code"
    assert verdict.tests == TestCounts(passed=1)
    assert outcomes_of(verdict) == {"tests/test_sample.py::test_double": "passed"}
    assert b"1 passed" in verdict.files["test_log"].read_bytes()
    assert verdict.peak_memory_bytes is not None
    assert verdict.peak_memory_bytes > 5_000_000
    assert verdict.test_s is not None
    assert verdict.test_s > 0
    assert judge.containers() == []


def test_failing_tests_below_the_ratio_refuse_and_above_it_do_not(judge: Judge) -> None:
    image = judge.image(MIXED)
    refused = judge.verify(image)
    assert (refused.verified, refused.stage, refused.failure_class) == (False, "tests", FailureClass.RECIPE)
    assert refused.message == (
        "too many tests failed; 2 of 5 tests failed (pass ratio 0.6, needed 0.9); "
        "first: tests/test_sample.py::test_bad[0], tests/test_sample.py::test_bad[1]"
    )
    assert refused.tests == TestCounts(passed=3, failed=2)
    assert "assert 0 > 5" in refused.log_tail
    assert outcomes_of(refused)["tests/test_sample.py::test_bad[1]"] == "failed"
    assert judge.verify(image, rules=VerificationRules(min_pass_ratio=0.6)).verified


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ("", "no test was collected; at least one has to run"),
        (
            "import pytest\n\n\n@pytest.mark.skip\ndef test_left_out():\n    pass\n",
            "all 1 tests were skipped; at least one has to run",
        ),
    ],
    ids=["none", "skipped"],
)
def test_a_run_without_a_single_test_refuses(judge: Judge, tests: str, message: str) -> None:
    verdict = judge.verify(judge.image(tests))
    assert (verdict.verified, verdict.failure_class, verdict.message) == (False, FailureClass.RECIPE, message)


def test_a_module_that_cannot_be_collected_counts_as_an_error_beside_the_others(judge: Judge) -> None:
    broken = "import a_module_that_is_not_there\n"
    verdict = judge.verify(judge.image(MIXED, files={"workspace/repo/tests/test_broken.py": broken}))
    assert not verdict.verified
    assert verdict.tests == TestCounts(passed=3, failed=2, errors=1)
    assert "1 of the failures are files that could not be collected" in verdict.message
    assert "tests/test_broken.py" in verdict.message


@pytest.mark.parametrize(
    ("conftest", "tests", "message"),
    [
        (
            "",
            "import pytest\n\n\ndef test_a():\n    pass\n\n\ndef test_b():\n    pytest.exit('done', returncode=2)\n",
            "interrupted",
        ),
        ("def pytest_runtestloop(session):\n    raise RuntimeError('broken')\n", None, "internal error"),
        (
            "import pytest\n\n\ndef pytest_configure(config):\n    raise pytest.UsageError('no')\n",
            None,
            "refused its command",
        ),
        ("", "import os\n\n\ndef test_a():\n    os._exit(0)\n", "pytest ended with exit code 0 but reported no end"),
        ("", "import os\n\n\ndef test_a():\n    os._exit(77)\n", "did not come to its end (exit code 77)"),
        ("", "import os\n\n\ndef test_a():\n    os.kill(os.getpid(), 11)\n", "crashed with SIGSEGV"),
        ("", "import sys\n\n\ndef test_a():\n    sys.exit(0)\n", "1 of 1 tests failed"),
    ],
    ids=["exit_2", "internal_error", "usage_error", "exit_0_without_report", "exit_77", "crash", "sys_exit"],
)
def test_a_test_run_that_does_not_end_properly_is_no_success(
    judge: Judge, conftest: str, tests: str | None, message: str
) -> None:
    files = {"workspace/repo/conftest.py": conftest}
    verdict = judge.verify(judge.image(tests, files=files))
    assert (verdict.verified, verdict.stage, verdict.failure_class) == (False, "tests", FailureClass.RECIPE)
    assert message in verdict.message


def test_a_report_of_garbage_is_refused_and_cannot_be_replaced_by_a_link(judge: Judge) -> None:
    tests = """\
import os

import pytest

REPORT = "/headrace/results/report.jsonl"


def test_report_is_fixed():
    with pytest.raises(OSError):
        os.unlink(REPORT)
    os.symlink("/etc/passwd", "/tmp/link")
    with pytest.raises(OSError):
        os.replace("/tmp/link", REPORT)
    with open("/tmp/went_well", "w"):
        pass


def test_garbage():
    with open(REPORT, "w") as file:
        file.write("garbage" if os.path.exists("/tmp/went_well") else "could be replaced")
    os._exit(0)
"""
    verdict = judge.verify(judge.image(tests))
    assert (verdict.verified, verdict.failure_class) == (False, FailureClass.RECIPE)
    assert "its report is refused: line 1 of the report is none that the reporter writes" in verdict.message
    assert (judge.spool / "test-report.jsonl").read_text() == "garbage"


def test_a_package_that_does_not_import_is_refused_with_the_error(judge: Judge) -> None:
    verdict = judge.verify(judge.image(files={"workspace/repo/sample_pkg.py": "import a_module_that_is_not_there\n"}))
    assert (verdict.verified, verdict.stage, verdict.failure_class) == (False, "smoke", FailureClass.RECIPE)
    assert verdict.message == (
        "package does not import: sample_pkg: ModuleNotFoundError: No module named 'a_module_that_is_not_there'"
    )
    assert "Traceback" in verdict.log_tail
    assert verdict.tests is None


@pytest.mark.parametrize(
    ("install", "source"),
    [
        ("--find-links /tmp sample_pkg==1.0", "installed, but from an index and not from /workspace/repo"),
        ("/tmp/sample_pkg-1.0-py3-none-any.whl", "installed, but from an index and not from /workspace/repo"),
    ],
    ids=["index", "other_folder"],
)
def test_an_older_release_in_place_of_the_checkout_is_refused(judge: Judge, install: str, source: str) -> None:
    older = wheel("sample_pkg", "1.0", {"sample_pkg.py": SAMPLE["sample_pkg.py"]})
    command = f"/opt/venv/bin/pip install --no-index --force-reinstall {install}"
    image = judge.image(files={"tmp/sample_pkg-1.0-py3-none-any.whl": older}, run=command)
    verdict = judge.verify(image, without=frozenset(Defence) - {Defence.ORIGIN, Defence.DEADLINE})
    assert (verdict.verified, verdict.stage, verdict.failure_class) == (False, "inspect", FailureClass.RECIPE)
    assert source in verdict.message


def test_a_checkout_that_another_module_shadows_is_refused(judge: Judge) -> None:
    shadow = {f"{SITE.lstrip('/')}/sample_pkg/__init__.py": "def double(number):\n    return 4\n"}
    image = judge.image(files=shadow)
    seen = judge.verify(image, without=frozenset(Defence) - {Defence.ORIGIN})
    assert (seen.verified, seen.stage, seen.failure_class) == (False, "inspect", FailureClass.TAMPER)
    assert f"{SITE}/sample_pkg" in seen.message


def test_primary_root_is_where_the_package_has_to_come_from(judge: Judge) -> None:
    elsewhere = judge.image(files={"workspace/repo/python/README": ""})
    refused = judge.verify(elsewhere, primary_root="python")
    assert (refused.stage, refused.failure_class) == ("inspect", FailureClass.RECIPE)
    assert (
        refused.message == "Sample-Pkg 1.2 is installed, but from /workspace/repo and not from /workspace/repo/python"
    )
    missing = judge.verify(judge.image(), primary_root="../../etc")
    assert not missing.verified
    assert "/etc" in missing.message


def test_levels_end_where_they_are_asked_to(judge: Judge) -> None:
    failing = judge.image("def test_a():\n    assert False\n")
    smoke = judge.verify(failing, rules=VerificationRules(level=Level.SMOKE))
    assert (smoke.verified, smoke.stage, smoke.tests) == (True, "smoke", None)
    build = judge.verify(failing, rules=VerificationRules(level=Level.BUILD))
    assert (build.verified, build.stage) == (True, "build")
    assert "import" not in {check.name for check in build.checks}


def test_an_endless_test_ends_at_its_limit_with_its_container(judge: Judge) -> None:
    image = judge.image(ENDLESS)
    began = time.monotonic()
    verdict = judge.verify(image, settings=VerifySettings(test_timeout_s=2))
    assert time.monotonic() - began < 10
    assert (verdict.verified, verdict.stage, verdict.failure_class) == (False, "tests", FailureClass.TIMEOUT)
    assert verdict.message == "the tests: timed out, ended after 2 s"
    assert "collected 1 item" in verdict.log_tail
    assert judge.containers() == []


def test_an_endless_import_is_a_time_out_of_the_smoke_stage(judge: Judge) -> None:
    image = judge.image(files={"workspace/repo/sample_pkg.py": "import time\n\ntime.sleep(600)\n"})
    verdict = judge.verify(image, settings=VerifySettings(smoke_timeout_s=1))
    assert (verdict.stage, verdict.failure_class) == ("smoke", FailureClass.TIMEOUT)


@pytest.mark.parametrize(
    "hog",
    [
        "bytearray(400_000_000)",
        "__import__('subprocess').run([__import__('sys').executable, '-c', 'bytearray(400_000_000)'])",
    ],
    ids=["pytest", "child"],
)
def test_a_memory_hog_is_killed_and_named_as_such(judge: Judge, hog: str) -> None:
    verdict = judge.verify(judge.image(f"def test_hog():\n    {hog}\n"), settings=VerifySettings(memory_mb=128))
    assert (verdict.verified, verdict.stage, verdict.failure_class) == (False, "tests", FailureClass.RECIPE)
    assert (
        verdict.message
        == "the tests: out of memory, a process was killed at the limit of 128 MiB (setting verify.memory_mb)"
    )
    assert verdict.peak_memory_bytes == 128 * 1024 * 1024


def test_limits_network_and_environment_are_as_promised(judge: Judge) -> None:
    tests = """\
import os
import socket
import threading

import pytest


def test_processes_are_limited():
    hold = threading.Event()
    started = []
    with pytest.raises(RuntimeError):
        for _ in range(200):
            started.append(threading.Thread(target=hold.wait))
            started[-1].start()
    hold.set()


def test_there_is_no_network():
    assert os.listdir("/sys/class/net") == ["lo"]
    with pytest.raises(OSError):
        socket.create_connection(("192.0.2.1", 80), timeout=2)


def test_the_environment_is_fixed():
    assert "IMAGE_SAYS" not in os.environ
    assert "PYTEST_ADDOPTS" not in os.environ
    assert os.environ["PATH"].startswith("/opt/venv/bin:")
    assert os.environ["TZ"] == "UTC"


def test_scripts_are_read_only():
    with pytest.raises(OSError):
        open("/headrace/inside/run_tests.py", "a")


def test_no_new_privileges():
    assert "NoNewPrivs:\\t1" in open("/proc/self/status").read()


def test_process_one_cannot_be_killed():
    os.kill(1, 9)
    os.kill(1, 15)
    os.kill(1, 2)
"""
    image = judge.image(tests, env={"IMAGE_SAYS": "hello", "PYTEST_ADDOPTS": "--collect-only"})
    verdict = judge.verify(
        image,
        settings=VerifySettings(pids=64),
        rules=VerificationRules(min_pass_ratio=1.0),
        without=LAID_OVER | {Defence.ENVIRONMENT, Defence.CONTROL},
    )
    assert verdict.verified, verdict.files["test_log"].read_text()
    assert verdict.tests == TestCounts(passed=6)


def test_cancelling_ends_the_container_at_once(judge: Judge) -> None:
    image = judge.image(ENDLESS)
    cancel = threading.Event()

    def when_it_runs() -> None:
        log = judge.spool / "test.log"
        while not (log.exists() and b"collected" in log.read_bytes()):
            threading.Event().wait(0.05)
        began.append(time.monotonic())
        cancel.set()

    began: list[float] = []
    watcher = threading.Thread(target=when_it_runs)
    watcher.start()
    verdict = judge.verify(image, cancel=cancel)
    watcher.join()
    assert time.monotonic() - began[0] < 3
    assert (verdict.verified, verdict.cancelled, verdict.failure_class) == (False, True, FailureClass.INFRA)
    assert judge.containers() == []


def test_a_container_that_is_killed_from_outside_is_an_infra_failure(judge: Judge) -> None:
    image = judge.image(ENDLESS)

    def kill() -> None:
        log = judge.spool / "test.log"
        while not (log.exists() and b"collected" in log.read_bytes()):
            threading.Event().wait(0.05)
        judge.engine.api.kill(judge.containers()[0])

    killer = threading.Thread(target=kill)
    killer.start()
    verdict = judge.verify(image)
    killer.join()
    assert (verdict.verified, verdict.cancelled, verdict.failure_class) == (False, False, FailureClass.INFRA)
    assert "ended from outside" in verdict.message


@pytest.mark.parametrize(
    ("run", "message", "without"),
    [
        (
            "/opt/venv/bin/pip uninstall --yes pytest",
            "pytest is not installed; the recipe has to install it",
            LAID_OVER,
        ),
        ("rm -rf /opt/venv", "the image has no Python at /opt/venv/bin/python", frozenset(Defence)),
    ],
    ids=["pytest", "python"],
)
def test_an_image_without_its_layout_is_refused(
    judge: Judge, run: str, message: str, without: frozenset[Defence]
) -> None:
    verdict = judge.verify(judge.image(run=run), without=without)
    assert (verdict.verified, verdict.failure_class) == (False, FailureClass.RECIPE)
    assert message in verdict.message
    assert judge.containers() == []


def test_an_image_that_the_engine_lost_is_an_infra_failure(judge: Judge) -> None:
    verdict = judge.verify("sha256:" + "0" * 64)
    assert (verdict.verified, verdict.failure_class) == (False, FailureClass.INFRA)
