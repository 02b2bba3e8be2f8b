"""The import check on the layouts that installers leave behind, with folders made by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from actors.verifier.containers.inside import smoke

RUN = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Installed:
    """A checkout and a site-packages folder."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.site = folder / "repo", folder / "site-packages"
        self.checkout.mkdir()
        self.site.mkdir()
        self._report = folder / "report.json"

    def write(self, place: Path, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(text)

    def install(self, name: str, files: Mapping[str, str], *, source: str | None = None) -> None:
        """Puts files of a distribution into site-packages, with its metadata."""
        info = f"{name}-1.0.dist-info"
        metadata = {f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"}
        if source is not None:
            metadata[f"{info}/direct_url.json"] = json.dumps({"url": source, "dir_info": {"editable": True}})
        everything = {**files, **metadata}
        record = "".join(f"{path},,\n" for path in [*everything, f"{info}/RECORD"])
        self.write(self.site, {**everything, f"{info}/RECORD": record})

    def smoke(self, primary_root: str = ".") -> dict[str, Any]:
        """The report on all this."""
        command = [sys.executable, "-I", "-S", "-c", RUN, str(self.site), smoke.__file__]
        done = subprocess.run(
            [*command, str(self.checkout), primary_root, str(self._report)], capture_output=True, text=True, check=False
        )
        report: dict[str, Any] = json.loads(self._report.read_text())
        assert done.returncode == (1 if report["problems"] else 0), done.stderr
        return report

    def modules(self) -> list[str]:
        report = self.smoke()
        assert report["problems"] == []
        return [module["name"] for module in report["modules"]]


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return Installed(tmp_path)


def test_a_regular_installation_is_known_by_its_files(installed: Installed) -> None:
    files = {
        "pkg/__init__.py": "",
        "pkg/deep/__init__.py": "raise RuntimeError",
        "one.py": "",
        "tests/__init__.py": "raise RuntimeError",
    }
    installed.install("dist-name", files, source=f"file://{installed.checkout}")
    assert installed.modules() == ["one", "pkg"]


def test_a_namespace_package_is_imported_by_its_inner_name(installed: Installed) -> None:
    files = {"google/cloud/thing/__init__.py": "", "google/cloud/thing/sub.py": ""}
    installed.install("google-cloud-thing", files, source=f"file://{installed.checkout}")
    assert installed.modules() == ["google.cloud.thing"]


def test_a_namespace_finder_of_an_editable_installation_is_read(installed: Installed) -> None:
    installed.write(installed.checkout, {"python/pkg/__init__.py": ""})
    mapping = {"pkg": str(installed.checkout / "python/pkg")}
    finder = (
        "from __future__ import annotations\nimport sys, importlib.util\n"
        f"MAPPING: dict[str, str] = {mapping!r}\n"
        "class Finder:\n    @staticmethod\n    def find_spec(name, path=None, target=None):\n"
        "        if name in MAPPING:\n"
        "            return importlib.util.spec_from_file_location(name, MAPPING[name] + '/__init__.py')\n"
        "def install():\n    sys.meta_path.append(Finder)\n"
    )
    start = "import __editable___pkg_1_0_finder; __editable___pkg_1_0_finder.install()"
    installed.install(
        "pkg",
        {"__editable___pkg_1_0_finder.py": finder, "__editable__.pkg-1.0.pth": start},
        source=f"file://{installed.checkout}",
    )
    report = installed.smoke()
    assert [module["name"] for module in report["modules"]] == ["pkg"]


def test_a_path_file_leads_to_the_packages_beside_which_setup_and_tests_are_passed_over(installed: Installed) -> None:
    raising = "raise RuntimeError\n"
    installed.write(
        installed.checkout,
        {
            "pkg/__init__.py": "",
            "setup.py": raising,
            "conftest.py": raising,
            "tests/__init__.py": raising,
            "docs/conf.py": raising,
        },
    )
    installed.install("pkg", {"pkg.pth": f"{installed.checkout}\n"}, source=f"file://{installed.checkout}")
    report = installed.smoke()
    assert [module["name"] for module in report["modules"]] == ["pkg"]


def test_an_installation_in_development_mode_is_known_by_metadata_in_the_checkout(tmp_path: Path) -> None:
    installed = Installed(tmp_path)
    installed.site = installed.checkout / "src"
    info = {"PKG-INFO": "Metadata-Version: 2.1\nName: old-style\nVersion: 0.1\n", "top_level.txt": "old_style\n"}
    installed.write(installed.site, {f"old_style.egg-info/{name}": text for name, text in info.items()})
    installed.write(installed.site, {"old_style/__init__.py": ""})
    assert installed.modules() == ["old_style"]


def test_a_development_installation_of_a_src_layout_is_imported_without_the_folders_name(tmp_path: Path) -> None:
    installed = Installed(tmp_path)
    metadata = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: Little\nVersion: 1.0\n",
        "SOURCES.txt": "setup.py\nsrc/little/__init__.py\nsrc/Little.egg-info/PKG-INFO\n",
        "top_level.txt": "little\n",
    }
    installed.write(installed.checkout, {f"src/Little.egg-info/{name}": text for name, text in metadata.items()})
    installed.write(installed.checkout, {"src/little/__init__.py": ""})
    installed.site = installed.checkout / "src"
    assert installed.modules() == ["little"]


def test_a_release_from_the_index_is_not_the_checkout(installed: Installed) -> None:
    installed.write(installed.checkout, {"pyproject.toml": '[project]\nname = "pkg"\n', "pkg/__init__.py": ""})
    installed.install("pkg", {"pkg/__init__.py": ""})
    (problem,) = installed.smoke()["problems"]
    assert problem == {
        "check": "origin",
        "message": f"pkg 1.0 is installed, but from index and not from {installed.checkout}",
    }


@pytest.mark.parametrize(
    "url", ["https://example.org/pkg.zip", "file:///elsewhere", "file://host{checkout}", "{checkout}"]
)
def test_another_source_is_not_the_checkout(installed: Installed, url: str) -> None:
    installed.install("pkg", {"pkg/__init__.py": ""}, source=url.format(checkout=installed.checkout))
    assert [problem["check"] for problem in installed.smoke()["problems"]] == ["origin"]


def test_a_folder_whose_name_only_begins_like_the_checkouts_is_not_the_checkout(installed: Installed) -> None:
    installed.install("pkg", {"pkg/__init__.py": ""}, source=f"file://{installed.checkout}-other")
    assert [problem["check"] for problem in installed.smoke()["problems"]] == ["origin"]


def test_the_primary_root_narrows_where_a_distribution_may_come_from(installed: Installed) -> None:
    installed.write(installed.checkout, {"python/README": "", "other/README": ""})
    installed.install("inner", {"inner/__init__.py": ""}, source=f"file://{installed.checkout}/python")
    assert installed.smoke("python")["problems"] == []
    assert [problem["check"] for problem in installed.smoke("other")["problems"]] == ["origin"]


@pytest.mark.parametrize("body", ["raise SystemExit(0)", "raise KeyboardInterrupt", "import not_there"])
def test_whatever_an_import_raises_is_a_problem(installed: Installed, body: str) -> None:
    installed.install("pkg", {"pkg/__init__.py": body}, source=f"file://{installed.checkout}")
    assert [problem["check"] for problem in installed.smoke()["problems"]] == ["import"]


def test_a_distribution_without_modules_is_a_problem(installed: Installed) -> None:
    installed.install("pkg", {"pkg/data.txt": ""}, source=f"file://{installed.checkout}")
    assert installed.smoke()["problems"] == [
        {"check": "import", "message": "pkg installs no module that can be imported"}
    ]


def test_module_names_are_the_outermost_ones() -> None:
    files = [
        "pkg/__init__.py",
        "pkg/a.py",
        "pkg/tests/__init__.py",
        "_ext.cpython-311-x86_64-linux-gnu.so",
        "ns/inner/__init__.py",
        "x-y/__init__.py",
        "README",
    ]
    assert smoke.module_names(files) == ["_ext", "ns.inner", "pkg"]


LOADERS = {
    "setuptools": ("MAPPING: dict[str, str] = {'pkg': '/repo/pkg'}\n", {"pkg": "/repo/pkg"}, [], []),
    "editables": ("F.map_module('pkg', '/repo/pkg/__init__.py')\n", {"pkg": "/repo/pkg/__init__.py"}, [], []),
    "meson-python": ("install('pkg', {'b', 'a'}, '/repo/build', ['ninja'], False)\n", {}, ["a", "b"], ["/repo/build"]),
    "meson-python of 2023": (
        "finder = MesonpyMetaFinder({'a'}, '/repo/build', ['ninja'])\n",
        {},
        ["a"],
        ["/repo/build"],
    ),
    "scikit-build-core": (
        "install({'pkg': '/repo/pkg/__init__.py'}, {'pkg.x': 'pkg/x.so'}, None, False, False, [], [], '')\n",
        {"pkg": "/repo/pkg/__init__.py", "pkg.x": "pkg/x.so"},
        [],
        [],
    ),
    "code": ("def install(package, names):\n    Finder(package, names)\n\n\ninstall(package, names)\n", {}, [], []),
    "no Python": ("MAPPING = {", {}, [], []),
}


@pytest.mark.parametrize(("source", "places", "names", "folders"), LOADERS.values(), ids=LOADERS)
def test_what_a_loader_finds_is_read_from_its_literals(
    source: str, places: dict[str, str], names: list[str], folders: list[str]
) -> None:
    assert smoke.read_loader(source) == (places, names, folders)


def test_a_loader_that_a_path_file_starts_is_no_module_but_the_modules_that_it_finds_are(installed: Installed) -> None:
    loader = "raise RuntimeError\n\n\ninstall('pkg', {'pkg'}, '/repo/build', [], False)\n"
    source = f"file://{installed.checkout}"
    files = {"_pkg_editable_loader.py": loader, "pkg-editable.pth": "import _pkg_editable_loader"}
    installed.install("pkg", files, source=source)
    (problem,) = installed.smoke()["problems"]
    assert problem["message"].startswith("pkg: ModuleNotFoundError")
    installed.install("pkg", {**files, "pkg-editable.pth": "# import _pkg_editable_loader"}, source=source)
    (problem,) = installed.smoke()["problems"]
    assert problem["message"].startswith("_pkg_editable_loader: RuntimeError")
