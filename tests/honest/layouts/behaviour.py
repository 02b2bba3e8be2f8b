"""What tests do while they run: write into the checkout, start processes, patch the world, fail now and then."""

from __future__ import annotations

from events.work import TestCounts
from tests.honest.case import Layout, pyproject
from tests.honest.pins import SETUPTOOLS

__all__ = ["BEHAVIOUR"]

SRC = {"pyproject.toml": pyproject(), "src/acme/__init__.py": "def double(number):\n    return 2 * number\n"}

WRITING_CONFTEST = """\
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session", autouse=True)
def caches():
    (HERE / ".cache").mkdir(exist_ok=True)
    (HERE / ".cache" / "started").write_text("yes")
    yield
    (HERE / ".cache" / "ended").write_text("yes")


@pytest.fixture
def snapshot(request):
    path = HERE / "__snapshots__" / f"{request.node.name}.txt"
    path.parent.mkdir(exist_ok=True)

    def compare(text):
        if not path.exists():
            path.write_text(text)
        return path.read_text() == text

    return compare
"""
WRITING = """\
import tempfile
from pathlib import Path

import acme

HERE = Path(__file__).parent


def test_known_snapshot(snapshot):
    assert snapshot("2 is 4")


def test_new_snapshot(snapshot):
    assert snapshot(f"2 is {acme.double(2)}")


def test_temporary_files_in_the_repository():
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        module = Path(folder, "test_left_over.py")
        module.write_text("def test_x(): assert False")
        assert module.exists()


def test_a_file_that_stays():
    Path(HERE, "..", "output.log").write_text("done")


def test_a_tracked_file_is_written_again():
    table = HERE / "table.txt"
    before = table.read_text()
    table.write_text(before.upper())
    table.write_text(before)
"""
CHILDREN = """\
import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

from acme import double


def python(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **options)


def test_a_script():
    assert python("-c", "from acme import double; print(double(4))").stdout == "8\\n"


def test_isolated():
    assert python("-I", "-S", "-c", "import sys; print(sys.flags.no_site)").stdout == "1\\n"


def test_an_empty_environment():
    assert python("-c", "import acme; print(acme.double(1))", env={}).stdout == "2\\n"


def test_a_child_pytest_that_passes_and_one_that_fails(tmp_path):
    (tmp_path / "test_child.py").write_text("def test_good(): pass\\ndef test_bad(): assert False\\n")
    good = python("-m", "pytest", "-q", "test_child.py::test_good", cwd=tmp_path)
    assert (good.returncode, "1 passed" in good.stdout) == (0, True), good.stdout + good.stderr
    bad = python("-m", "pytest", "-q", "--junitxml=out.xml", cwd=tmp_path)
    assert (bad.returncode, "1 failed, 1 passed" in bad.stdout) == (1, True), bad.stdout + bad.stderr
    assert 'failures="1"' in (tmp_path / "out.xml").read_text()


def test_processes():
    with ProcessPoolExecutor(2) as pool:
        assert list(pool.map(double, [1, 2])) == [2, 4]


def test_fork():
    child = os.fork()
    if child == 0:
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_threads():
    found = []
    thread = threading.Thread(target=lambda: found.append(double(3)))
    thread.start()
    thread.join()
    assert found == [6]


def test_something_that_stays_behind():
    subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
"""
PLUGIN = """\
import pytest


def pytest_addoption(parser):
    parser.addoption("--shout", action="store_true")


@pytest.fixture
def voice(pytestconfig):
    return str.upper if pytestconfig.getoption("--shout") else str.lower


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line("acme was here")
"""
PLUGIN_TESTS = """\
import pytest

pytest_plugins = ["pytester"]
TEST = "def test_voice(voice): assert voice('Hi') == 'HI'"


@pytest.mark.parametrize("how", ["runpytest_inprocess", "runpytest_subprocess"])
def test_shouting(pytester, how):
    pytester.makepyfile(TEST)
    result = getattr(pytester, how)("--shout")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["acme was here"])


def test_not_shouting(pytester):
    pytester.makepyfile(TEST)
    pytester.makeini("[pytest]\\naddopts = -ra")
    pytester.runpytest().assert_outcomes(failed=1)


def test_own_fixture(voice):
    assert voice("Hi") == "hi"
"""
PATCHING = """\
import builtins
import contextlib
import io
import json
import os
import sys
import time
from unittest import mock

import pytest

from acme import double


def test_time_stands_still():
    with mock.patch("time.time", return_value=0.0), mock.patch("time.perf_counter", return_value=0.0):
        assert time.time() == 0.0


def test_no_file_can_be_opened():
    with mock.patch.object(builtins, "open", side_effect=OSError), pytest.raises(OSError):
        open("x")


def test_nothing_can_be_written():
    with mock.patch("os.write", side_effect=OSError), mock.patch("json.dumps", side_effect=TypeError):
        with pytest.raises(TypeError):
            json.dumps(1)


def test_an_empty_environment():
    with mock.patch.dict(os.environ, clear=True):
        assert not os.environ


def test_another_folder(tmp_path):
    os.chdir(tmp_path)


def test_exits():
    with pytest.raises(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        sys.exit(1)


def test_modules_are_imported_again():
    del sys.modules["acme"]
    import acme

    assert acme.double(1) == 2
    sys.modules.pop("json")
    sys.modules["json"] = json


def test_a_finder_that_finds_nothing():
    class Finder:
        def find_spec(self, name, path=None, target=None):
            return None

    sys.meta_path.insert(0, Finder())


def test_output(capfd):
    os.write(1, b"to the descriptor " * 10_000)
    print("PASSED 100 passed in 0.01s")
    assert capfd.readouterr().out.endswith("0.01s\\n")


def test_recursion():
    with pytest.raises(RecursionError):
        (lambda again: again(again))(lambda again: again(again))


def test_a_path_entry():
    sys.path.insert(0, "/nowhere")
    assert double(2) == 4
"""
FEW = """\
import pytest

from acme import double


@pytest.mark.parametrize("number", range(24))
def test_most(number):
    assert double(number) not in (14, 42)
"""
FLAKY = """\
import os

import pytest

from acme import double


@pytest.mark.parametrize("number", range(40))
def test_now_and_then(number):
    assert os.urandom(1)[0] > double(25)
"""
AGAIN = "for run in 1 2 3 4 5 6 7 8; do python -m pytest --last-failed && exit; done; exit 1"

BEHAVIOUR = [
    Layout(
        "writing_into_the_checkout_and_starting_processes",
        {
            "tests/conftest.py": WRITING_CONFTEST,
            "tests/__snapshots__/test_known_snapshot.txt": "2 is 4",
            "tests/table.txt": "a table\n",
            "tests/test_children.py": CHILDREN,
            "tests/test_writing.py": WRITING,
            **SRC,
        },
        TestCounts(passed=13),
        requirements=SETUPTOOLS,
    ),
    Layout(
        "pytest_plugin",
        {
            "pyproject.toml": pyproject(
                "pytest-acme",
                project=(
                    'version = "1.2"\nclassifiers = ["Framework :: Pytest"]\ndependencies = ["pytest"]\n\n'
                    '[project.entry-points.pytest11]\nacme = "pytest_acme"\n'
                ),
            ),
            "src/pytest_acme.py": PLUGIN,
            "tests/test_plugin.py": PLUGIN_TESTS,
        },
        TestCounts(passed=4),
        requirements=SETUPTOOLS,
    ),
    Layout(
        "patching_the_world",
        {"tests/test_patching.py": PATCHING, **SRC},
        TestCounts(passed=11),
        requirements=SETUPTOOLS,
    ),
    Layout(
        "few_failures",
        {"tests/test_few.py": FEW, **SRC},
        TestCounts(passed=22, failed=2),
        requirements=SETUPTOOLS,
    ),
    # Each of its tests fails in one run of five. One run passes nine tenths of them in one case of thirteen, three runs
    # of what failed do in all but one of 50,000: this case is for a verifier that runs failing tests again.
    Layout("flaky", {"tests/test_flaky.py": FLAKY, **SRC}, None, requirements=SETUPTOOLS, by_hand=AGAIN),
]
