"""The tests' own code taken away: every test that stands in its file fails, whatever it tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from actors.verifier.suite.collection import Collected, CollectorReport, written_in
from actors.verifier.suite.commit import CommitTree
from actors.verifier.suite.control import failing_tests, judge
from actors.verifier.suite.expected import expected_tests
from tests.verifier.commits import committed

TESTS = """\
import unittest

import pytest


@pytest.fixture
def ready():
    yield 3


def test_plain():
    assert True


@pytest.mark.parametrize("number", [1, 2])
def test_with_parameters(number, ready):
    assert number < ready


class TestThings:
    async def helper(self):
        return 1

    def test_raising(self):
        with pytest.raises(Exception):
            raise ValueError


class Old(unittest.TestCase):
    @unittest.skip("later")
    def test_skipped(self):
        pass

    def test_old(self):
        with self.assertRaises(Exception):
            raise ValueError
"""
NAMES = ("test_plain", "test_with_parameters[1]", "TestThings::test_raising", "Old::test_old")


def collected(*names: str) -> Collected:
    tests = [f"test_all.py::{name}" for name in names]
    return Collected(collected=tests, selected=tests, modules=[CollectorReport("test_all.py", "passed")])


def test_of_a_file_of_tests_no_test_passes_any_more(tmp_path: Path) -> None:
    tree: CommitTree = committed(tmp_path / "project", {"test_all.py": TESTS})
    places = written_in(expected_tests(tree, primary_root="."), collected(*NAMES))
    assert set(places) == {f"test_all.py::{name}" for name in NAMES}
    files = failing_tests(tree, {path for path, _ in places.values()})
    assert list(files) == ["test_all.py"]
    (tmp_path / "test_all.py").write_bytes(files["test_all.py"])
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA", "test_all.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "\nPASSED" not in done.stdout, done.stdout
    assert "headrace: taken away" in done.stdout


def test_tests_that_do_not_certainly_stand_in_a_file_are_left_out(tmp_path: Path) -> None:
    source = "import things\n\n\ndef test_here():\n    pass\n\n\nclass TestThere(things.Base):\n    pass\n"
    tree: CommitTree = committed(tmp_path / "project", {"test_all.py": source, "things.py": "class Base:\n    pass\n"})
    places = written_in(expected_tests(tree, primary_root="."), collected("test_here", "TestThere::test_there"))
    assert places == {"test_all.py::test_here": ("test_all.py", "test_here")}


def test_what_passes_all_the_same_is_told() -> None:
    chosen = [f"test_all.py::{name}" for name in NAMES]
    finding = judge(dict.fromkeys(chosen, "passed"), chosen, min_pass_ratio=0.9, gone="their own code")
    assert finding is not None
    assert finding.message.startswith("4 of 4 tests pass with their own code taken away, at most 1 may")
