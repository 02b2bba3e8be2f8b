"""The runner and its plug-ins against the index: real images and the real index, and a small one for its failures."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.verifier.checks.provenance import check_provenance
from actors.verifier.checks.truth import IndexTruth
from actors.verifier.defences import Defence, Finding
from actors.verifier.image.image_files import ImageFiles
from actors.verifier.image.installed import Plugin, plugins, read_installed
from events.errors import InfraError
from events.work import FailureClass
from tests.scripts.simple_index import SimpleIndex, sdist, wheel
from tests.verifier.images import Altered

engine = pytest.mark.engine
SITE = "opt/venv/lib/python3.11/site-packages"
PLUGIN = "[pytest11]\nevil = evil\n"


@pytest.fixture(scope="module")
def truth(bench_cache: Path) -> IndexTruth:
    return IndexTruth(index_url="", cache_dir=bench_cache)


@pytest.fixture
def index() -> Iterator[SimpleIndex]:
    with SimpleIndex() as index:
        yield index


def findings(files: ImageFiles, truth: IndexTruth) -> list[Finding]:
    return check_provenance(files, read_installed(files), truth)


def metadata(name: str, version: str = "1.0", **files: str) -> dict[str, str | bytes]:
    """A ``.dist-info`` with this metadata and these other files."""
    folder = f"{SITE}/{name}-{version}.dist-info"
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    others = {f"{folder}/{file.replace('__', '.')}": content for file, content in files.items()}
    return {f"{folder}/METADATA": text, **others}


CLAIM = '{"url": "file:///workspace/repo", "dir_info": {}}'
FORGERIES: dict[str, tuple[dict[str, str | bytes], str, str]] = {
    "an altered module": ({}, f"echo 'pass' >>/{SITE}/_pytest/reports.py", "_pytest/reports.py is not what the index"),
    "an altered dependency": ({}, f"echo 'pass' >>/{SITE}/pluggy/_hooks.py", "pluggy 1"),
    "a removed module": ({}, f"rm /{SITE}/_pytest/skipping.py", "_pytest/skipping.py is missing"),
    "a linked module": (
        {},
        f"cd /{SITE}/_pytest && mv reports.py /opt/ && ln -s /opt/reports.py reports.py",
        "_pytest/reports.py is missing",
    ),
    "a linked package": ({}, f"cd /{SITE} && mv iniconfig /opt/ && ln -s /opt/iniconfig iniconfig", "iniconfig"),
    "an extension module beside a module": (
        {f"{SITE}/_pytest/runner.cpython-311-x86_64-linux-gnu.so": "x"},
        "",
        "_pytest/runner.cpython-311-x86_64-linux-gnu.so is not part of it",
    ),
    "a package beside a module": ({f"{SITE}/_pytest/runner/__init__.py": ""}, "", "_pytest/runner/__init__.py is not"),
    "a package beside a top-level module": ({f"{SITE}/py/__init__.py": ""}, "", "/py is not part of it"),
    "an extension module beside a package": ({f"{SITE}/pluggy.abi3.so": "x"}, "", "pluggy.abi3.so is not part of it"),
    "code in a cache folder": ({f"{SITE}/_pytest/__pycache__/x.py": ""}, "", "__pycache__/x.py is not part of it"),
    "other entry points": (
        {f"{SITE}/pytest-8.3.4.dist-info/entry_points.txt": PLUGIN},
        "",
        "entry_points.txt is not what the index serves",
    ),
    "entry points that were none": (
        {f"{SITE}/iniconfig-2.3.1.dist-info/entry_points.txt": PLUGIN},
        "",
        "entry_points.txt",
    ),
    "another version's name": (
        {},
        f"cd /{SITE} && mv pytest-8.3.4.dist-info pytest-8.3.3.dist-info && "
        "sed -i 's/^Version: 8.3.4/Version: 8.3.3/' pytest-8.3.3.dist-info/METADATA",
        "pytest 8.3.3: ",
    ),
    "a version that does not exist": (
        {},
        f"sed -i 's/^Version: .*/Version: 8.3.999/' /{SITE}/pytest-8.3.4.dist-info/METADATA",
        "pytest 8.3.999: the index has no such version",
    ),
    "a runner without metadata": ({}, f"rm -r /{SITE}/pytest-8.3.4.dist-info", "would be imported by pytest"),
    "a second copy": (metadata("PyTest", "8.3.4", entry_points__txt=PLUGIN), "", "is not where its wheel"),
    "a plug-in of nobody": (
        {**metadata("evil-plugin-nobody-has", entry_points__txt=PLUGIN), f"{SITE}/evil.py": ""},
        "",
        "the index has no such version",
    ),
    "a plug-in that claims the checkout": (
        {
            **metadata("evil", entry_points__txt=PLUGIN, direct_url__json=CLAIM, RECORD="evil.py,,\n"),
            f"{SITE}/evil.py": "",
        },
        "",
        "evil.py is not what the checkout has",
    ),
    "a plug-in that claims the checkout and lists nothing": (
        {**metadata("evil", entry_points__txt=PLUGIN, direct_url__json=CLAIM), f"{SITE}/evil.py": ""},
        "",
        "its plug-in 'evil' is evil, which is not its own",
    ),
    "a plug-in in the checkout's metadata": (
        {"workspace/repo/Sample_Pkg.egg-info/entry_points.txt": PLUGIN, f"{SITE}/evil.py": ""},
        "",
        "its plug-in 'evil' is evil, which is not its own",
    ),
    "a claim outside the checkout": (
        metadata("evil", entry_points__txt=PLUGIN, direct_url__json=CLAIM.replace("repo", "repo/../../opt")),
        "",
        "the index has no such version",
    ),
    "a dependency that claims the checkout": (
        {
            f"{SITE}/pluggy-1.7.0.dist-info/direct_url.json": CLAIM,
            f"{SITE}/pluggy/_hooks.py": "",
        },
        "",
        "pluggy/__init__.py is not what the checkout has",
    ),
}


@engine
@pytest.mark.parametrize("name", FORGERIES)
def test_is_refused(altered: Altered, truth: IndexTruth, name: str) -> None:
    laid, run, message = FORGERIES[name]
    found = findings(altered.files(laid, run=run), truth)
    assert {finding.defence for finding in found} == {Defence.PROVENANCE}
    assert any(message in finding.message for finding in found), found


@engine
def test_a_version_from_elsewhere_is_the_recipes_fault_and_an_altered_file_is_tampering(
    altered: Altered, truth: IndexTruth
) -> None:
    (finding,) = findings(altered.files(metadata("evil-plugin-nobody-has", entry_points__txt=PLUGIN)), truth)
    assert finding.failure_class is FailureClass.RECIPE
    (finding,) = findings(altered.files(run=f"echo >>/{SITE}/_pytest/main.py"), truth)
    assert finding.failure_class is FailureClass.TAMPER


@engine
def test_a_plug_in_of_the_checkout_is_allowed_and_listed(altered: Altered, truth: IndexTruth) -> None:
    files = altered.files(
        {
            **metadata("mine", entry_points__txt="[pytest11]\nmine = mine.plugin\n", direct_url__json=CLAIM),
            f"{SITE}/mine-1.0.dist-info/RECORD": "mine/plugin.py,,\nmine/__init__.py,,\n",
            f"{SITE}/mine/plugin.py": "x = 1\n",
            f"{SITE}/mine/__init__.py": "",
            "workspace/repo/src/mine/plugin.py": "x = 1\n",
            "workspace/repo/src/mine/__init__.py": "",
        }
    )
    assert findings(files, truth) == []
    assert plugins(read_installed(files)) == [Plugin(distribution="mine", name="mine", module="mine.plugin")]


@engine
def test_a_runner_that_had_to_be_built_from_source_is_compared_with_it(
    altered: Altered, index: SimpleIndex, tmp_path: Path
) -> None:
    source = {"src/evil.py": "x = 1\n", "setup.py": ""}
    index.add("evil", "evil-1.0.tar.gz", sdist("evil", "1.0", source), uploaded=None)
    truth = IndexTruth(index_url=index.url, cache_dir=tmp_path)
    laid = {**metadata("evil", entry_points__txt=PLUGIN, RECORD="evil.py,,\n"), f"{SITE}/evil.py": "x = 1\n"}
    found = {finding.message.partition(" ")[0]: finding.message for finding in findings(altered.files(laid), truth)}
    assert "evil" not in found
    laid[f"{SITE}/evil.py"] = "x = 2\n"
    found = {finding.message.partition(" ")[0]: finding.message for finding in findings(altered.files(laid), truth)}
    assert "evil.py is not what its sdist has" in found["evil"]


@engine
def test_without_the_index_nothing_is_judged_unless_it_was_asked_before(
    altered: Altered, truth: IndexTruth, bench_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = altered.files({"opt/notes.txt": ""})
    assert findings(files, truth) == []
    monkeypatch.setattr("actors.verifier.checks.truth.PackageIndex", None)
    assert findings(files, truth) == []
    monkeypatch.undo()
    monkeypatch.setattr("store.package_index.TRIES", 1)
    with pytest.raises(InfraError, match="not usable"):
        findings(files, IndexTruth(index_url="http://127.0.0.1:9/simple", cache_dir=tmp_path))


def test_the_wheel_of_the_installed_tags_is_taken_else_the_source(index: SimpleIndex, tmp_path: Path) -> None:
    index.add("tool", "tool-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", wheel("tool", "1.0"), uploaded=None)
    index.add("tool", "tool-1.0-cp312-cp312-manylinux_2_17_x86_64.whl", wheel("tool", "1.0"), uploaded=None)
    index.add("tool", "tool-1.0.tar.gz", sdist("tool", "1.0", {"tool.c": ""}), uploaded=None)
    truth = IndexTruth(index_url=index.url, cache_dir=tmp_path)
    taken = truth.release("Tool", "1.0", tags=["cp312-cp312-manylinux_2_17_x86_64"])
    assert taken is not None
    assert taken.filename == "tool-1.0-cp312-cp312-manylinux_2_17_x86_64.whl"
    built = truth.release("Tool", "1.0", tags=["cp313-cp313-linux_x86_64"])
    assert built is not None
    assert (built.filename, built.is_wheel, built.compiles) == ("tool-1.0.tar.gz", False, True)
    assert truth.release("tool", "2.0") is None
    assert truth.release("unknown", "1.0") is None
    assert truth.release("tool", "no version") is None


def test_threads_ask_the_index_once(index: SimpleIndex, tmp_path: Path) -> None:
    index.add("tool", "tool-1.0-py3-none-any.whl", wheel("tool", "1.0"), uploaded=None)
    threads = [
        threading.Thread(target=IndexTruth(index_url=index.url, cache_dir=tmp_path).release, args=("tool", "1.0"))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(index.requests) == ["/files/tool-1.0-py3-none-any.whl", "/simple/tool/"]


def test_a_wheel_that_is_not_what_the_index_promises_is_nobodys_fault(index: SimpleIndex, tmp_path: Path) -> None:
    wrong = {"sha256": hashlib.sha256(base64.b64encode(b"x")).hexdigest()}
    index.add("tool", "tool-1.0-py3-none-any.whl", b"x", uploaded=None, hashes=wrong)
    with pytest.raises(InfraError, match="promises"):
        IndexTruth(index_url=index.url, cache_dir=tmp_path).release("tool", "1.0")
