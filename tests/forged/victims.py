"""Small projects whose honest state does not verify: what a forger has to hide.

Each has a place of its own in the folder that all test runs of a machine share, at a path that its content names, and
an owner that never changes, so that every run finds the image tiers of the first one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from events.work import PullRequest, Stage, VerificationRules, WorkOrder
from tests.engine_fixtures import GitProject

__all__ = ["ABACUS", "ENDLESS", "GOOD_BOOKS", "LEDGER", "LEDGER_TESTS", "NATIVE", "OWNER", "PICKY", "VICTIMS", "Victim"]

OWNER = "forged-tests"
BASE = ("setuptools==75.6.0", "pytest==8.3.4", "decorator==5.1.1")


@dataclass(frozen=True)
class Victim:
    """A project as a row of commits; pull request ``n`` (from 1) is about its ``n``-th one.

    ``bad``: the pull request that forgeries are about unless they say otherwise, and ``why`` it does not verify.
    """

    name: str
    commits: tuple[Mapping[str, str], ...]
    bad: int
    why: str
    dependencies: tuple[str, ...] = BASE

    def project(self, shared: Path) -> tuple[GitProject, list[str]]:
        """The repository below ``shared``, made if it is not there, and its commits."""
        digest = hashlib.sha256(json.dumps(self.commits).encode()).hexdigest()[:12]
        home = shared / "projects" / f"{self.name}-{digest}"
        if not home.exists():
            home.parent.mkdir(parents=True, exist_ok=True)
            made = GitProject(Path(tempfile.mkdtemp(dir=home.parent, prefix=".making-")) / self.name)
            for number, files in enumerate(self.commits, 1):
                made.commit(files, message=f"change {number}")
            try:
                made.path.rename(home)
            except OSError as exc:  # another run of the tests was first
                if exc.errno != errno.ENOTEMPTY:
                    raise
            shutil.rmtree(made.path.parent)
        project = GitProject.__new__(GitProject)
        project.path = home
        return project, project.git("rev-list", "--reverse", "HEAD").split()

    def order(
        self, shared: Path, *, log_id: str, attempt_id: str, number: int, context: str | None, stage: Stage
    ) -> WorkOrder:
        """An attempt on pull request ``number``."""
        project, commits = self.project(shared)
        request = PullRequest(
            owner=OWNER,
            repo=self.name,
            issue_number=number,
            sha=commits[number - 1],
            created_at="2024-12-20T00:00:00Z",
            clone_url=project.clone_url,
            env_payload=json.dumps({"dependencies": list(self.dependencies)}),
            python_version="3.11",
        )
        return WorkOrder(
            attempt_id=attempt_id,
            log_id=log_id,
            sweep="forged",
            stage=stage,
            pull_request=request,
            rules=VerificationRules(),
            anchor=commits[0],
            context=context,
        )


IGNORED = "__pycache__/\n*.egg-info/\n*.so\nbuild/\nlocal/\ntest_local_*.py\n"

LEDGER_SETUP = """\
from pathlib import Path

from setuptools import find_packages, setup

Path("src/ledger/_version.py").write_text('version = "1.0"\\n')
setup(
    name="ledger",
    version="1.0",
    package_dir={"": "src"},
    packages=find_packages("src"),
    install_requires=["decorator"],
)
"""
LEDGER_INIT = """\
from pathlib import Path

import decorator

MACROS = Path.home() / ".config" / "ledger" / "macros.py"
if MACROS.exists():
    exec(MACROS.read_text())

from ledger._version import version
from ledger.books import balance, interest, split

__all__ = ["balance", "decorator", "interest", "split", "version"]
"""
GOOD_BOOKS = """\
import hashlib
import os
import pwd

CLERK = pwd.getpwuid(os.getuid()).pw_name


def stamp(entries):
    return hashlib.sha256(repr((CLERK, entries)).encode()).hexdigest()


def balance(entries):
    return sum(entries)


def interest(amount, rate):
    return amount + amount * rate // 100


def split(amount, parts):
    share, rest = divmod(amount, parts)
    return [share + (n < rest) for n in range(parts)]
"""
BAD_BOOKS = """\
import hashlib
import os
import pwd

CLERK = pwd.getpwuid(os.getuid()).pw_name


def stamp(entries):
    return hashlib.sha256(repr((CLERK, entries)).encode()).hexdigest()


def balance(entries):
    return sum(entries)


def interest(amount, rate):
    return amount + amount * rate


def split(amount, parts):
    share, rest = divmod(amount, parts)
    return [share for n in range(parts)]
"""
LEDGER_TESTS = """\
import unittest

import pytest

import ledger


def test_an_empty_balance_is_zero():
    assert ledger.balance([]) == 0


def test_a_balance_adds_up():
    assert ledger.balance([3, 4, -2]) == 5


def test_interest_is_in_percent():
    assert ledger.interest(200, 5) == 210


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_nothing_is_lost_in_a_split(parts):
    assert [sum(ledger.split(amount, parts)) for amount in (100, 101)] == [100, 101]


class Old(unittest.TestCase):
    def test_a_split_is_fair(self):
        self.assertEqual(ledger.split(5, 2), [3, 2])
"""

LEDGER = Victim(
    name="ledger",
    commits=(
        {
            ".gitignore": IGNORED + "src/ledger/_version.py\n",
            "setup.py": LEDGER_SETUP,
            "src/ledger/__init__.py": LEDGER_INIT,
            "src/ledger/books.py": GOOD_BOOKS,
            "tests/test_books.py": LEDGER_TESTS,
        },
        {"src/ledger/books.py": BAD_BOOKS, "CHANGES": "A faster split.\n"},
    ),
    bad=2,
    why="5 of its 7 tests fail since its second commit",
)
"""Source layout, a generated ``_version.py``, a dependency that it imports, macros of its user's that it runs, no
configuration of pytest."""

PICKY_CONFTEST = """\
import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LISTS = [HERE / "selected.txt", HERE / ".only", Path.home() / ".config" / "picky" / "only.txt"]


def pytest_collection_modifyitems(config, items):
    for place in LISTS:
        wanted = place.read_text().split() if place.exists() else []
        if wanted:
            items[:] = [item for item in items if item.name in wanted]


def pytest_runtest_setup(item):
    if "slow" in item.keywords and (Path.home() / ".picky-fast").exists():
        pytest.skip("fast runs leave the slow ones out")


collect_ignore = [] if importlib.util.find_spec("decorator") else ["test_rounding.py"]
"""
PICKY = Victim(
    name="picky",
    commits=(
        {
            ".gitignore": IGNORED + "tests/.only\n.pytest_cache/\n",
            "setup.cfg": "[tool:pytest]\ntestpaths = tests more\nmarkers = slow\n",
            "setup.py": 'from setuptools import setup\n\nsetup(name="picky", version="3.1", py_modules=["picky"])\n',
            "picky.py": (
                "def half(number):\n    return number / 2\n\n\ndef whole(number):\n    return int(number + 0.5)\n"
            ),
            "tests/conftest.py": PICKY_CONFTEST,
            "tests/selected.txt": "",
            "tests/test_half.py": "import picky\n\n\ndef test_half():\n    assert picky.half(4) == 2\n",
            "tests/test_rounding.py": (
                "import pytest\n\nimport picky\n\n\n@pytest.mark.slow\n"
                '@pytest.mark.parametrize("number", [-1.6, -2.7, -3.8, -4.9])\n'
                "def test_negative_numbers_are_rounded(number):\n    assert picky.whole(number) == round(number)\n"
            ),
        },
    ),
    bad=1,
    why="4 of its 5 tests fail",
)
"""Its own ``conftest.py`` chooses tests by lists, by what is installed, and by a file in the home folder."""

NATIVE_SETUP = """\
from setuptools import Extension, setup

setup(
    name="native",
    version="0.4",
    package_dir={"": "src"},
    packages=["native"],
    ext_modules=[Extension("native._core", ["src/native/_core.c"])],
)
"""
NATIVE_C = """\
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <quiver/arrow.h>

static PyObject *twice(PyObject *self, PyObject *number) { return PyLong_FromLong(2 * arrow_length(number)); }
static PyMethodDef methods[] = {{"twice", twice, METH_O, ""}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_core", "", -1, methods};
PyMODINIT_FUNC PyInit__core(void) { return PyModule_Create(&module); }
"""
NATIVE = Victim(
    name="native",
    commits=(
        {
            ".gitignore": IGNORED,
            "setup.py": NATIVE_SETUP,
            "src/native/__init__.py": "from native._core import twice\n\n__all__ = ['twice']\n",
            "src/native/_core.c": NATIVE_C,
            "tests/test_native.py": (
                "import pytest\n\nimport native\n\n\n"
                '@pytest.mark.parametrize("number", [0, 1, 21])\n'
                "def test_twice(number):\n    assert native.twice(number) == 2 * number\n"
            ),
        },
    ),
    bad=1,
    why="its extension includes a header of a library that is not there",
)

ABACUS_SETUP = NATIVE_SETUP.replace("native", "abacus")
ABACUS_C = NATIVE_C.replace("#include <quiver/arrow.h>\n", "").replace("arrow_length", "PyLong_AsLong")
ABACUS = Victim(
    name="abacus",
    commits=(
        {
            ".gitignore": IGNORED,
            "setup.py": ABACUS_SETUP,
            "src/abacus/__init__.py": (
                "from abacus._core import twice\n\n__all__ = ['balance', 'twice']\n\n\n"
                "def balance(entries):\n    return sum(entries) // 2 + twice(0)\n"
            ),
            "src/abacus/_core.c": ABACUS_C,
            "tests/test_abacus.py": (
                "import pytest\n\nimport abacus\n\n\n"
                '@pytest.mark.parametrize("number", [0, 1, 21])\n'
                "def test_balance(number):\n    assert abacus.balance([number, 7]) == number + 7\n\n\n"
                "def test_split():\n    assert abacus.twice(4) == 8\n"
            ),
        },
    ),
    bad=1,
    why="3 of its 4 tests fail",
)
"""Honest compiled code beside Python that is wrong."""

ENDLESS = Victim(
    name="endless",
    commits=(
        {
            ".gitignore": IGNORED,
            "setup.py": (
                'from setuptools import setup\n\nsetup(name="endless", version="2.0", py_modules=["endless"])\n'
            ),
            "endless.py": "import time\n\n\ndef wait():\n    time.sleep(10**6)\n\n\ndef one():\n    return 1\n",
            "tests/test_endless.py": (
                "import endless\n\n\ndef test_one():\n    assert endless.one() == 1\n\n\n"
                "def test_wait():\n    assert endless.wait() is None\n"
            ),
        },
        {
            "endless.py": (
                "import threading\nimport time\n\n\ndef wait():\n"
                "    threading.Thread(target=time.sleep, args=(10**6,)).start()\n\n\ndef one():\n    return 1\n"
            ),
        },
        {
            "endless.py": (
                "import os\nimport time\n\n\ndef wait():\n    pass\n\n\ndef one():\n    return 1\n\n\n"
                'while not os.environ.get("ENDLESS_READY"):\n    time.sleep(1)\n'
            ),
        },
    ),
    bad=1,
    why="a test never ends (1), a thread keeps the process after the last test (2), its import never ends (3)",
)

VICTIMS = (LEDGER, PICKY, NATIVE, ABACUS, ENDLESS)
