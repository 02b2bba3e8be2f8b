"""Repositories' own pytest configuration, in each of its files: options, plug-ins, names, doctests."""

from __future__ import annotations

from events.work import TestCounts
from tests.honest.case import Layout, pyproject
from tests.honest.pins import SETUPTOOLS

__all__ = ["CONFIGURATION"]

PLUGINS = (*SETUPTOOLS, "coverage==7.8.0", "execnet==2.1.1", "pytest-cov==6.1.0", "pytest-xdist==3.6.1")

DOCUMENTED = '''\
def double(number):
    """Twice a number.

    >>> double(3)
    6
    """
    return 2 * number
'''
SRC = {"src/acme/__init__.py": DOCUMENTED}
ONE = "from acme import double\n\n\ndef test_double():\n    assert double(2) == 4\n"

MARKED = """\
import pytest

from acme import double


@pytest.mark.quick
def test_double():
    assert double(2) == 4


@pytest.mark.parametrize("number", [pytest.param(3, marks=pytest.mark.quick, id="three"), 4])
def test_more(number):
    assert double(number) > number
"""
MOST = """\
import pytest

from acme import double


@pytest.mark.parametrize("number", range(20))
def test_most(number):
    assert double(number) != 14
"""
WARNING = """\
import warnings

import pytest


def test_a_warning_is_an_error():
    with pytest.raises(DeprecationWarning):
        warnings.warn("old", DeprecationWarning)


def test_the_one_that_is_let_through():
    warnings.warn("known", UserWarning)
"""
SUITES = """\
class VerifyDouble:
    def it_doubles(self):
        from acme import double

        assert double(2) == 4

    def of_another_convention(self):
        raise AssertionError("is not collected here")


def should_be_collected():
    pass
"""
OWN_PLUGIN = """\
import pytest


@pytest.fixture
def answer():
    return 42


def pytest_addoption(parser):
    parser.addini("greeting", "what to say", default="none")
"""
WITH_PLUGIN = """\
def test_own_plugin(answer, pytestconfig):
    assert answer == 42
    assert pytestconfig.getini("greeting") == "hello"


def test_what_is_switched_off(pytestconfig):
    assert not pytestconfig.pluginmanager.has_plugin("cacheprovider")
    assert not pytestconfig.pluginmanager.has_plugin("doctest")
"""

CONFIGURATION = [
    Layout(
        "strict_pytest_ini_with_names_of_its_own",
        {
            "pyproject.toml": pyproject(),
            "pytest.ini": (
                "[pytest]\nminversion = 6.0\ntestpaths = checks\nxfail_strict = true\nlog_cli = true\n"
                "addopts = -ra -vv --strict-markers --strict-config --durations=3 --tb=short\n"
                "markers =\n    quick: is done at once\n"
                "python_files = check_*.py\npython_classes = Verify\npython_functions = it_* should_* test_*\n"
                "pythonpath = helpers\n"
            ),
            "helpers/helping.py": "HELP = 1\n",
            "checks/check_marked.py": MARKED,
            "checks/check_acme.py": f"import helping\n\n{SUITES}",
            "checks/test_not_collected.py": "raise RuntimeError\n",
            "other/check_not_looked_at.py": "raise RuntimeError\n",
            **SRC,
        },
        TestCounts(passed=5),
        requirements=SETUPTOOLS,
    ),
    Layout(
        "tox_ini",
        {
            "pyproject.toml": pyproject(),
            "tox.ini": (
                "[tox]\nenvlist = py311\n\n[testenv]\ncommands = pytest {posargs}\n\n[pytest]\n"
                "addopts = -q --import-mode=importlib --junitxml=reports/junit.xml\n"
                "filterwarnings =\n    error\n    ignore:known:UserWarning\n"
            ),
            "tests/a/test_same.py": WARNING,
            "tests/b/test_same.py": ONE,
            ".gitignore": "reports/\n",
            **SRC,
        },
        TestCounts(passed=3),
        requirements=SETUPTOOLS,
    ),
    Layout(
        "setup_cfg_doctest_modules",
        {
            "setup.py": "from setuptools import setup\n\nsetup()\n",
            "setup.cfg": (
                "[metadata]\nname = acme\nversion = 1.2\n\n[options]\npackages = acme\n\n[tool:pytest]\n"
                "addopts = --doctest-modules\nnorecursedirs = build\ndoctest_optionflags = ELLIPSIS\n"
            ),
            "acme/__init__.py": DOCUMENTED,
            "acme/test_acme.py": ONE,
        },
        TestCounts(passed=2),
        requirements=SETUPTOOLS,
    ),
    Layout(
        "doctest_files",
        {
            "pyproject.toml": pyproject(
                tables=(
                    '[tool.pytest.ini_options]\naddopts = ["--doctest-glob=*.rst", "--doctest-modules"]\n'
                    'testpaths = ["src", "docs", "README.rst"]\n'
                )
            ),
            "README.rst": "Acme\n====\n\n>>> from acme import double\n>>> double(4)\n8\n",
            "docs/guide.rst": ">>> import acme\n>>> acme.double(5)\n10\n\n>>> name\n'guide'\n",
            "docs/conftest.py": (
                "import pytest\n\n\n@pytest.fixture(autouse=True)\ndef names(doctest_namespace):\n"
                '    doctest_namespace["name"] = "guide"\n'
            ),
            **SRC,
        },
        TestCounts(passed=3),
        requirements=SETUPTOOLS,
    ),
    Layout(  # what fails is run again, by workers too
        "xdist",
        {
            "pyproject.toml": pyproject(tables='[tool.pytest.ini_options]\naddopts = "-n 2 --dist loadfile"\n'),
            "tests/test_marked.py": MARKED.replace("@pytest.mark.quick\n", "").replace("marks=pytest.mark.quick, ", ""),
            "tests/test_workers.py": (
                "import os\n\n\ndef test_a_worker():\n    assert os.environ['PYTEST_XDIST_WORKER'].startswith('gw')\n"
            ),
            "tests/test_most.py": MOST,
            **SRC,
        },
        TestCounts(passed=23, failed=1),
        requirements=PLUGINS,
    ),
    Layout(  # its wheels bring a path file with code; runs leave .coverage and coverage.xml in the checkout
        "coverage",
        {
            "pyproject.toml": pyproject(
                tables=(
                    '[tool.pytest.ini_options]\nrequired_plugins = ["pytest-cov"]\n'
                    'addopts = "-n0 --cov=acme --cov-report=xml --cov-report=term --cov-fail-under=90"\n\n'
                    "[tool.coverage.run]\nbranch = true\nparallel = true\n"
                )
            ),
            "tests/test_acme.py": ONE,
            "tests/test_child.py": (
                "import subprocess\nimport sys\n\n\ndef test_child():\n"
                '    code = "import acme; print(acme.double(4))"\n'
                '    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "8"\n'
            ),
            **SRC,
        },
        TestCounts(passed=2),
        requirements=PLUGINS,
    ),
    Layout(
        "own_plugin_and_others_switched_off",
        {
            "pyproject.toml": pyproject(
                tables=(
                    '[tool.pytest.ini_options]\naddopts = "-p no:cacheprovider -p no:doctest -p acme.testing"\n'
                    'greeting = "hello"\n'
                )
            ),
            "src/acme/testing.py": OWN_PLUGIN,
            "tests/test_plugin.py": WITH_PLUGIN,
            **SRC,
        },
        TestCounts(passed=2),
        requirements=SETUPTOOLS,
    ),
]
