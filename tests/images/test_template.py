"""The stock template's ways of installing a checkout, where the first one does not do."""

from __future__ import annotations

import pytest

from tests.engine_fixtures import TestBench

pytestmark = pytest.mark.engine

PYPROJECT = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
SETUP = """\
from setuptools import setup
setup(name="toml", version="9.9", package_dir={"": "src"}, packages=["toml"])
"""


def test_a_release_of_the_package_that_other_pins_need_gives_way_to_the_checkout(bench: TestBench) -> None:
    project = bench.project("toml")
    files = {"pyproject.toml": PYPROJECT, "setup.py": SETUP, "src/toml/__init__.py": "CHECKOUT = True\n"}
    commit = project.commit(files)
    pins = (
        "setuptools==56.2.0",
        "wheel==0.45.1",
        "iniconfig==2.0.0",
        "pytest==8.3.5",
        "packaging==25.0",
        "pluggy==1.6.0",
    )
    order = bench.order(project, commit, dependencies=pins)
    built, output = bench.build(order)
    assert "==> setup.py develop" in output, "the pinned setuptools has no editable installs by the standard"
    code, where = bench.run(built.tag, "cd / && python -c 'import toml; print(toml.CHECKOUT, toml.__file__)'")
    assert (code, where) == (0, "True /workspace/repo/src/toml/__init__.py")
