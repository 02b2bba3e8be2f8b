"""Which plug-ins a commit names."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.verifier.checks.allowed_plugins import allowed_names, named
from tests.verifier.commits import committed


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("pyproject.toml", "[project.optional-dependencies]\ntest = [\"Pytest_Helpful>=1; python_version > '3'\"]\n"),
        ("setup.cfg", "[options.extras_require]\ntest =\n    pytest.helpful[more]\n"),
        ("setup.py", "setup(tests_require=['pytest-helpful'])\n"),
        ("tox.ini", "[testenv]\ndeps =\n    pytest-helpful~=2.0\n"),
        ("requirements-dev.txt", "pytest-helpful==1.0 --hash=sha256:00\n"),
        ("requirements/tests.in", "pytest-helpful\n"),
        ("ci/environment-3.9.yaml", "dependencies:\n  - pip:\n    - pytest-helpful\n"),
        ("Pipfile", '[dev-packages]\npytest-helpful = "*"\n'),
        ("noxfile.py", "def tests(session):\n    session.install('pytest-helpful')\n"),
        ("tests/conftest.py", "pytest_plugins = ['pytest_helpful.plugin']\n"),
        ("tests/conftest.py", "pytest_plugins = ('helpful',)\n"),
        (".github/workflows/ci.yml", "steps:\n  - run: pip install pytest pytest-helpful\n"),
        ("pytest.ini", "[pytest]\nrequired_plugins = pytest-helpful>=1\n"),
        ("CONTRIBUTING.md", "Install `pytest-helpful` first.\n"),
    ],
)
def test_a_plugin_is_allowed_where_a_file_names_it(tmp_path: Path, path: str, text: str) -> None:
    tree = committed(tmp_path / "repo", {path: text})
    assert named(tree, env_payload="[]", distribution="PyTest_Helpful")
    assert not named(tree, env_payload="[]", distribution="pytest-helpful-green")
    assert not named(tree, env_payload="[]", distribution="pytest-help")


@pytest.mark.parametrize(
    "payload",
    [
        '{"dependencies": ["numpy", "Pytest.Helpful[x]>=1; python_version > \'3\'"]}',
        '["pytest-helpful @ https://x/y.whl"]',
    ],
)
def test_a_plugin_is_allowed_where_the_requirements_name_it(tmp_path: Path, payload: str) -> None:
    assert named(committed(tmp_path / "repo", {}), env_payload=payload, distribution="pytest-helpful")


@pytest.mark.parametrize(
    "payload", ["", "{}", "[]", "3", '["not a requirement!", 3]', '{"dependencies": "pytest-helpful"}']
)
def test_requirements_that_say_nothing_allow_nothing(tmp_path: Path, payload: str) -> None:
    assert not named(committed(tmp_path / "repo", {}), env_payload=payload, distribution="pytest-helpful")


def test_files_that_are_no_list_of_requirements_name_nothing(tmp_path: Path) -> None:
    files = {
        "pkg/mod.py": "import pytest_helpful\n",
        "data/list.csv": "pytest-helpful\n",
        "docs/notes.rst": "pytest-helpful\n",
    }
    assert not named(committed(tmp_path / "repo", files), env_payload="[]", distribution="pytest-helpful")


@pytest.mark.parametrize(
    ("path", "text", "plugin"),
    [
        ("tests/test_a.py", "def test_a(tmp_path, mocker):\n    pass\n", "pytest-mock"),
        ("tests/test_a.py", "import pytest\n\npytestmark = pytest.mark.asyncio\n", "pytest-asyncio"),
        ("setup.cfg", "[tool:pytest]\naddopts = --cov=pkg -n auto\n", "pytest-cov"),
        ("setup.cfg", "[tool:pytest]\naddopts = --cov=pkg -n auto\n", "pytest-xdist"),
        ("pytest.ini", "[pytest]\ntimeout = 30\n", "pytest-timeout"),
    ],
)
def test_a_plugin_is_allowed_where_a_test_or_a_configuration_uses_it(
    tmp_path: Path, path: str, text: str, plugin: str
) -> None:
    allowed = allowed_names(committed(tmp_path / "repo", {path: text}), env_payload="[]")
    assert plugin in allowed
    assert "pytest-rerunfailures" not in allowed
