"""Where the package lies and what builds it: layouts and build systems."""

from __future__ import annotations

from events.work import TestCounts
from tests.honest.case import Layout, pyproject
from tests.honest.pins import FLIT, HATCH, PDM, POETRY, SCM, SETUPTOOLS, UNDER_39

__all__ = ["PACKAGING"]

CODE = "def double(number):\n    return 2 * number\n"
TESTS = """\
import pytest

from acme import double


@pytest.mark.parametrize("number", [0, 1, 2])
def test_double(number):
    assert double(number) == number + number
"""
SRC = {"src/acme/__init__.py": CODE, "tests/test_acme.py": TESTS}
FLAT = {"acme/__init__.py": CODE, "tests/test_acme.py": TESTS}
THREE = TestCounts(passed=3)

NAMESPACE_TESTS = "import acme.widgets\n\n\ndef test_part():\n    assert acme.widgets.PART == 1\n"
PKGUTIL = '__path__ = __import__("pkgutil").extend_path(__path__, __name__)\n'
DECLARED = '__import__("pkg_resources").declare_namespace(__name__)\n'

SCM_TESTS = """\
from acme import _version


def test_the_version_is_the_tag():
    assert _version.version == "1.2"
"""
INSTALLED_TESTS = """\
import subprocess
from importlib import resources
from importlib.metadata import entry_points, version


def test_the_command_on_the_path():
    assert subprocess.check_output(["acme-double", "21"], text=True) == "42\\n"


def test_the_metadata():
    assert version("acme") == "1.2"
    (found,) = entry_points(group="console_scripts", name="acme-double")
    assert found.load().__module__ == "acme.command"


def test_data():
    assert resources.files("acme").joinpath("data", "words.txt").read_text().split() == ["one", "two"]
"""
DISTUTILS_SETUP = """\
from distutils.core import setup

setup(name="acme", version="1.2", packages=["acme", "acme.deep"])
"""
NAMESPACE_SETUP = """\
from setuptools import setup

setup(name="acme.widgets", version="1.2", packages=["acme", "acme.widgets"]{more})
"""

PACKAGING = [
    Layout(
        "single_module",
        {
            "setup.py": 'from setuptools import setup\n\nsetup(name="acme", version="1.2", py_modules=["acme"])\n',
            "acme.py": CODE,
            "test_acme.py": TESTS,
        },
        THREE,
        requirements=SETUPTOOLS,
        python="3.13",
    ),
    Layout(
        "native_namespace",
        {
            "pyproject.toml": pyproject("acme-widgets"),
            "src/acme/widgets/__init__.py": "PART = 1\n",
            "tests/test_part.py": NAMESPACE_TESTS,
        },
        TestCounts(passed=1),
        requirements=SETUPTOOLS,
    ),
    Layout(
        "pkgutil_namespace",
        {
            "setup.py": NAMESPACE_SETUP.format(more=""),
            "acme/__init__.py": PKGUTIL,
            "acme/widgets/__init__.py": "PART = 1\n",
            "tests/test_part.py": NAMESPACE_TESTS,
        },
        TestCounts(passed=1),
        requirements=SETUPTOOLS,
    ),
    Layout(  # its installation leaves a path file with code, acme.widgets-nspkg.pth, that no index served
        "declared_namespace",
        {
            "setup.py": NAMESPACE_SETUP.format(more=', namespace_packages=["acme"], package_dir={"": "src"}'),
            "src/acme/__init__.py": DECLARED,
            "src/acme/widgets/__init__.py": "PART = 1\n",
            "tests/test_part.py": NAMESPACE_TESTS,
        },
        TestCounts(passed=1),
        requirements=SETUPTOOLS,
    ),
    Layout(
        "legacy_setup_py",
        {
            "setup.py": DISTUTILS_SETUP,
            "setup.cfg": "[bdist_wheel]\nuniversal = 1\n\n[aliases]\ntest = pytest\n",
            "acme/deep/__init__.py": "",
            **FLAT,
        },
        THREE,
        requirements=UNDER_39,
        python="3.9",
    ),
    Layout(
        "poetry_core",
        {
            "pyproject.toml": (
                '[tool.poetry]\nname = "acme"\nversion = "1.2"\ndescription = ""\nauthors = ["T <t@example.org>"]\n'
                'packages = [{ include = "acme", from = "src" }]\n\n[tool.poetry.dependencies]\npython = ">=3.9"\n\n'
                '[build-system]\nrequires = ["poetry-core"]\nbuild-backend = "poetry.core.masonry.api"\n'
            ),
            **SRC,
        },
        THREE,
        requirements=POETRY,
    ),
    Layout(
        "flit",
        {
            "pyproject.toml": pyproject(
                requires="flit_core >=3.2", backend="flit_core.buildapi", project='dynamic = ["version", "description"]'
            ),
            "acme/__init__.py": f'"""Doubles."""\n\n__version__ = "1.2"\n\n\n{CODE}',
            "tests/test_acme.py": TESTS,
        },
        THREE,
        requirements=FLIT,
    ),
    Layout(
        "hatchling",
        {
            "pyproject.toml": pyproject(
                requires="hatchling",
                backend="hatchling.build",
                project='dynamic = ["version"]',
                tables='[tool.hatch.version]\npath = "src/acme/__about__.py"\n',
            ),
            "src/acme/__about__.py": '__version__ = "1.2"\n',
            **SRC,
        },
        THREE,
        requirements=HATCH,
    ),
    Layout(
        "hatch_vcs",
        {
            "pyproject.toml": pyproject(
                requires='hatchling", "hatch-vcs',
                backend="hatchling.build",
                project='dynamic = ["version"]',
                tables='[tool.hatch.version]\nsource = "vcs"\n\n[tool.hatch.build.hooks.vcs]\n'
                'version-file = "src/acme/_version.py"\n',
            ),
            "tests/test_version.py": SCM_TESTS,
            ".gitignore": "/src/acme/_version.py\n",
            **SRC,
        },
        TestCounts(passed=4),
        requirements=(*HATCH, "hatch-vcs==0.4.0", "setuptools==78.1.0", "setuptools-scm==8.2.0"),
        tag="v1.2",
    ),
    Layout(
        "pdm_backend",
        {"pyproject.toml": pyproject(requires="pdm-backend", backend="pdm.backend"), **SRC},
        THREE,
        requirements=PDM,
    ),
    Layout(
        "setuptools_scm_write_to",
        {
            "setup.py": (
                'from setuptools import setup\n\nsetup(name="acme", packages=["acme"],\n'
                '      use_scm_version={"write_to": "acme/_version.py"}, setup_requires=["setuptools_scm"])\n'
            ),
            "tests/test_version.py": SCM_TESTS,
            ".gitignore": "*.egg-info\nacme/_version.py\n",
            **FLAT,
        },
        TestCounts(passed=4),
        requirements=SCM,
        tag="1.2",
    ),
    Layout(  # nobody told git to ignore the generated file
        "setuptools_scm_version_file",
        {
            "pyproject.toml": pyproject(
                requires="setuptools>=64",
                project='dynamic = ["version"]',
                tables=('[tool.setuptools_scm]\nversion_file = "src/acme/_version.py"\n'),
            ),
            "tests/test_version.py": SCM_TESTS,
            **SRC,
        },
        TestCounts(passed=4),
        requirements=SCM,
        tag="1.2",
    ),
    Layout(
        "src_with_entry_points_and_data",
        {
            "pyproject.toml": pyproject(
                project='version = "1.2"\n\n[project.scripts]\nacme-double = "acme.command:main"\n',
                tables='[tool.setuptools.package-data]\nacme = ["data/*.txt"]\n',
            ),
            "src/acme/command.py": "import sys\n\n\ndef main():\n    print(2 * int(sys.argv[1]))\n",
            "src/acme/data/words.txt": "one\ntwo\n",
            "tests/test_installed.py": INSTALLED_TESTS,
            **SRC,
        },
        TestCounts(passed=6),
        requirements=SETUPTOOLS,
    ),
]
