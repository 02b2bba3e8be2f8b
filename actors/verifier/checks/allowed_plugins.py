"""Which plug-ins of pytest an image may load: those that the requirements or the commit's own files name.

A name counts wherever a project says what its tests need: package metadata, requirement files, environments of conda,
tox, nox, Pipenv and CI, guides for contributors, and ``conftest.py``. That a comment may name a plug-in is no harm: the
texts are the commit's, which nobody who writes a recipe can change. Beyond names, a test that uses a plug-in's marker
or fixture, or a configuration that uses its option, names it too.
"""

from __future__ import annotations

import posixpath
import re

from packaging.utils import canonicalize_name

from actors.verifier.checks.requirements import requirements_of
from actors.verifier.suite.commit import CommitTree
from actors.verifier.suite.control import is_test_file
from actors.verifier.suite.pytest_config import NAMES as CONFIGURATIONS

__all__ = ["allowed_names", "named"]

FILES = frozenset(
    {"pyproject.toml", "setup.cfg", "setup.py", "tox.ini", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml"}
    | {"Pipfile", "Pipfile.lock", "noxfile.py", "conftest.py", "poetry.lock", "pdm.lock", "uv.lock", "pixi.toml"}
    | {"tasks.py", "Makefile", "hatch.toml", "ci.yml", "appveyor.yml", ".appveyor.yml", ".travis.yml", ".cirrus.yml"}
    | {"azure-pipelines.yml", ".gitlab-ci.yml", "meta.yaml", "justfile", "Justfile", "Dockerfile", "tox.toml"}
)
"""Names of files that say what tests need, wherever in the commit they lie."""
PATHS = re.compile(
    r"""(^|/)([\w.-]*(requirements|constraints|reqs|deps)[\w.-]*\.(txt|in|pip|lock|cfg|toml|ya?ml)
    |(requirements|reqs|requires|deps)/[^/]+\.(txt|in|pip|ya?ml)
    |[\w.-]*(environment|conda|env)[\w.-]*\.ya?ml
    |\.github/(workflows|actions)/.+\.ya?ml|\.circleci/config\.yml|(ci|\.ci|continuous_integration)/.+)$""",
    re.VERBOSE | re.IGNORECASE,
)
GUIDE = re.compile(r"(^|/)(readme|contributing|hacking|develop\w*|testing|install\w*)(\.\w+)?$", re.IGNORECASE)

USES = {
    "pytest-asyncio": r"mark\.asyncio\b|\basyncio_mode\b",
    "pytest-benchmark": r"mark\.benchmark\b|def test\w*\([^)]*\bbenchmark\b|--benchmark-",
    "pytest-cov": r"--cov\b|--no-cov\b",
    "pytest-django": r"mark\.django_db\b|\bDJANGO_SETTINGS_MODULE\b",
    "pytest-doctestplus": r"--doctest-plus\b|\bdoctest_plus\b",
    "pytest-flake8": r"--flake8\b",
    "pytest-freezer": r"def test\w*\([^)]*\bfreezer\b",
    "pytest-httpserver": r"def \w*\([^)]*\bhttpserver\b",
    "pytest-httpx": r"def \w*\([^)]*\bhttpx_mock\b",
    "pytest-mock": r"def \w*\([^)]*\bmocker\b",
    "pytest-mpl": r"mark\.mpl_image_compare\b|--mpl\b",
    "pytest-remotedata": r"mark\.remote_data\b|--remote-data\b",
    "pytest-rerunfailures": r"mark\.flaky\b|--reruns\b",
    "pytest-subtests": r"def test\w*\([^)]*\bsubtests\b",
    "pytest-timeout": r"mark\.timeout\b|--timeout\b|(?m:^timeout\s*=)",
    "pytest-trio": r"mark\.trio\b|\btrio_mode\b",
    "pytest-xdist": r"(?<![\w-])-n[ =]?(\d+|auto|logical)\b|--dist[ =]|--numprocesses\b|mark\.xdist_group\b",
    "anyio": r"mark\.anyio\b",
    "requests-mock": r"def test\w*\([^)]*\brequests_mock\b",
    "syrupy": r"def test\w*\([^)]*\bsnapshot\b",
}
"""What in a test or in a configuration of pytest shows that a plug-in is used."""

MAX_FILE_BYTES = 4 * 1024 * 1024
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
MODULE_OF = re.compile(r"""["']([A-Za-z_][\w.]*)["']""")


def allowed_names(tree: CommitTree, *, env_payload: str) -> frozenset[str]:
    """Every name that may stand for a distribution in the requirements and the commit's own files, normalised.

    Args:
        tree: the commit.
        env_payload: a pull request's requirements (CONTRACTS.md section 1); what cannot be read names nothing.

    Raises:
        InfraError: git failed.
    """
    found: set[str] = {canonicalize_name(one.name) for one in requirements_of(env_payload)}
    wanted = {path for path, entry in tree.files.items() if entry.size <= MAX_FILE_BYTES and entry.mode != "160000"}
    telling = [path for path in tree.files if path in wanted and _tells(path)]
    using = [path for path in tree.files if path in wanted and (is_test_file(path) or _configures(path))]
    tree.preload({*telling, *(path for path in using if path.endswith(".py") or _configures(path))})
    for path in telling:
        found.update(canonicalize_name(name) for name in NAME.findall(tree.text(path)))
        if posixpath.basename(path) == "conftest.py" and "pytest_plugins" in tree.text(path):
            for module in MODULE_OF.findall(tree.text(path)):
                first = canonicalize_name(module.partition(".")[0])
                found |= {first, f"pytest-{first}"}
    unused = {name: re.compile(pattern) for name, pattern in USES.items() if name not in found}
    for path in using:
        if unused and (path.endswith(".py") or _configures(path)):
            found |= {name for name, pattern in unused.items() if pattern.search(tree.text(path))}
            unused = {name: pattern for name, pattern in unused.items() if name not in found}
    return frozenset(found)


def named(tree: CommitTree, *, env_payload: str, distribution: str) -> bool:
    """Whether the requirements or the commit's own files name a distribution; the spelling of its name may differ."""
    return canonicalize_name(distribution) in allowed_names(tree, env_payload=env_payload)


def _tells(path: str) -> bool:
    return posixpath.basename(path) in FILES or PATHS.search(path) is not None or GUIDE.search(path) is not None


def _configures(path: str) -> bool:
    return posixpath.basename(path) in CONFIGURATIONS
