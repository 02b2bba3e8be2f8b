"""Collections that were tampered with, made from honest ones and by real plug-ins."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from actors.verifier.defences import Defence, Finding
from actors.verifier.suite.collection import Collected, CollectorReport, compare
from actors.verifier.suite.commit import CommitTree
from actors.verifier.suite.expected import Expected, expected_tests
from events.work import FailureClass
from store.sources import Mirror
from tests.engine_fixtures import GitProject
from tests.verifier.commits import collect, committed

FILES = {
    "tests/test_a.py": "import pytest\n\n\ndef test_a():\n    pass\n\n\ndef test_b():\n    pass\n\n\n"
    "@pytest.mark.parametrize('n', ['x::y', '[', 3])\ndef test_many(n):\n    pass\n",
    "tests/test_c.py": "class TestC:\n    def test_c(self):\n        pass\n\n    def test_d(self):\n        pass\n",
}
HONEST = [
    "tests/test_a.py::test_a",
    "tests/test_a.py::test_b",
    "tests/test_a.py::test_many[x::y]",
    "tests/test_a.py::test_many[[]",
    "tests/test_a.py::test_many[3]",
    "tests/test_c.py::TestC::test_c",
    "tests/test_c.py::TestC::test_d",
]
MODULES = ["tests/test_a.py", "tests/test_c.py"]


@pytest.fixture
def expected(tmp_path: Path) -> Expected:
    return expected_tests(committed(tmp_path / "repo", FILES), primary_root=".")


def report(
    collected: list[str],
    *,
    selected: list[str] | None = None,
    modules: list[str] | None = None,
    others: dict[str, str] | None = None,
) -> Collected:
    reports = [CollectorReport(module, "passed") for module in (MODULES if modules is None else modules)]
    return Collected(
        collected=collected,
        selected=collected if selected is None else selected,
        modules=[*reports, *(CollectorReport(nodeid, outcome) for nodeid, outcome in (others or {}).items())],  # type: ignore[arg-type]
    )


def messages(findings: list[Finding]) -> list[str]:
    assert all(found.defence is Defence.COLLECTION for found in findings)
    return [found.message for found in findings]


def test_the_honest_report_is_what_pytest_says_and_is_not_blamed(tmp_path: Path, expected: Expected) -> None:
    seen = collect(tmp_path / "repo")
    assert (seen.collected, seen.selected, [module.nodeid for module in seen.modules]) == (HONEST, HONEST, MODULES)
    assert compare(expected, seen) == []


@pytest.mark.parametrize(
    ("forged", "message"),
    [
        (
            report(HONEST[::2]),
            "2 tests of the commit were not collected from files that were: "
            "tests/test_a.py::test_b, tests/test_c.py::TestC::test_c",
        ),
        (report(HONEST[:5], modules=MODULES[:1]), "1 test files of the commit were not looked at: tests/test_c.py"),
        (
            report(HONEST[:6]),
            "1 tests of the commit were not collected from files that were: tests/test_c.py::TestC::test_d",
        ),
        (
            report([*HONEST, "tests/test_green.py::test_green"]),
            "1 tests come from files that the commit does not have: tests/test_green.py::test_green",
        ),
        (
            report([*HONEST, "../green/test_green.py::test_green"]),
            "1 tests come from files that the commit does not have: ../green/test_green.py::test_green",
        ),
        (report(HONEST, selected=HONEST[1:]), "1 tests were collected and then left out: tests/test_a.py::test_a"),
        (
            report(HONEST, selected=[HONEST[0]]),
            "6 tests were collected and then left out: tests/test_a.py::test_b, tests/test_a.py::test_many[x::y], "
            "tests/test_a.py::test_many[[], tests/test_a.py::test_many[3], tests/test_c.py::TestC::test_c, …",
        ),
        (
            report([], modules=[]),
            "2 test files of the commit were not looked at: tests/test_a.py, tests/test_c.py",
        ),
    ],
    ids=["half", "file", "one", "added", "outside", "deselected", "green_only", "nothing"],
)
def test_a_forged_report_is_found(expected: Expected, forged: Collected, message: str) -> None:
    findings = compare(expected, forged)
    assert messages(findings) == [message]
    assert findings[0].failure_class is FailureClass.TAMPER


def test_a_list_of_stubs_shows_everything_that_is_wrong(expected: Expected) -> None:
    stubs = report(["tests/stub.py::test_stub"], modules=["tests/stub.py"])
    assert messages(compare(expected, stubs)) == [
        "1 tests come from files that the commit does not have: tests/stub.py::test_stub",
        "2 test files of the commit were not looked at: tests/test_a.py, tests/test_c.py",
    ]


@pytest.mark.parametrize(
    ("plugin", "part"),
    [
        (
            "def pytest_ignore_collect(collection_path):\n    return collection_path.name == 'test_c.py'\n",
            "not looked at",
        ),
        (
            "def pytest_pycollect_makeitem(name):\n    return [] if name == 'test_b' else None\n",
            "were not collected from files that were: tests/test_a.py::test_b",
        ),
        (
            "import pytest\n\n\n@pytest.hookimpl(tryfirst=True)\ndef pytest_collection_modifyitems(items):\n"
            "    items[:] = [item for item in items if 'test_c.py' not in item.nodeid]\n",
            "tests/test_c.py::TestC::test_d",
        ),
        ("def pytest_collection_modifyitems(items):\n    del items[1:]\n", "6 tests were collected and then left out"),
        ("def pytest_configure(config):\n    config.option.keyword = 'test_a'\n", "were collected and then left out"),
        (
            "def pytest_load_initial_conftests(early_config):\n    early_config.known_args_namespace.ignore = []\n"
            "def pytest_configure(config):\n    config.args[:] = ['tests/test_a.py']\n",
            "not looked at: tests/test_c.py",
        ),
        (
            "import pytest\n\n\ndef collect(self):\n    return []\n\n\npytest.Class.collect = collect\n",
            "not collected from files that were: tests/test_c.py::TestC::test_c",
        ),
    ],
    ids=["ignored", "hidden", "taken_before", "taken_after", "green_keyword", "other_arguments", "patched"],
)
def test_a_plugin_that_removes_tests_is_found(tmp_path: Path, expected: Expected, plugin: str, part: str) -> None:
    (finding,) = compare(expected, collect(tmp_path / "repo", plugin=plugin))
    assert part in finding.message


def test_removals_by_an_unknown_plugin_are_found_beside_the_commits_own_deselections(tmp_path: Path) -> None:
    files = {**FILES, "pytest.ini": "[pytest]\naddopts = --deselect tests/test_a.py::test_a\n"}
    expected = expected_tests(committed(tmp_path / "repo", files), primary_root=".")
    plugin = "def pytest_collection_modifyitems(items):\n    items.pop()\n"
    assert compare(expected, collect(tmp_path / "repo")) == []
    assert messages(compare(expected, collect(tmp_path / "repo", plugin=plugin))) == [
        "1 tests were collected and then left out: tests/test_c.py::TestC::test_d"
    ]


@pytest.mark.parametrize("option", ["-m 'not (slow or b.c)'", "-k 'not slow'", "-m 'not slow(n=1)'"])
def test_an_expression_of_the_commit_explains_only_what_it_can_fit(tmp_path: Path, option: str) -> None:
    slow = "import pytest\n\npytestmark = pytest.mark.slow\n\n\ndef test_e():\n    pass\n"
    files = {**FILES, "tests/test_e.py": slow, "pytest.ini": f"[pytest]\naddopts = {option}\nmarkers = slow\n"}
    expected = expected_tests(committed(tmp_path / "repo", files), primary_root=".")
    everything, modules = [*HONEST, "tests/test_e.py::test_e"], [*MODULES, "tests/test_e.py"]
    assert compare(expected, report(everything, selected=HONEST, modules=modules)) == []
    assert messages(compare(expected, report(everything, selected=HONEST[1:], modules=modules))) == [
        "1 tests were collected and then left out: tests/test_a.py::test_a"
    ]


@pytest.mark.parametrize("option", ["-m fast", "-k 'fast or slow'", "-m 'not slow or'", "--lf", "-m 'a if b else c'"])
def test_an_expression_that_may_leave_out_anything_explains_everything(tmp_path: Path, option: str) -> None:
    files = {**FILES, "pytest.ini": f"[pytest]\naddopts = {option}\n"}
    expected = expected_tests(committed(tmp_path / "repo", files), primary_root=".")
    assert compare(expected, report(HONEST, selected=[])) == []


def test_a_hook_of_the_commit_may_leave_tests_out_but_not_most_of_them(tmp_path: Path) -> None:
    hook = "def pytest_collection_modifyitems(items):\n    items[:] = [item for item in items if item.name]\n"
    expected = expected_tests(committed(tmp_path / "repo", {**FILES, "conftest.py": hook}), primary_root=".")
    assert compare(expected, report(HONEST, selected=HONEST[:4])) == []
    (finding,) = compare(expected, report(HONEST, selected=HONEST[:3]))
    assert finding.message.startswith("4 tests, more than are run, were left out by a hook of the commit: tests/test_a")
    assert finding.failure_class is FailureClass.RECIPE
    marked = {"tests/test_a.py": FILES["tests/test_a.py"].replace("def test_a", "@pytest.mark.slow\ndef test_a")}
    by_mark = hook.replace("item.name", "item.get_closest_marker('slow')")
    for text, refused in ((hook, True), (by_mark, False)):
        files = {**FILES, **marked, "conftest.py": text}
        expected = expected_tests(committed(tmp_path / f"marks-{refused}", files), primary_root=".")
        assert bool(compare(expected, report(HONEST, selected=HONEST[5:]))) is refused
    chosen = {**FILES, "conftest.py": hook, "pytest.ini": "[pytest]\naddopts = -k test_c\n"}
    expected = expected_tests(committed(tmp_path / "chosen", chosen), primary_root=".")
    assert compare(expected, report(HONEST, selected=HONEST[5:])) == []


@pytest.mark.parametrize("collector", ["tests/test_c.py", "tests/test_c.py::TestC", "tests", "tests/__init__.py", ""])
@pytest.mark.parametrize("outcome", ["failed", "skipped"])
def test_a_collector_that_did_not_pass_excuses_what_is_below_it(
    expected: Expected, collector: str, outcome: str
) -> None:
    modules = MODULES if "::" in collector else MODULES[:1]
    seen = report(HONEST[:5], modules=modules, others={collector: outcome})
    assert compare(expected, seen) == []


def test_what_a_linter_adds_for_a_generated_file_is_no_foreign_test(expected: Expected) -> None:
    assert compare(expected, report([*HONEST, "pkg/_version.py::FLAKE8", "pkg/_version.py::mypy"])) == []
    assert compare(expected, report([*HONEST, "pkg/_version.py::pkg._version"])) != []


def test_node_ids_of_another_root_are_understood(expected: Expected, tmp_path: Path) -> None:
    inner = expected_tests(
        committed(tmp_path / "inner", {f"python/{name}": text for name, text in FILES.items()}), primary_root="python"
    )
    seen = report([f"python/{nodeid}" for nodeid in HONEST], modules=[f"python/{module}" for module in MODULES])
    assert compare(inner, report(HONEST)) == []
    assert compare(inner, seen) == []
    assert compare(expected, seen) != []


def test_tests_of_a_submodule_are_no_tampering_but_not_the_commits_either(tmp_path: Path) -> None:
    project = GitProject(tmp_path / "repo")
    commit = project.commit(FILES)
    project.git("update-index", "--add", "--cacheinfo", f"160000,{commit},vendor")
    project.git("commit", "--quiet", "--message", "submodule")
    tree = CommitTree(Mirror(path=project.path, clone_url=""), project.git("rev-parse", "HEAD"))
    (finding,) = compare(expected_tests(tree, primary_root="."), report([*HONEST, "vendor/test_v.py::test_v"]))
    assert "come from submodules" in finding.message
    assert finding.failure_class is FailureClass.RECIPE


def test_tests_of_an_installed_copy_are_the_commits_if_it_asks_for_them(tmp_path: Path) -> None:
    files = {"src/pkg/test_p.py": "def test_p():\n    pass\n", "pytest.ini": "[pytest]\naddopts = --pyargs pkg\n"}
    expected = expected_tests(committed(tmp_path / "repo", files), primary_root=".")
    place = "../../opt/venv/lib/python3.11/site-packages/pkg/test_p.py"
    assert compare(expected, report([f"{place}::test_p"], modules=[place])) == []
    assert compare(expected, report(["../../tmp/site-packages/pkg/test_x.py::test_p"], modules=[])) != []


def test_a_report_reads_back_as_it_was_written() -> None:
    seen = report(HONEST, selected=HONEST[:1])
    assert msgspec.json.decode(msgspec.json.encode(seen), type=Collected) == seen
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"collected": [1], "selected": [], "modules": []}', type=Collected)


def test_files_that_are_left_out_are_excused_only_if_all_requirements_are_installed(tmp_path: Path) -> None:
    conftest = "try:\n    import yaml\nexcept ImportError:\n    collect_ignore = ['test_c.py']\n"
    tree = committed(tmp_path / "other", {**FILES, "tests/conftest.py": conftest})
    listed = expected_tests(tree, primary_root=".")
    left = report([test for test in HONEST if "test_c" not in test], modules=["tests/test_a.py"])
    assert compare(listed, left) == []
    (finding,) = compare(listed, left, not_installed=["pyyaml"])
    assert finding.failure_class is FailureClass.RECIPE
    assert finding.message == (
        "pyyaml, which the requirements name, is not installed, and 1 files of tests are left out: tests/test_c.py"
    )
    assert compare(listed, report(HONEST), not_installed=["pyyaml"]) == []
