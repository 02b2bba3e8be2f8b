"""Ordinary distributions against what the index serves, what the parent has, and what was asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from actors.verifier.checks.dependencies import is_asked_for, is_of_parent, of_parent, of_source, urls_of
from actors.verifier.image.installed import Distribution
from tests.verifier.folder_files import FolderFiles

SITE = "opt/venv/lib/python3.11/site-packages"
TOOL = Distribution(
    name="tool",
    version="1.0",
    metadata=f"{SITE}/tool-1.0.dist-info",
    location=SITE,
    record=[f"{SITE}/tool/__init__.py", f"{SITE}/tool/core.py", f"{SITE}/single.py"],
)
SOURCE = {"src/tool/__init__.py": "", "src/tool/core.py": "x = 1\n", "single.py": "", "src/tool/_version.py": "v = 1\n"}
BUILT = {"tool/__init__.py": "", "tool/core.py": "x = 1\n", "single.py": ""}


def image(folder: Path, files: Mapping[str, str], parent: Mapping[str, str] | None = None) -> FolderFiles:
    for name, laid in (("image", files), ("parent", parent or {})):
        (folder / name).mkdir()
        for path, text in laid.items():
            place = folder / name / SITE / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
    return FolderFiles(image=folder / "image", parent=folder / "parent")


def problems(folder: Path, files: Mapping[str, str], *, compiles: bool = False) -> list[str]:
    known: dict[str, set[str]] = {}
    for path, text in SOURCE.items():
        parts = path.split("/")
        for place in range(len(parts)):
            known.setdefault("/".join(parts[place:]), set()).add(hashlib.sha256(text.encode()).hexdigest())
    files_ = image(folder, files)
    return of_source(
        TOOL,
        files_,
        known=known,
        compiles=compiles,
        digest=lambda path: hashlib.sha256(files_.read(path)).hexdigest(),
    )


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tool/_version.py": "v = '1.0'\n"},
        {"tool/generated.py": "import os\n"},
        {"tool/_speed.cpython-311-x86_64-linux-gnu.so": ""},
        {"tool/__pycache__/core.cpython-311.pyc": ""},
        {"other/core.py": "x = 2\n"},
    ],
    ids=["plain", "version", "generated", "extension", "cache", "another"],
)
def test_what_a_build_from_source_may_leave_is_not_refused(tmp_path: Path, more: Mapping[str, str]) -> None:
    assert problems(tmp_path, {**BUILT, **more}) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tool/core.py": "x = 2\n"}, "tool/core.py is not what its sdist has"),
        ({"single.py": "x = 2\n"}, "single.py is not what its sdist has"),
        ({"tool/_version.py": "import os\nv = os.getcwd()\n"}, "tool/_version.py is not what its sdist has"),
        ({"tool/core.abi3.so": ""}, "tool/core.abi3.so would be imported in the place of a module of its sdist"),
        ({"single.abi3.so": ""}, "single.abi3.so would be imported in the place of a module of its sdist"),
        ({"tool/core.pyc": ""}, "tool/core.pyc would be imported in the place of a module of its sdist"),
    ],
    ids=["altered", "single", "version", "shadow", "single_shadow", "bytecode"],
)
def test_what_no_build_of_that_source_would_leave_is_refused(
    tmp_path: Path, more: Mapping[str, str], message: str
) -> None:
    (found,) = problems(tmp_path, {**BUILT, **more})
    assert message in found


def test_a_source_with_extension_modules_may_have_them_in_the_place_of_its_modules(tmp_path: Path) -> None:
    assert problems(tmp_path, BUILT | {"tool/core.abi3.so": ""}, compiles=True) == []


def test_a_distribution_of_the_parents_may_not_be_changed(tmp_path: Path) -> None:
    parent = BUILT | {"tool-1.0.dist-info/METADATA": "Name: tool\n"}
    files = image(tmp_path, parent | {"tool/core.py": "x = 2\n", "new.py": ""}, parent)
    assert is_of_parent(TOOL, files)
    assert of_parent(TOOL, files) == [f"{SITE}/tool/core.py"]


def test_a_distribution_that_was_upgraded_is_not_the_parents(tmp_path: Path) -> None:
    parent = BUILT | {"tool-1.0.dist-info/METADATA": "Name: tool\n"}
    files = image(tmp_path, parent | {"tool-1.0.dist-info/METADATA": "Name: Tool\n"}, parent)
    assert not is_of_parent(TOOL, files)


def test_only_the_url_that_the_requirements_name_is_taken_as_it_is() -> None:
    payload = json.dumps({"dependencies": ["pytest==8.3.4", "Tool @ git+https://example.org/a/tool.git@v1", "bad req"]})
    urls = urls_of(payload)
    assert urls == {"tool": "git+https://example.org/a/tool.git@v1"}

    def taken(url: str | None, name: str = "tool") -> bool:
        item = Distribution(name=name, version="1.0", metadata="", location=SITE, url=url)
        return is_asked_for(item, urls)

    assert taken("https://example.org/a/tool.git")
    assert not taken("https://example.org/b/tool.git")
    assert not taken("https://example.com/a/tool.git")
    assert not taken("file:///tmp/tool")
    assert not taken(None)
    assert not taken("https://example.org/a/tool.git", name="other")
    assert urls_of("no JSON") == {}
