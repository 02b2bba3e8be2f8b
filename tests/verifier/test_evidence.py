"""Which tests speak of the package's functions, read from the commit alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.verifier.suite.evidence import Functions, speaking, standing
from tests.verifier.commits import committed

PACKAGE = """\
from functools import partial

LIMIT = 3
NAMES = ("a", "b")
halve = partial(divmod, 2)


def double(number):
    return 2 * number


class Error(Exception):
    pass


class Shop:
    def open(self):
        return True


class Corner(Shop):
    pass
"""
HELPERS = "import acme\n\n\ndef check(number):\n    assert acme.double(number)\n"
CONFTEST = """\
import acme
import pytest


@pytest.fixture
def doubled():
    return acme.double(2)


@pytest.fixture
def constant():
    return 3
"""
SPEAKING = {
    "a call": "import acme\ndef test_it():\n    assert acme.double(2) == 4\n",
    "a name imported under another": "from acme import double as twice\ndef test_it():\n    assert twice(2) == 4\n",
    "a name imported in the test": "def test_it():\n    from acme import double\n    assert double(2) == 4\n",
    "everything imported": "from acme import *\ndef test_it():\n    assert double(2) == 4\n",
    "a class with methods": "from acme import Shop\ndef test_it():\n    assert Shop()\n",
    "a class that inherits its methods": "import acme\ndef test_it():\n    assert acme.Corner()\n",
    "something made by running code": "import acme\ndef test_it():\n    assert acme.halve(1)\n",
    "a method of some value": "def test_it(shop):\n    assert shop.open()\n",
    "a name as text": "import acme\ndef test_it():\n    assert getattr(acme, 'double')(2) == 4\n",
    "a helper of the same file": "import acme\ndef help():\n    acme.double(2)\n\ndef test_it():\n    help()\n",
    "a constant of the same file": "import acme\nFOUR = acme.double(2)\n\ndef test_it():\n    assert FOUR == 4\n",
    "a helper of another file": "from tests.helpers import check\ndef test_it():\n    check(2)\n",
    "a helper in the package": "from acme.tests.helpers import check\ndef test_it():\n    check(2)\n",
    "a helper beside": "from .helpers import check\ndef test_it():\n    check(2)\n",
    "a helper's module": "from tests import helpers\ndef test_it():\n    helpers.check(2)\n",
    "a fixture of a conftest file": "def test_it(doubled):\n    assert doubled == 4\n",
    "a fixture named in a mark": "import pytest\n@pytest.mark.usefixtures('doubled')\ndef test_it():\n    pass\n",
    "a fixture that all tests use": (
        "import acme, pytest\n@pytest.fixture(autouse=True)\ndef around():\n    acme.double(2)\n\n"
        "def test_it():\n    pass\n"
    ),
    "what is set up": (
        "import acme\nclass TestIt:\n    def setup_method(self):\n        self.n = acme.double(2)\n\n"
        "    def test_it(self):\n        assert self.n\n"
    ),
    "a parameter": (
        "import acme, pytest\n@pytest.mark.parametrize('n', [acme.double(1)])\ndef test_it(n):\n    assert n\n"
    ),
    "what was not found": "def test_other():\n    pass\n",
}
SILENT = {
    "nothing of the package": "def test_it():\n    assert 1\n",
    "a constant": "import acme\ndef test_it():\n    assert acme.LIMIT == 3\n",
    "an imported constant": "from acme import NAMES\ndef test_it():\n    assert NAMES\n",
    "a class without methods": "from acme import Error\ndef test_it():\n    assert issubclass(Error, Exception)\n",
    "a constant of a module that is generated": "from acme import made\ndef test_it():\n    assert made.TABLE\n",
    "a constant that is generated": "from acme.made import TABLE\ndef test_it():\n    assert TABLE\n",
    "the package's version": "import acme\ndef test_it():\n    assert acme.__version__\n",
    "another module's function of that name": "import os\ndef test_it():\n    os.double = os.open\n",
    "a built-in function of that name": "def test_it():\n    open('/dev/null')\n",
    "a function that is replaced": (
        "import acme\ndef test_it(mocker):\n    mocker.patch('acme.double', return_value=5)\n"
        "    assert acme.double(2) == 5\n"
    ),
    "a fixture of a conftest file that has nothing to do with it": "def test_it(constant):\n    assert constant\n",
    "another test's function": "import acme\ndef test_other():\n    acme.double(2)\n\ndef test_it():\n    pass\n",
}


def is_speaking(folder: Path, text: str) -> bool:
    files = {"acme/__init__.py": PACKAGE, "tests/helpers.py": HELPERS, "tests/conftest.py": CONFTEST}
    tree = committed(folder, {**files, "tests/test_it.py": text, "tests/__init__.py": ""})
    name = "TestIt::test_it" if "class TestIt" in text else "test_it"
    functions = Functions.of(tree, ["acme/__init__.py"])
    return bool(speaking(tree, functions, {"tests/test_it.py::it": ("tests/test_it.py", name)}))


@pytest.mark.parametrize("text", SPEAKING.values(), ids=SPEAKING)
def test_it_speaks_of_a_function(text: str, tmp_path: Path) -> None:
    assert is_speaking(tmp_path / "repo", text)


@pytest.mark.parametrize("text", SILENT.values(), ids=SILENT)
def test_it_speaks_of_no_function(text: str, tmp_path: Path) -> None:
    assert not is_speaking(tmp_path / "repo", text)


def test_a_file_that_cannot_be_read_here_counts_as_speaking(tmp_path: Path) -> None:
    assert is_speaking(tmp_path / "repo", "def test_it():\n    print 'old'\n")


def test_an_inherited_test_does_not_stand_in_the_file_of_its_class(tmp_path: Path) -> None:
    source = (
        "from base import Mixin\n\n\nclass TestIt(Mixin):\n    def test_own(self):\n        pass\n\n\n"
        "def test_plain():\n    pass\n"
    )
    tree = committed(
        tmp_path / "repo", {"test_it.py": source, "base.py": "class Mixin:\n    def test_its(self): ...\n"}
    )
    names = ("TestIt::test_own", "test_plain", "TestIt::test_its", "TestIt")
    found = standing(tree, {name: ("test_it.py", name) for name in names})
    assert found == {"TestIt::test_own", "test_plain"}
