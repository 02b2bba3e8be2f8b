"""What repositories' own code does to the list of tests: skips, deselection, generation, other kinds of tests."""

from __future__ import annotations

from events.work import TestCounts
from tests.honest.case import Layout, pyproject
from tests.honest.pins import SETUPTOOLS

__all__ = ["COLLECTION"]

ASYNC = (*(*SETUPTOOLS, "attrs==25.3.0", "hypothesis==6.130.6", "pytest-asyncio==0.26.0", "sortedcontainers==2.4.0"),)
SRC = {"pyproject.toml": pyproject(), "src/acme/__init__.py": "def double(number):\n    return 2 * number\n"}

MARKS = """\
import sys

import pytest

from acme import double


@pytest.mark.xfail(reason="upstream wrote so")
def test_expected_to_fail():
    assert double(2) == 5


@pytest.mark.xfail(raises=TypeError, strict=True)
def test_expected_to_raise():
    double()


@pytest.mark.xfail(reason="mended meanwhile", strict=False)
def test_unexpectedly_passing():
    assert double(2) == 4


@pytest.mark.skipif(sys.platform == "linux", reason="not here")
def test_elsewhere():
    raise AssertionError


@pytest.mark.skip
def test_never():
    raise AssertionError


def test_skips_itself():
    pytest.skip("no")


def test_expects_to_fail_itself():
    pytest.xfail("no")


def test_with_fixtures(database, doubled):
    assert doubled in database
"""
FIXTURES = """\
import pytest


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    (tmp_path_factory.mktemp("database") / "rows").write_text("4")
    yield {4}


@pytest.fixture(params=[2])
def doubled(request):
    from acme import double

    return double(request.param)


@pytest.fixture(autouse=True)
def no_home(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
"""
DESELECTING = """\
import pytest


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes long")
    config.addinivalue_line("markers", "network: needs the network")


def pytest_collection_modifyitems(config, items):
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow and not config.getoption("--slow"):
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    for item in items:
        if item.get_closest_marker("network"):
            item.add_marker(pytest.mark.skip(reason="no network"))
    items.sort(key=lambda item: item.name, reverse=True)
"""
DESELECTED = """\
import pytest

from acme import double


@pytest.mark.slow
@pytest.mark.parametrize("number", range(50))
def test_slow(number):
    raise AssertionError("is not run without --slow")


@pytest.mark.network
def test_network():
    raise AssertionError("is skipped")


def test_quick():
    assert double(1) == 2


def test_quicker():
    assert double(2) == 4
"""
IGNORING = """\
import sys

collect_ignore = ["test_listed.py"]
collect_ignore_glob = ["*_py2.py"]


def pytest_ignore_collect(collection_path):
    return True if collection_path.name == "generated" and sys.version_info >= (3,) else None
"""
UNITTEST = """\
import unittest

from acme import double


def setUpModule():
    global READY
    READY = True


class TestDouble(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.pairs = [(1, 2), (2, 4)]

    def setUp(self):
        self.addCleanup(self.assertTrue, READY)

    def test_pairs(self):
        for number, expected in self.pairs:
            with self.subTest(number=number):
                self.assertEqual(double(number), expected)

    @unittest.expectedFailure
    def test_expected_failure(self):
        self.assertEqual(double(1), 3)

    @unittest.skip("not now")
    def test_skipped(self):
        self.fail()

    def runTest(self):
        self.fail("only without other tests")


class Abstract:
    def test_inherited(self):
        self.assertEqual(double(self.number), 2 * self.number)


class OneTests(Abstract, unittest.TestCase):
    number = 1


class AsyncTests(unittest.IsolatedAsyncioTestCase):
    async def test_async(self):
        self.assertEqual(double(4), 8)


def load_tests(loader, tests, pattern):
    tests.addTests(loader.loadTestsFromTestCase(OneTests))
    return tests


if __name__ == "__main__":
    unittest.main()
"""
GENERATED = """\
import datetime
import os
import uuid

import pytest

from acme import double


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", [1, 2, 3], ids=["eins", "zwei [2]", "größer/drei"])


def test_generated(case):
    assert double(case) == 2 * case


@pytest.mark.parametrize("other", [float("nan"), b"\\x00\\xff", "a::b", "<&>", "", "x" * 300, None])
def test_odd_names(other):
    assert double(1) == 2


# Names that are others in every process.
@pytest.mark.parametrize("moment", [datetime.datetime.now().isoformat(), uuid.uuid4().hex, f"pid-{os.getpid()}"])
def test_names_that_change(moment):
    assert moment


@pytest.mark.parametrize("number", [])
def test_none(number):
    raise AssertionError


class TestInClasses:
    class TestNested:
        @pytest.mark.parametrize("a", [1, 2])
        @pytest.mark.parametrize("b", [3, 4])
        def test_product(self, a, b):
            assert a < b
"""
COROUTINES = """\
import asyncio

import pytest
from hypothesis import given, strategies

from acme import double


@pytest.fixture
async def later():
    await asyncio.sleep(0)
    return 4


async def test_later(later):
    assert double(2) == later


@pytest.mark.asyncio
async def test_marked():
    assert await asyncio.wait_for(asyncio.sleep(0, 1), 5) == 1


@given(strategies.integers())
def test_property(number):
    assert double(number) - number == number
"""
OWN_ITEMS = """\
import pytest


def pytest_collect_file(parent, file_path):
    if file_path.suffix == ".sums":
        return SumsFile.from_parent(parent, path=file_path)


class SumsFile(pytest.File):
    def collect(self):
        for number, line in enumerate(self.path.read_text().splitlines()):
            yield Sum.from_parent(self, name=f"line {number}", line=line)


class Sum(pytest.Item):
    def __init__(self, line, **options):
        super().__init__(**options)
        self.line = line

    def runtest(self):
        left, right = self.line.split("=")
        assert eval(left) == int(right)

    def reportinfo(self):
        return self.path, 0, self.line
"""

COLLECTION = [
    Layout(
        "conftest_with_xfail_skips_and_own_items",
        {
            "conftest.py": FIXTURES,
            "tests/conftest.py": OWN_ITEMS,
            "tests/simple.sums": "1 + 1 = 2\n2 + 2 = 4\n",
            "tests/test_marks.py": MARKS,
            **SRC,
        },
        TestCounts(passed=4, skipped=6),
        requirements=SETUPTOOLS,
    ),
    Layout(
        "deselecting_conftest_and_ignored_modules",
        {
            "conftest.py": DESELECTING,
            "tests/test_deselected.py": DESELECTED,
            "tests/conftest.py": IGNORING,
            "tests/test_listed.py": "raise RuntimeError\n",
            "tests/test_old_py2.py": "print 'old'\n",
            "tests/generated/test_generated.py": "raise RuntimeError\n",
            "tests/test_optional.py": (
                'import pytest\n\nnumpy = pytest.importorskip("numpy")\n\n\ndef test_numpy():\n    assert numpy\n'
            ),
            **SRC,
        },
        TestCounts(passed=2, skipped=2),
        requirements=SETUPTOOLS,
    ),
    Layout(
        "unittest",
        {"tests/__init__.py": "", "tests/test_unit.py": UNITTEST, **SRC},
        TestCounts(passed=3, skipped=2),
        requirements=SETUPTOOLS,
    ),
    Layout(
        "generated_tests",
        {"tests/test_generated.py": GENERATED, **SRC},
        TestCounts(passed=17, skipped=1),
        requirements=SETUPTOOLS,
    ),
    Layout(
        "async_and_hypothesis",
        {
            **SRC,
            "pyproject.toml": pyproject(tables='[tool.pytest.ini_options]\nasyncio_mode = "auto"\n'),
            "tests/test_coroutines.py": COROUTINES,
        },
        TestCounts(passed=3),
        requirements=ASYNC,
    ),
]
