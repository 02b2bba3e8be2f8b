"""The package's own code taken away: what real test runs say then."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest

from actors.verifier.defences import Defence
from actors.verifier.suite.control import OwnFile, choose, hidden_files, is_test_file, judge, take_away
from tests.verifier.commits import committed

PACKAGE = '''\
# -*- coding: latin-1 -*-
"""A shop. \xfc"""
from __future__ import annotations

import contextlib
import dataclasses
import functools

LIMIT = 3
NAMES = [str(number) for number in range(LIMIT)]


def only_docstring():
    """Nothing else."""


def one_line(): return "\xe9" + str(1); pass


def stub(): ...


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        """Counts."""
        return function(*args)

    return wrapper


@decorated
def early(number: int) -> int:
\tif number:
\t\treturn number
\treturn 0


AT_IMPORT = early(2)


def generated():
    for number in range(3):
        yield number


async def waited():
    with contextlib.suppress(KeyError):
        return 1


@dataclasses.dataclass
class Point:
    x: int = 0

    @property
    def double(self) -> int:
        match self.x:
            case 0:
                return 0
        return 2 * self.x

    def __eq__(self, other: object) -> bool:
        """Equal
        by x."""; return True

    def broken(self):
        raise ValueError
'''
TESTS = """\
import asyncio
import unittest

import pytest

import shop


@pytest.mark.parametrize("name", shop.NAMES)
def test_names(name):
    assert name in shop.NAMES


@pytest.mark.parametrize(
    "call",
    [
        shop.only_docstring,
        shop.one_line,
        shop.stub,
        lambda: shop.early(1),
        lambda: list(shop.generated()),
        lambda: asyncio.run(shop.waited()),
        lambda: shop.Point().double,
        lambda: shop.Point() == 3,
    ],
    ids=["only_docstring", "one_line", "stub", "early", "generated", "waited", "property", "dunder"],
)
def test_calls(call):
    call()


def test_raises():
    with pytest.raises(Exception):
        shop.Point().broken()


class Case(unittest.TestCase):
    def test_raises(self):
        with self.assertRaises(Exception):
            shop.Point().broken()


@pytest.fixture
def shopped():
    return shop.early(1)


def test_fixture(shopped):
    pass


def test_import():
    assert shop.AT_IMPORT == 2
"""


def run(folder: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Outcomes of the tests in a folder of these files."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    report = folder / "report.xml"
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    cases = ElementTree.parse(report).iter("testcase")  # noqa: S314 - pytest wrote it a moment ago
    return {case.attrib["name"]: case[0].tag if len(case) else "passed" for case in cases}


def test_a_package_stays_importable_and_every_function_of_it_fails(tmp_path: Path) -> None:
    source = PACKAGE.encode("latin-1")
    hidden = take_away(source)
    assert hidden is not None
    tests = {"test_shop.py": TESTS.encode()}
    honest = run(tmp_path / "honest", {"shop.py": source, **tests})
    control = run(tmp_path / "control", {"shop.py": hidden, **tests})
    assert set(honest.values()) == {"passed"}
    assert control.keys() == honest.keys()
    assert {test for test, outcome in control.items() if outcome == "passed"} == {
        "test_names[0]",
        "test_names[1]",
        "test_names[2]",
        "test_import",
    }


def test_what_a_plugin_makes_pass_gives_itself_away(tmp_path: Path) -> None:
    hidden = take_away(PACKAGE.encode("latin-1"))
    assert hidden is not None
    forging = "import pytest\n\n\n@pytest.hookimpl(hookwrapper=True)\ndef pytest_pyfunc_call(pyfuncitem):\n" + (
        "    outcome = yield\n    outcome.force_result(True)\n"
    )
    files = {"shop.py": hidden, "test_shop.py": TESTS.encode(), "conftest.py": forging.encode()}
    control = run(tmp_path / "forged", files)
    finding = judge(control, list(control), min_pass_ratio=0.9)
    assert finding is not None
    assert finding.defence is Defence.CONTROL
    assert "tests pass with the package's own code taken away" in finding.message


@pytest.mark.parametrize(
    "source",
    [
        b'"""Doc."""\n',
        b"VALUE = 1\n",
        b"",
        b"class Empty:\n    x: int = 3\n",
    ],
)
def test_a_file_without_functions_has_nothing_to_take_away(source: bytes) -> None:
    assert take_away(source) is None


@pytest.mark.parametrize(
    "source",
    [
        b"def f():\n    return 1\n",
        b'"""Doc."""\nimport os\ndef f():\n    return 1\n',
        b'"""Doc\nof two lines."""\nfrom __future__ import annotations\nfrom __future__ import division\n'
        b"def f(): return 1",
        b"#!/usr/bin/python\n# coding: latin-1\nX = '\xe9'\ndef f(x='\xe9'): return x\n",
        b"\xef\xbb\xbfdef f():\r\n    if 1:\r\n        return 1\r\n",
        b"class A:\n  def f(self):\n    @staticmethod\n    def g():\n      pass\n    return g\n",
        b"async def f():\n\tasync with x:\n\t\tpass\n",
        b"def f():\n    'doc'\n    try:\n        return 1\n    finally:\n        pass\n",
        b"def f(a=lambda: 0, *,\n      b): return (\n    1)\n",
        b"def __private():\n    def __inner(): return 1\n    return __inner\n",
    ],
)
def test_any_file_is_valid_afterwards_and_has_one_guard_a_function(source: bytes) -> None:
    hidden = take_away(source)
    assert hidden is not None
    compile(hidden, "hidden.py", "exec", dont_inherit=True)
    assert hidden.count(b"_headrace_taken_away();") + hidden.count(b"_headrace_taken_away()\n") == source.count(b"def ")


def test_a_file_that_cannot_be_parsed_raises_at_import() -> None:
    assert take_away(b"print 'two'\n") == b'raise ImportError("headrace: taken away")\n'


def test_only_files_of_the_commit_that_are_no_tests_are_replaced(tmp_path: Path) -> None:
    body = "def f():\n    return 1\n"
    names = ["src/pkg/a.py", "src/pkg/tests/helpers.py", "src/pkg/test_b.py", "src/pkg/conftest.py", "src/pkg/data.txt"]
    tree = committed(tmp_path / "repo", dict.fromkeys(names, body))
    site = "/opt/venv/lib/python3.11/site-packages/"
    modules = [OwnFile(site + name.removeprefix("src/"), name) for name in names]
    modules += [OwnFile(site + "pkg/_version.py", None), OwnFile(site + "pkg/fast.so", None)]
    assert list(hidden_files(tree, modules)) == [site + "pkg/a.py"]
    assert list(hidden_files(tree, [OwnFile("x.py", "not/there.py")])) == []
    with_compiled = hidden_files(tree, modules, compiled=True)
    assert list(with_compiled) == [site + "pkg/a.py", site + "pkg/fast.so"]
    assert with_compiled[site + "pkg/fast.so"] == b""


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("pkg/testing.py", False),
        ("pkg/contest.py", False),
        ("pkg/latest_test.py", True),
        ("pkg/test/data.py", True),
        ("tests.py", True),
        ("pkg/attests/a.py", False),
    ],
)
def test_tests_inside_a_package_are_known_by_name_or_folder(path: str, answer: bool) -> None:
    assert is_test_file(path) is answer


def test_the_sample_is_of_passed_tests_spread_over_files_and_fixed_by_its_seed() -> None:
    outcomes = {f"tests/test_big.py::test_{number}": "passed" for number in range(500)}
    outcomes |= {f"tests/test_{name}.py::test_x": "passed" for name in "abc"}
    outcomes |= {f"tests/test_bad.py::test_{outcome}": outcome for outcome in ("failed", "error", "skipped")}
    chosen = choose(outcomes, seed=7, at_most=20)
    assert len(chosen) == len(set(chosen)) == 20
    assert {f"tests/test_{name}.py::test_x" for name in "abc"} < set(chosen)
    assert all(outcomes[nodeid] == "passed" for nodeid in chosen)
    assert choose(outcomes, seed=7, at_most=20) == chosen
    assert choose(dict(reversed(outcomes.items())), seed=7, at_most=20) == chosen
    assert choose(outcomes, seed=8, at_most=20) != chosen
    assert len(choose(outcomes, seed=7, at_most=10_000)) == 503
    assert len(choose(outcomes, seed=7, at_most=2)) == 2
    assert choose({}, seed=7, at_most=2) == []


@pytest.mark.parametrize(
    ("passed", "of", "refused"),
    [
        *[(0, 0, False), (0, 100, False), (45, 100, False), (46, 100, True), (100, 100, True)],
        *[(1, 1, True), (1, 2, False), (3, 4, False), (4, 4, True), (3, 5, True)],
    ],
)
def test_a_control_may_pass_half_of_what_verification_asks_for(passed: int, of: int, refused: bool) -> None:
    chosen = [f"t.py::test_{number}" for number in range(of)]
    outcomes = {nodeid: "passed" if number < passed else "failed" for number, nodeid in enumerate(chosen)}
    assert (judge(outcomes, chosen, min_pass_ratio=0.9) is not None) is refused


def test_tests_that_a_control_run_did_not_report_did_not_pass() -> None:
    chosen = [f"t.py::test_{number}" for number in range(10)]
    assert judge({"t.py::test_0": "passed", "t.py::other": "passed"}, chosen, min_pass_ratio=0.9) is None
