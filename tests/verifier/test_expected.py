"""The list of a commit's tests, against what a real pytest collects from the same files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from actors.verifier.suite.collection import compare
from actors.verifier.suite.commit import CommitTree
from actors.verifier.suite.expected import Expected, expected_tests
from actors.verifier.suite.pytest_config import parse_options, read_config
from store.sources import Mirror
from tests.engine_fixtures import GitProject
from tests.verifier.commits import collect, committed

ONE = "def test_one():\n    pass\n"
BOTH = "def test_one():\n    pass\n\n\ndef test_two():\n    pass\n"
CASES: dict[str, tuple[dict[str, str], set[str]]] = {
    "functions_and_classes": (
        {
            "tests/test_a.py": "import pytest\n\n\ndef test_one():\n    pass\n\n\nasync def test_two():\n    pass\n\n\n"
            "@pytest.fixture\ndef test_data():\n    pass\n\n\ndef helper():\n    pass\n\n\n"
            "class TestA:\n    def test_b(self):\n        pass\n\n    class TestInner:\n        def test_c(self):\n"
            "            pass\n\n\nclass Other:\n    def test_d(self):\n        pass\n",
            "tests/helpers.py": ONE,
        },
        {"test_one", "test_two", "TestA::test_b", "TestA::TestInner::test_c"},
    ),
    "classes_that_are_none": (
        {
            "test_a.py": "class TestMade:\n    def __init__(self):\n        pass\n\n    def test_a(self):\n"
            "        pass\n\n\nclass TestOff:\n    __test__ = False\n\n    def test_b(self):\n        pass\n\n\n"
            "class TestBelow(TestOff):\n    def test_c(self):\n        pass\n\n\nclass TestOn(TestOff):\n"
            "    __test__ = True\n\n    test_b = None\n\n    def test_d(self):\n        pass\n"
        },
        {"TestOn::test_d"},
    ),
    "unittest_of_any_name": (
        {
            "test_a.py": "from unittest import TestCase, skip\n\n\nclass Shop(TestCase):\n    def testOpens(self):\n"
            "        pass\n\n    @skip('no')\n    def test_left_out(self):\n        pass\n\n    class TestInner:\n"
            "        def test_x(self):\n            pass\n\n\nclass Corner(Shop):\n    def test_more(self):\n"
            "        pass\n"
        },
        {"Shop::testOpens", "Shop::test_left_out", "Corner::testOpens", "Corner::test_left_out", "Corner::test_more"},
    ),
    "mixins_of_other_files": (
        {
            "tests/__init__.py": "from typing import Protocol\n\n\nclass Mixin(Protocol):\n    def test_mixed(self):\n"
            "        pass\n",
            "tests/base.py": "import unittest\n\n\nclass Base(unittest.TestCase):\n    def test_base(self):\n"
            "        pass\n",
            "tests/test_a.py": "import unittest\n\nfrom tests.base import Base\n\nfrom . import Mixin\n\n\n"
            "class A(unittest.TestCase, Mixin):\n    pass\n\n\nclass B(Base):\n    pass\n",
        },
        {"A::test_mixed", "B::test_base"},
    ),
    "names_that_may_be_gone": (
        {
            "test_a.py": "import sys\n\nif sys.version_info < (3,):\n\n    def test_old():\n        pass\n\n\n"
            "try:\n    import not_there\nexcept ImportError:\n    pass\nelse:\n\n    def test_other():\n"
            "        pass\n\n\n"
            "def test_deleted():\n    pass\n\n\ndel test_deleted\n\n\ndef test_stays():\n    pass\n\n\n"
            "def test_replaced():\n    pass\n\n\ntest_replaced = 3\n\nif __name__ == '__main__':\n"
            "    test_stays = None\n"
        },
        {"test_stays"},
    ),
    "decorators_that_take_away": (
        {
            "test_a.py": "import pytest\n\nslow = pytest.mark.skipif(True, reason='slow')\n\n\ndef never(function):\n"
            "    return None\n\n\n@never\ndef test_never():\n    pass\n\n\n@slow\n@pytest.mark.parametrize('n', [])\n"
            "def test_slow(n):\n    pass\n"
        },
        {"test_slow"},
    ),
    "names_made_and_unmade_by_code": (
        {
            "test_a.py": BOTH + "\n\nfor name in list(globals()):\n    if name == 'test_two':\n"
            "        del globals()[name]\n",
            "test_b.py": "class TestB:\n    def test_b(self):\n        pass\n\n\nclass TestC:\n    def test_c(self):\n"
            "        pass\n\n\ndelattr(TestB, 'test_b')\n",
        },
        {"TestC::test_c"},
    ),
    "a_star_import_that_replaces": (
        {"test_a.py": BOTH + "\n\nfrom other import *\n", "other.py": "test_two = None\n"},
        set(),
    ),
    "patterns_of_the_configuration": (
        {
            "setup.cfg": "[tool:pytest]\npython_files = check_*.py\npython_classes = Check *Suite\n"
            "python_functions = check_* should\n",
            "check_a.py": "def check_one():\n    pass\n\n\ndef should_two():\n    pass\n\n\ndef test_three():\n"
            "    pass\n"
            "\n\nclass BigSuite:\n    def check_four(self):\n        pass\n\n\nclass TestNot:\n"
            "    def check_five(self):\n"
            "        pass\n",
            "test_b.py": ONE,
        },
        {"check_one", "should_two", "BigSuite::check_four"},
    ),
    "testpaths_and_folders_passed_over": (
        {
            "pyproject.toml": "[tool.pytest.ini_options]\ntestpaths = ['*/checks', 'tests']\n"
            "norecursedirs = ['data', 'deep/inner']\naddopts = '--ignore=tests/skipped --ignore-glob=*_old.py -q'\n",
            "tests/test_a.py": "def test_a():\n    pass\n",
            "tests/data/test_b.py": ONE,
            "tests/deep/inner/test_c.py": ONE,
            "tests/skipped/test_d.py": ONE,
            "tests/test_e_old.py": ONE,
            "one/checks/test_f.py": "def test_f():\n    pass\n",
            "elsewhere/test_g.py": ONE,
        },
        {"test_a", "test_f"},
    ),
    "conftest_that_leaves_files_out": (
        {
            "conftest.py": "import sys\n\ncollect_ignore = ['test_a.py']\nif sys.version_info > (3,):\n"
            "    collect_ignore.append('test_b.py')\n",
            "test_a.py": ONE,
            "test_b.py": ONE,
            "test_c.py": "def test_c():\n    pass\n",
        },
        {"test_c"},
    ),
    "conftest_with_an_ignoring_hook": (
        {
            "tests/conftest.py": "def pytest_ignore_collect(config):\n    return True\n",
            "tests/test_a.py": ONE,
            "other/test_b.py": "def test_b():\n    pass\n",
        },
        {"test_b"},
    ),
    "own_plugin_that_hides_names": (
        {
            "conftest.py": "pytest_plugins = ['tools.hiding']\n",
            "tools/__init__.py": "",
            "tools/hiding.py": "def pytest_pycollect_makeitem(name):\n    return [] if name == 'test_two' else None\n",
            "test_a.py": BOTH,
        },
        set(),
    ),
    "modules_skipped_and_broken": (
        {
            "test_a.py": "import pytest\n\npytest.importorskip('not_there')\n\n\n" + ONE,
            "test_b.py": "import not_there\n\n\n" + ONE,
            "pkg/__init__.py": "import not_there\n",
            "pkg/test_c.py": ONE,
            "test_d.py": "def test_d():\n    pass\n",
        },
        {"test_one", "test_d"},
    ),
    "selection_by_options": (
        {
            "pytest.ini": "[pytest]\nmarkers = slow\naddopts = -m 'not slow' --deselect test_a.py::test_two\n",
            "test_a.py": "import pytest\n\n\n@pytest.mark.slow\n" + BOTH,
        },
        {"test_one", "test_two"},
    ),
    "selection_of_marks_from_elsewhere": (
        {
            "pytest.ini": "[pytest]\nmarkers = slow\naddopts = -m 'not slow' -k 'not Network'\n",
            "helpers.py": "import pytest\n\nlong = pytest.mark.slow\n",
            "test_a.py": "import pytest\n\nfrom helpers import long\n\n\n@long\ndef test_one():\n    pass\n\n\n"
            "@pytest.mark.parametrize('kind', ['network'])\ndef test_two(kind):\n    pass\n",
            "test_network.py": "def test_three():\n    pass\n",
        },
        {"test_two", "test_three"},
    ),
    "selection_by_an_own_hook": (
        {
            "conftest.py": "def pytest_collection_modifyitems(config, items):\n    items[:] = items[1:]\n",
            "test_a.py": BOTH,
        },
        {"test_one", "test_two"},
    ),
    "a_file_for_another_python": ({"test_a.py": "print 'two'\n", "test_b.py": ONE}, {"test_one"}),
    "a_path_that_may_be_a_value": (
        {
            "pytest.ini": "[pytest]\naddopts = --strict-markers tests\n",
            "tests/test_a.py": "def test_a():\n    pass\n",
            "other/test_b.py": ONE,
        },
        {"test_a"},
    ),
}


def certain(expected: Expected) -> set[str]:
    return {test.name for test in expected.certain}


@pytest.mark.parametrize("case", CASES)
def test_what_is_certain_is_collected_and_an_honest_run_is_not_blamed(tmp_path: Path, case: str) -> None:
    files, names = CASES[case]
    tree = committed(tmp_path / "repo", files)
    expected = expected_tests(tree, primary_root=".")
    assert certain(expected) == names
    assert compare(expected, collect(tmp_path / "repo")) == []


def test_a_run_in_a_folder_has_the_configuration_above_it(tmp_path: Path) -> None:
    files = {
        "tox.ini": "[pytest]\npython_files = check_*.py\ntestpaths = elsewhere\n",
        "python/tests/check_a.py": "def test_inside():\n    pass\n",
        "elsewhere/check_b.py": ONE,
    }
    tree = committed(tmp_path / "repo", files)
    expected = expected_tests(tree, primary_root="python")
    assert certain(expected) == {"test_inside"}
    assert compare(expected, collect(tmp_path / "repo", primary_root="python")) == []


def test_tests_behind_a_linked_folder_are_the_commits(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    project = GitProject(repo)
    (repo / "linked").symlink_to("shared")
    tree = CommitTree(Mirror(path=repo, clone_url=""), project.commit({"shared/test_a.py": ONE}))
    seen = collect(repo)
    assert "linked/test_a.py::test_one" in seen.collected
    assert compare(expected_tests(tree, primary_root="."), seen) == []


def test_reasons_name_what_makes_the_list_uncertain(tmp_path: Path) -> None:
    files = {
        "pytest.ini": "[pytest]\naddopts = -k fast\n",
        "conftest.py": "def pytest_ignore_collect():\n    pass\n\n\ndef pytest_generate_tests(metafunc):\n    pass\n",
        "test_a.py": "print 'two'\n",
    }
    assert expected_tests(committed(tmp_path / "repo", files), primary_root=".").reasons == (
        "conftest.py has pytest_ignore_collect",
        "conftest.py makes parameters of tests",
        "pytest.ini selects tests with 'fast'",
        "test_a.py cannot be parsed",
    )


def test_a_configuration_that_cannot_be_read_makes_nothing_certain(tmp_path: Path) -> None:
    expected = expected_tests(
        committed(tmp_path / "repo", {"pytest.ini": "no section", "test_a.py": ONE}), primary_root="."
    )
    assert certain(expected) == set()
    assert expected.reasons[0].startswith("pytest.ini cannot be read: ")


def test_nothing_of_the_repository_is_run(tmp_path: Path) -> None:
    trap = f"import pathlib\n\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
    files = {"conftest.py": trap, "test_a.py": trap + ONE, "setup.py": trap, "__init__.py": trap}
    assert certain(expected_tests(committed(tmp_path / "repo", files), primary_root=".")) == {"test_one"}
    assert not (tmp_path / "ran").exists()
    assert "test_a" not in sys.modules


@pytest.mark.parametrize(
    ("files", "file", "root"),
    [
        ({"pytest.ini": "", "tox.ini": "[pytest]\n"}, "pytest.ini", ""),
        ({"pyproject.toml": "[tool.other]\n", "setup.cfg": "[tool:pytest]\n"}, "setup.cfg", ""),
        ({"pyproject.toml": "[tool.pytest.ini_options]\n", "tox.ini": "[pytest]\n"}, "pyproject.toml", ""),
        ({"sub/setup.py": "", "tox.ini": "[tox]\n"}, "", "sub"),
        ({"other.txt": ""}, "", "sub/deep"),
        ({"sub/pytest.ini": "", "pytest.ini": ""}, "sub/pytest.ini", "sub"),
    ],
)
def test_the_configuration_is_the_first_that_has_a_section(
    tmp_path: Path, files: dict[str, str], file: str, root: str
) -> None:
    config = read_config(committed(tmp_path / "repo", files), primary_root="sub/deep")
    assert (config.file, config.root, config.folder) == (file, root, "sub/deep")


def test_options_are_told_from_their_values() -> None:
    words = ["-ra", "-n", "4", "-kfast", "-m", "not slow", "--cov", "pkg", "--ignore=a", "--ignore", "b"]
    options = parse_options([*words, "--deselect", "c", "-p", "no:x", "tests"])
    assert (options.keywords, options.marks) == (("fast",), ("not slow",))
    assert (options.ignored, options.deselected, options.plugins) == (("a", "b"), ("c",), ("no:x",))
    assert (options.paths, options.doubtful_paths) == (("tests",), ("pkg",))
