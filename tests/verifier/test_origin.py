"""The origin of what is installed, on installations that pip and the build back ends made, and on forged ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.verifier.checks.origin import OriginReport, check_origin
from actors.verifier.checks.tree import check_tree
from events.work import FailureClass
from tests.verifier.folder_files import Image
from tests.verifier.installs import SITE, install, python_with_backends, setup_py_develop
from tests.verifier.layouts import LAYOUTS, Layout

__all__ = ["python_with_backends"]


def report(image: Image, primary_root: str = ".") -> OriginReport:
    return check_origin(image.files, image.tree, primary_root=primary_root)


def said(image: Image) -> list[tuple[str, FailureClass]]:
    return [(finding.message, finding.failure_class) for finding in report(image).findings]


def made(folder: Path, layout: Layout) -> Image:
    image = Image(folder)
    image.commit(layout.files)
    return image


@pytest.mark.parametrize("editable", [True, False], ids=["editable", "regular"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_an_honest_installation_of_a_layout_comes_from_its_checkout(
    tmp_path: Path, python_with_backends: Path, layout: Layout, editable: bool
) -> None:
    image = made(tmp_path, layout)
    install(image, python_with_backends, editable=editable, folder=layout.folder)
    seen = report(image, layout.folder)
    assert [finding.message for finding in seen.findings] == []
    assert [finding.message for finding in check_tree(image.files, image.tree)] == []
    assert {dist.editable for dist in seen.distributions} == {editable}
    assert {module.name for module in seen.modules} == set(layout.modules)
    pairs = {file.path: file.checkout_path for module in seen.modules for file in module.files}
    code = {
        path
        for path in image.tree.files
        if path.startswith(layout.root) and path.endswith(".py") and "test" not in path and "setup" not in path
    }
    assert code <= set(pairs.values())
    assert {f"workspace/repo/{path}" for path in code} <= pairs.keys()
    if not editable:
        assert any(path.startswith(SITE) for path in pairs)


def test_setup_py_develop_comes_from_its_checkout(tmp_path: Path, python_with_backends: Path) -> None:
    image = made(tmp_path, LAYOUTS["legacy setup.py"])
    setup_py_develop(image, python_with_backends)
    assert (image.root / SITE / "pkg.egg-link").exists()
    seen = report(image)
    assert (seen.findings, [module.name for module in seen.modules]) == ([], ["pkg"])


@pytest.fixture
def regular(tmp_path: Path, python_with_backends: Path) -> Image:
    image = made(tmp_path, LAYOUTS["src"])
    install(image, python_with_backends, editable=False)
    return image


@pytest.fixture
def editable(tmp_path: Path, python_with_backends: Path) -> Image:
    image = made(tmp_path, LAYOUTS["src"])
    install(image, python_with_backends, editable=True)
    return image


@pytest.fixture
def flat(tmp_path: Path, python_with_backends: Path) -> Image:
    image = made(tmp_path, LAYOUTS["flat"])
    install(image, python_with_backends, editable=True)
    return image


def put(image: Image, name: str, text: str | bytes) -> None:
    image.write({f"/{SITE}/{name}": text})


def add_release(image: Image, name: str = "pkg", module: str = "pkg") -> None:
    """What an index's release of that name leaves."""
    info = f"{name}-0.9.dist-info"
    put(image, f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.9\n")
    put(image, f"{info}/RECORD", f"{module}/__init__.py,,\n{info}/METADATA,,\n{info}/RECORD,,\n")
    put(image, f"{module}/__init__.py", "from pkg.old import f\n")


REGULAR: dict[str, tuple[Callable[[Image], None], str]] = {
    "an older file": (lambda image: put(image, "pkg/core.py", "def f():\n    return 0\n"), "pkg/core.py"),
    "an added module": (lambda image: put(image, "pkg/more.py", "def g():\n    return 0\n"), "no generator wrote"),
    "an added test": (lambda image: put(image, "pkg/test_x.py", "def test(): pass\n"), "is a test module"),
    "an added conftest.py": (lambda image: put(image, "pkg/conftest.py", ""), "configures tests"),
    "a compiled module in place of the source": (
        lambda image: put(image, "pkg/core.cpython-311-x86_64-linux-gnu.so", b"\x7fELF"),
        "would be imported in place of src/pkg/core.py",
    ),
    "a compiled module of a project without native code": (
        lambda image: put(image, "pkg/_x.so", b"\x7fELF"),
        "no native",
    ),
    "a package over a module": (lambda image: put(image, "pkg/core/__init__.py", "X = 1\n"), "takes the place of"),
    "a sourceless module": (lambda image: put(image, "pkg/other.pyc", b"x" * 16), "without a source"),
    "a plug-in": (
        lambda image: put(image, "pkg-1.0.dist-info/entry_points.txt", "[pytest11]\nx = pkg.core\n"),
        "registers a pytest plug-in",
    ),
}


@pytest.mark.parametrize(("change", "why"), REGULAR.values(), ids=REGULAR)
def test_a_regular_installation_that_is_not_the_commits_is_tampered_with(
    regular: Image, change: Callable[[Image], None], why: str
) -> None:
    change(regular)
    ((message, whose),) = said(regular)
    assert why in message
    assert whose is FailureClass.TAMPER


def test_a_link_in_an_installed_package_is_refused(regular: Image) -> None:
    (regular.root / SITE / "pkg/core.py").unlink()
    (regular.root / SITE / "pkg/core.py").symlink_to("/opt/evil.py")
    ((message, _),) = said(regular)
    assert "is a link" in message


def test_a_forged_direct_url_over_an_older_release_is_tampered_with(tmp_path: Path, python_with_backends: Path) -> None:
    image = made(tmp_path, LAYOUTS["flat"])
    add_release(image)
    put(image, "pkg-0.9.dist-info/direct_url.json", json.dumps({"url": "file:///workspace/repo", "dir_info": {}}))
    ((message, whose),) = said(image)
    assert "pkg/__init__.py, which pkg claims to have from the checkout, differs from the commit" in message
    assert whose is FailureClass.TAMPER


EVIL = {"dir_info": {"editable": True}, "url": "file:///opt/evil"}
FINDER = "__editable___pkg_1_0_finder.py"


def lead_finder_away(image: Image) -> None:
    finder = image.root / SITE / FINDER
    finder.write_text(finder.read_text().replace("'/workspace/repo/pkg'", "'/opt/evil/pkg'"))


def lead_finder_into_build(image: Image) -> None:
    image.write({"build/lib/pkg/__init__.py": "x = 1\n"})
    finder = image.root / SITE / FINDER
    finder.write_text(finder.read_text().replace("'/workspace/repo/pkg'", "'/workspace/repo/build/lib/pkg'"))


def climb_out(image: Image) -> None:
    finder = image.root / SITE / FINDER
    finder.write_text(finder.read_text().replace("'/workspace/repo/pkg'", "'/workspace/repo/../../opt/pkg'"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lead_finder_away, "leads pkg to /opt/evil/pkg, outside of the checkout"),
        (climb_out, "leads pkg to /opt/pkg, outside of the checkout"),
        (lead_finder_into_build, "leads pkg to /workspace/repo/build/lib/pkg, which the commit has not"),
    ],
)
def test_an_editable_finder_that_leads_elsewhere_is_tampered_with(
    flat: Image, change: Callable[[Image], None], why: str
) -> None:
    change(flat)
    assert any(why in message and whose is FailureClass.TAMPER for message, whose in said(flat))


def test_an_editable_path_file_that_leads_elsewhere_is_tampered_with(editable: Image) -> None:
    (path,) = (editable.root / SITE).glob("__editable__*.pth")
    path.write_text("/opt/evil\n")
    assert any("to /opt/evil, outside of the checkout" in message for message, _ in said(editable))


def test_a_path_file_that_leads_to_another_copy_of_the_package_is_tampered_with(editable: Image) -> None:
    put(editable, "a.pth", "/opt/evil\n")
    editable.write({"/opt/evil/pkg/__init__.py": ""})
    assert [message for message, _ in said(editable)] == [
        f"/{SITE}/a.pth leads pkg to /opt/evil, outside of the checkout"
    ]


def test_files_beside_an_editable_installation_are_imported_first_and_refused(editable: Image) -> None:
    put(editable, "pkg/__init__.py", "")
    assert said(editable) == [
        (f"/{SITE}/pkg/__init__.py is imported in place of the checkout's pkg", FailureClass.TAMPER)
    ]


def test_a_release_beside_an_editable_installation_is_a_wrong_recipe(editable: Image) -> None:
    add_release(editable, "pkg-compat")
    assert said(editable) == [
        ("pkg-compat 0.9 has pkg too, and it is imported before the checkout's", FailureClass.RECIPE)
    ]


def test_a_second_distribution_of_the_same_name_is_a_wrong_recipe(regular: Image) -> None:
    add_release(regular, module="other")
    assert said(regular) == [(f"pkg is installed twice: also as {SITE}/pkg-0.9.dist-info", FailureClass.RECIPE)]


def test_a_release_from_the_index_is_not_the_checkout(tmp_path: Path) -> None:
    image = made(tmp_path, LAYOUTS["flat"])
    add_release(image)
    assert said(image) == [
        ("pkg 0.9 is installed, but from an index and not from /workspace/repo", FailureClass.RECIPE)
    ]


@pytest.mark.parametrize("url", ["file:///opt/evil", "https://example.org/pkg.zip", "file:///workspace/repo-2", "x"])
def test_another_source_is_not_the_checkout(tmp_path: Path, url: str) -> None:
    image = made(tmp_path, LAYOUTS["flat"])
    add_release(image)
    put(image, "pkg-0.9.dist-info/direct_url.json", json.dumps({**EVIL, "url": url}))
    ((message, whose),) = said(image)
    assert message.startswith("pkg 0.9 is installed, but from")
    assert whose is FailureClass.RECIPE


def test_nothing_installed_is_a_wrong_recipe(tmp_path: Path) -> None:
    image = made(tmp_path, LAYOUTS["flat"])
    ((message, whose),) = said(image)
    assert message.startswith("no installed distribution comes from /workspace/repo;")
    assert whose is FailureClass.RECIPE


def test_the_primary_root_narrows_what_counts(regular: Image) -> None:
    assert report(regular, "tests").findings != []
    assert report(regular, "..").findings != []


def test_a_distribution_without_modules_is_a_wrong_recipe(editable: Image) -> None:
    (path,) = (editable.root / SITE).glob("__editable__*.pth")
    path.unlink()
    assert said(editable) == [("pkg installs no module that can be imported", FailureClass.RECIPE)]


def test_other_packages_of_the_environment_are_nobodys_business(regular: Image) -> None:
    add_release(regular, "other", "other")
    put(regular, "loose.py", "import os\n")
    assert said(regular) == []


def test_a_version_line_that_a_build_wrote_is_the_commits(tmp_path: Path, python_with_backends: Path) -> None:
    image = made(tmp_path, LAYOUTS["flit"])
    install(image, python_with_backends, editable=False)
    put(image, "pkg/__init__.py", '"""A package."""\n__version__ = "1.1.dev3"\n')
    assert said(image) == []
    put(image, "pkg/__init__.py", '"""A package."""\n__version__ = "1.1"; import pytest\n')
    assert "differs from the commit" in said(image)[0][0]


def test_malformed_metadata_tell_nothing_and_break_nothing(regular: Image) -> None:
    put(regular, "x-1.dist-info/METADATA", b"\xff\xfe\x00")
    put(regular, "y-1.dist-info/METADATA", "Name: y\n")
    put(regular, "y-1.dist-info/RECORD", b'"\x00,\n../../../../../../../../etc/passwd,,\n')
    put(regular, "y-1.dist-info/direct_url.json", "[" * 100_000)
    put(regular, "__editable___y_finder.py", "MAPPING = {")
    assert said(regular) == []


def test_installed_files_that_are_gone_are_the_tests_business(regular: Image) -> None:
    shutil.rmtree(regular.root / SITE / "pkg/sub")
    assert said(regular) == []


NATIVE = {
    "meson.build": "project('pkg', 'c')\n",
    "CMakeLists.txt": "project(pkg)\n",
    "src/pkg/__init__.py": "",
    "src/pkg/_fast.c": "int x;\n",
}
FAST = "_fast.cpython-311-x86_64-linux-gnu.so"


def with_loader(folder: Path, loader: str, *, beside: tuple[str, ...] = ()) -> Image:
    """An editable installation by code that a path file starts; ``beside``: compiled modules in site-packages."""
    image = Image(folder)
    image.commit(NATIVE)
    recorded = ["_pkg_editable.py", "pkg.pth", *beside]
    put(image, "_pkg_editable.py", loader)
    put(image, "pkg.pth", "import _pkg_editable")
    for name in beside:
        put(image, name, b"\x7fELF")
    info = "pkg-1.0.dist-info"
    put(image, f"{info}/METADATA", "Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\n")
    put(image, f"{info}/RECORD", "".join(f"{name},,\n" for name in recorded))
    put(image, f"{info}/direct_url.json", json.dumps({"url": "file:///workspace/repo", "dir_info": {"editable": True}}))
    return image


def test_a_loader_that_finds_modules_by_itself_has_those_of_the_commit_and_what_was_built(tmp_path: Path) -> None:
    image = with_loader(tmp_path, "install('pkg', {'pkg'}, '/workspace/repo/build', ['ninja'], False)\n")
    image.write({f"build/{FAST}": b"\x7fELF", "build/fast.o": b"\x7fELF"})
    seen = report(image)
    assert seen.findings == []
    (module,) = seen.modules
    assert module.name == "pkg"
    assert [file.checkout_path for file in module.files] == [f"build/{FAST}", "src/pkg/__init__.py"]


SCIKIT = "install({{'pkg': '/workspace/repo/src/pkg/__init__.py'}}, {{'pkg._fast': '{place}'}}, None, False)\n"


def test_a_loader_that_finds_files_in_site_packages_has_those_that_were_installed(tmp_path: Path) -> None:
    image = with_loader(tmp_path, SCIKIT.format(place=f"pkg/{FAST}"), beside=(f"pkg/{FAST}",))
    seen = report(image)
    assert seen.findings == []
    paths = {file.path for module in seen.modules for file in module.files}
    assert {f"{SITE}/pkg/{FAST}", "workspace/repo/src/pkg/__init__.py"} <= paths
    assert f"{SITE}/_pkg_editable.py" not in paths


def test_a_loader_that_finds_other_files_in_site_packages_is_tampered_with(tmp_path: Path) -> None:
    image = with_loader(tmp_path, SCIKIT.format(place="evil/x.py"), beside=(f"pkg/{FAST}",))
    put(image, "evil/x.py", "")
    assert said(image) == [
        (
            f"the editable installation of pkg leads pkg._fast to /{SITE}/evil/x.py, outside of the checkout",
            FailureClass.TAMPER,
        )
    ]
