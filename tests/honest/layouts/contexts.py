"""Honest contexts that are not the stock one: what an agent, or a person, has to do for some projects."""

from __future__ import annotations

from events.work import TestCounts
from tests.honest.case import Layout, pyproject
from tests.honest.layouts.compiled import C_SOURCE, SPEED_TESTS
from tests.honest.pins import SCM, SETUPTOOLS

__all__ = ["CONTEXTS", "REGULAR_INSTALL"]

HEAD = "#!/bin/bash\nset -euo pipefail\ncd /workspace/repo\n"
REGULAR_INSTALL = {"build_pkg_sh": f"{HEAD}python -m pip install --no-deps --no-build-isolation .\n"}
CODE = "def double(number):\n    return 2 * number\n"
TESTS = "from acme import double\n\n\ndef test_double():\n    assert double(2) == 4\n"

ZLIB = """\
#include <Python.h>
#include <zlib.h>

static PyObject *triple(PyObject *self, PyObject *number) {
    return PyLong_FromLong(zlibVersion()[0] ? 3 * PyLong_AsLong(number) : 0);
}
"""

CONTEXTS = [
    Layout(
        "regular_install",
        {
            "pyproject.toml": pyproject(),
            "src/acme/__init__.py": CODE,
            "tests/test_acme.py": TESTS,
            "tests/test_place.py": (
                "import acme\n\n\ndef test_it_is_installed():\n    assert 'site-packages' in acme.__file__\n"
            ),
        },
        TestCounts(passed=2),
        requirements=SETUPTOOLS,
        scripts=REGULAR_INSTALL,
    ),
    Layout(  # imported from the checkout when pytest runs in it, from where it was installed otherwise
        "regular_install_of_a_flat_layout",
        {
            "setup.py": 'from setuptools import setup\n\nsetup(name="acme", version="1.2", packages=["acme"])\n',
            "acme/__init__.py": CODE,
            "tests/test_acme.py": TESTS,
        },
        TestCounts(passed=1),
        requirements=SETUPTOOLS,
        scripts={"build_pkg_sh": f"{HEAD}pip install --no-build-isolation .\nrm -rf build *.egg-info\n"},
    ),
    Layout(
        "build_ext_inplace",
        {
            "setup.py": (
                'from setuptools import Extension, setup\n\nsetup(name="acme", version="1.2", packages=["acme"],\n'
                '      ext_modules=[Extension("acme._speed", ["acme/_speed.c"])])\n'
            ),
            "acme/__init__.py": "from acme._speed import triple\n",
            "acme/_speed.c": C_SOURCE,
            "tests/test_speed.py": SPEED_TESTS,
        },
        TestCounts(passed=2),
        requirements=SETUPTOOLS,
        scripts={
            "build_pkg_sh": (
                f"{HEAD}export CFLAGS='-O1 -g0'\npython setup.py build_ext --inplace --parallel 2\n"
                "python -m pip install --no-build-isolation --no-deps -e .\n"
            )
        },
    ),
    Layout(  # a history without tags, as shallow clones have
        "pretend_version",
        {
            "pyproject.toml": pyproject(
                project='dynamic = ["version"]', tables='[tool.setuptools_scm]\nfallback_version = "0"\n'
            ),
            "src/acme/__init__.py": CODE,
            "tests/test_acme.py": TESTS,
            "tests/test_version.py": (
                "from importlib.metadata import version\n\n\ndef test_version():\n"
                '    assert version("acme") == "3.1.4"\n'
            ),
        },
        TestCounts(passed=2),
        requirements=SCM,
        scripts={
            "build_pkg_sh": (
                f"{HEAD}export SETUPTOOLS_SCM_PRETEND_VERSION=3.1.4\n"
                'pip install --no-deps --no-build-isolation -e "."\n'
            )
        },
    ),
    Layout(
        "apt_library",
        {
            "setup.py": (
                'from setuptools import Extension, setup\n\nsetup(name="acme", version="1.2", packages=["acme"],\n'
                '      ext_modules=[Extension("acme._speed", ["acme/_speed.c"], libraries=["z"])])\n'
            ),
            "acme/__init__.py": "from acme._speed import triple\n",
            "acme/_speed.c": ZLIB + C_SOURCE[C_SOURCE.index("\nstatic PyMethodDef") :],
            "tests/test_speed.py": SPEED_TESTS,
        },
        TestCounts(passed=2),
        requirements=SETUPTOOLS,
        scripts={
            "build_pkg_sh": (
                f"{HEAD}export DEBIAN_FRONTEND=noninteractive\n"
                "find /etc/apt -name '*.list' -exec sed -i 's/^# *deb /deb /' {} +\n"
                "apt-get update -qq && apt-get install -y --no-install-recommends zlib1g-dev\n"
                "rm -rf /var/lib/apt/lists/*\n"
                "python -m pip install --no-deps --no-build-isolation --editable .\n"
            )
        },
    ),
    Layout(  # a plug-in that the project's own metadata name and the pinned requirements forgot
        "extra_test_requirement",
        {
            "pyproject.toml": pyproject(
                project='version = "1.2"\n\n[project.optional-dependencies]\ntest = ["pytest", "pytest-mock"]\n'
            ),
            "src/acme/__init__.py": CODE,
            "tests/test_acme.py": (
                "import acme\n\n\ndef test_a_mock(mocker):\n"
                '    mocker.patch("acme.double", return_value=5)\n    assert acme.double(2) == 5\n'
            ),
        },
        TestCounts(passed=1),
        requirements=SETUPTOOLS,
        scripts={
            "build_run_sh": (
                '#!/bin/bash\nset -e\npip install "pytest-mock==3.14.0"\npython -m pytest --version\n'
                'python -c "import acme; print(acme.__file__)"\n'
            )
        },
    ),
]
