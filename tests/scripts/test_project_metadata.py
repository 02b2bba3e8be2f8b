"""What a project needs, read off its files in each of the forms that projects use."""

from __future__ import annotations

import pytest

from scripts.project_metadata import ProjectNeeds, read_needs
from scripts.pyproject import poetry_specifier
from scripts.requirement_files import with_marker


def of(tree: dict[str, str]) -> ProjectNeeds:
    return read_needs(tree.get, files=tree, fallback_name="tool")


def test_a_project_without_any_file_needs_the_default_tools_and_pytest() -> None:
    found = of({})
    assert (found.run, found.build, found.test) == ([], ["setuptools", "wheel"], ["pytest"])


def test_pep_621_is_read() -> None:
    found = of(
        {
            "pyproject.toml": """
[project]
name = "Tool"
requires-python = ">=3.9"
dependencies = ["a>=1", "b; python_version < '3.10'"]
classifiers = ["Programming Language :: Python :: 3.9"]
[project.optional-dependencies]
tests = ["c", "tool[extra]"]
extra = ["d"]
docs = ["sphinx"]
[dependency-groups]
test = ["e", {include-group = "more"}]
more = ["f", {include-group = "test"}]
[build-system]
requires = ["hatchling"]
"""
        }
    )
    assert (found.name, found.requires_python) == ("Tool", ">=3.9")
    assert found.run == ["a>=1", "b; python_version < '3.10'"]
    assert (found.build, found.test) == (["hatchling"], ["e", "f", "c", "pytest", "d"])
    assert found.classifiers == ["Programming Language :: Python :: 3.9"]


def test_dynamic_dependencies_come_from_the_files_that_setuptools_is_told() -> None:
    pyproject = """
[project]
name = "tool"
dynamic = ["dependencies", "optional-dependencies"]
[tool.setuptools.dynamic]
dependencies = {file = ["requirements.txt"]}
optional-dependencies.test = {file = "more.txt"}
"""
    found = of(
        {
            "pyproject.toml": pyproject,
            "requirements.txt": "a==1 # why\n-r other.txt\n",
            "other.txt": "b\n",
            "more.txt": "c",
        }
    )
    assert (found.run, found.test) == (["a==1", "b"], ["c", "pytest"])


def test_dynamic_dependencies_come_from_setup_py_otherwise() -> None:
    pyproject = '[project]\nname = "tool"\ndynamic = ["dependencies"]\n'
    assert of({"pyproject.toml": pyproject, "setup.py": "setup(install_requires=['a'])"}).run == ["a"]


def test_poetry_is_read() -> None:
    found = of(
        {
            "pyproject.toml": """
[tool.poetry]
name = "tool"
[tool.poetry.dependencies]
python = "^3.8"
a = "^1.2"
b = {version = "*", extras = ["x"], python = "<3.10"}
c = {version = "~2.1", optional = true}
d = {git = "https://example.invalid/d"}
e = [{version = "1.0", markers = "os_name == 'nt'"}, {version = "2.0"}]
[tool.poetry.group.test.dependencies]
f = ">=3"
[tool.poetry.extras]
docs = ["c"]
[build-system]
requires = ["poetry-core"]
"""
        }
    )
    assert found.requires_python == ">=3.8,<4"
    assert found.run == ["a>=1.2,<2", "b[x] ; python_version < '3.10'", "e==1.0 ; os_name == 'nt'", "e==2.0"]
    assert found.test == ["f>=3", "pytest"]


def test_poetrys_old_dev_dependencies_are_development_requirements() -> None:
    assert of({"pyproject.toml": '[tool.poetry.dev-dependencies]\npytest-cov = "^2"\n'}).test == [
        "pytest-cov>=2,<3",
        "pytest",
    ]


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        ("^1.2.3", ">=1.2.3,<2"),
        ("^0.2.3", ">=0.2.3,<0.3"),
        ("^0.0.3", ">=0.0.3,<0.0.4"),
        ("^0", ">=0,<1"),
        ("~1.2.3", ">=1.2.3,<1.3"),
        ("~1", ">=1,<2"),
        ("~=1.2", "~=1.2"),
        ("1.2.*", "==1.2.*"),
        ("*", ""),
        (">=1, <2", ">=1,<2"),
        (">=1 <2", ">=1,<2"),
        (">= 1.0", ">=1.0"),
        ("~2.7 || ^3.5", ">=3.5,<4"),
    ],
)
def test_poetrys_notations_become_specifiers(constraint: str, expected: str) -> None:
    assert poetry_specifier(constraint) == expected


def test_flit_and_pdm_are_read() -> None:
    flit = """
[tool.flit.metadata]
module = "tool"
requires = ["a"]
requires-python = ">=3"
[tool.flit.metadata.requires-extra]
test = ["b"]
"""
    found = of({"pyproject.toml": flit})
    assert (found.run, found.requires_python, found.test) == (["a"], ">=3", ["b", "pytest"])
    pdm = '[project]\nname = "tool"\n[tool.pdm.dev-dependencies]\ntest = ["c"]\n'
    assert of({"pyproject.toml": pdm}).test == ["c", "pytest"]


def test_setup_cfg_is_read() -> None:
    found = of(
        {
            "setup.cfg": """
[metadata]
name = tool
classifiers =
    Programming Language :: Python :: 3.9
[options]
python_requires = >=3.6
install_requires =
    a>=1
    b; python_version < "3.8"
setup_requires = setuptools_scm
[options.extras_require]
testing =
    c
    %(missing)s
"""
        }
    )
    assert (found.name, found.requires_python) == ("tool", ">=3.6")
    assert found.run == ["a>=1", 'b; python_version < "3.8"']
    assert (found.build, found.test) == (["setuptools", "wheel", "setuptools_scm"], ["c", "pytest"])


def test_setup_py_is_read_without_running_it() -> None:
    found = of(
        {
            "setup.py": """
import setuptools
raise SystemExit("this was run")
BASE = ["a"]
MORE = BASE + ["b>=2"]
EXTRAS = {"test": ["c"] + BASE, ":python_version<'3'": ["d"], "dev": computed()}
KW = dict(python_requires=">=3.5", tests_require=["e"])
setuptools.setup(name="tool", install_requires=MORE, extras_require=EXTRAS, setup_requires="cffi", **KW)
"""
        }
    )
    assert found.run == ["a", "b>=2", "d ; python_version<'3'"]
    assert (found.requires_python, found.build) == (">=3.5", ["setuptools", "wheel", "cffi"])
    assert found.test == ["e", "c", "a", "pytest"]


def test_what_setup_py_computes_is_noted_and_not_guessed() -> None:
    found = of({"setup.py": "reqs = ['a']\nreqs += more\nsetup(install_requires=reqs, tests_require=open('x').read())"})
    assert found.run == []
    assert [note.split(",")[0] for note in found.notes] == [
        "setup.py computes install_requires",
        "setup.py computes tests_require",
    ]


@pytest.mark.parametrize(
    "source",
    ["def (", "x = x\nsetup(name=x)", "print 'python 2'", "\0", "setup(**setup)", "a = b\nb = a\nsetup(name=a)"],
)
def test_a_setup_py_that_cannot_be_read_says_nothing(source: str) -> None:
    assert of({"setup.py": source}).run == []


def test_a_source_distributions_own_metadata_goes_before_its_setup_py() -> None:
    info = """Metadata-Version: 2.1
Name: tool
Requires-Python: >=3.7
Classifier: Programming Language :: Python :: 3.7
Requires-Dist: a>=1
Requires-Dist: b; extra == 'test'
Requires-Dist: c; (python_version < "3.9") and extra == "test"
Requires-Dist: d; extra == "docs"
Requires-Dist: e; (os_name == "nt") and (extra == "docs" or extra == "tests")
"""
    found = of({"PKG-INFO": info, "setup.py": "setup(install_requires=['wrong'], extras_require={'test': ['wrong']})"})
    assert (found.run, found.requires_python) == (["a>=1"], ">=3.7")
    assert found.test[:2] == ["b", 'c ; (python_version < "3.9")']
    assert found.test[2].startswith("e")


def test_an_egg_info_tells_the_requirements_or_that_there_are_none() -> None:
    requires = "a>=1\n\n[:python_version < '3']\nb\n\n[test]\nc\n\n[test:os_name == 'nt']\nd\n"
    found = of({"src/tool.egg-info/SOURCES.txt": "", "src/tool.egg-info/requires.txt": requires})
    assert found.run == ["a>=1", "b ; python_version < '3'"]
    assert found.test == ["c", "d ; os_name == 'nt'", "pytest"]
    bare = of({"tool.egg-info/SOURCES.txt": "", "setup.py": "setup(install_requires=['wrong'])"})
    assert bare.run == []


@pytest.mark.parametrize(
    "path",
    [
        "requirements-test.txt",
        "requirements_tests.txt",
        "test-requirements.txt",
        "test_requirements.txt",
        "requirements/test.txt",
        "requirements/tests.txt",
        "tests/requirements.txt",
    ],
)
def test_requirement_files_of_tests_are_read(path: str) -> None:
    options = "--index-url https://example.invalid\n-e .[x]\n./local\ngit+https://example.invalid/x\n"
    text = f"{options}a==1 \\\n    --hash=sha256:00\nb\n"
    setup = "setup(extras_require={'x': ['c']})"
    assert of({path: text, "setup.py": setup}).test == ["a==1", "b", "pytest", "c"]


def test_requirement_files_that_include_each_other_end() -> None:
    tree = {
        "requirements-test.txt": "-r requirements-tests.txt\na\n",
        "requirements-tests.txt": "-r requirements-test.txt\nb\n",
    }
    assert set(of(tree).test) == {"a", "b", "pytest"}


def test_toxs_requirements_for_every_environment_are_read() -> None:
    tox = """
[testenv]
extras = x
deps =
    a
    py27: b
    -r{toxinidir}/t.txt
    {[base]deps}
[testenv:docs]
deps = sphinx
"""
    found = of({"tox.ini": tox, "t.txt": "c", "setup.py": "setup(extras_require={'x': ['d']})"})
    assert found.test == ["a", "c", "pytest", "d"]


def test_development_extras_count_only_when_nothing_is_said_of_tests() -> None:
    extras = '[project]\nname = "tool"\n[project.optional-dependencies]\ndev = ["linter"]\n'
    assert of({"pyproject.toml": extras}).test == ["linter", "pytest"]
    assert of({"pyproject.toml": extras + 'test = ["a"]\n'}).test == ["a", "pytest"]


def test_setuptools_gets_wheel_and_some_backends_what_they_ask_for_late() -> None:
    system = '[build-system]\nrequires = [{}]\nbuild-backend = "{}"\n'
    assert of({"pyproject.toml": system.format('"setuptools>=42"', "setuptools.build_meta")}).build == [
        "setuptools>=42",
        "wheel",
    ]
    assert of({"pyproject.toml": system.format('"setuptools-scm"', "x")}).build == ["setuptools-scm"]
    assert of({"pyproject.toml": system.format('"meson-python"', "mesonpy")}).build == ["meson-python", "ninja"]


def test_the_project_is_never_among_its_own_requirements() -> None:
    pyproject = '[project]\nname = "My.Tool"\ndependencies = ["my-tool"]\n[build-system]\nrequires = ["my_tool"]\n'
    found = of({"pyproject.toml": pyproject, "requirements-test.txt": "tool\nMY-TOOL==1\n"})
    assert (found.run, found.build, found.test) == ([], [], ["pytest"])


@pytest.mark.parametrize(
    "text", ["[project", "[project]\nname = 7\ndependencies = 'a'\n", "project = 1\ntool = 2\n", ""]
)
def test_a_pyproject_of_another_shape_says_nothing(text: str) -> None:
    assert of({"pyproject.toml": text}).run == []


def test_markers_are_joined() -> None:
    assert with_marker("a", "") == "a"
    assert with_marker("a>1", "x") == "a>1 ; x"
    assert with_marker("a; y or z", "x") == "a ; (y or z) and (x)"
