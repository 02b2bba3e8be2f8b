"""What an honest case is, and what running one comes to.

A case makes its own git history and says with which requirements and context it is built. Before a verdict counts, the
same image runs ``python -m pytest`` in a plain container, as a person would: a case whose tests do not pass by hand is
broken, and says nothing about the verifier.
"""

from __future__ import annotations

import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import msgspec

from actors.settings import VerifySettings
from actors.templates import stock_context
from actors.verifier import Verdict, Verifier
from events.work import TestCounts
from scripts.release_repository import ReleaseRepository
from scripts.sdist import read_sdist
from store.docker_context import DockerContext
from store.package_index import PackageIndex
from tests.engine_fixtures import GitProject, TestBench

__all__ = ["Case", "Layout", "Release", "Result", "judge", "pyproject"]

SETTINGS = VerifySettings(memory_mb=1024, smoke_timeout_s=120, test_timeout_s=300)
SUMMARY = re.compile(r"^(?:=+ )?(?P<counts>\d+ [a-z]+(?:, \d+ [a-z]+)*) in \d+\.\d+s", re.MULTILINE)
COUNT = re.compile(r"(\d+) ([a-z]+)")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Case(ABC):
    """A project at a commit, and how it is built.

    ``scripts`` replaces files of the stock context, by their attributes' names. ``by_hand`` is the command that shows
    that the tests pass; its exit code may be 1 where a few of them are known to fail.
    """

    def __init__(
        self,
        name: str,
        *,
        requirements: tuple[str, ...],
        python: str = "3.11",
        scripts: Mapping[str, str] | None = None,
        primary_root: str | None = None,
        by_hand: str = "python -m pytest",
    ) -> None:
        self.name, self.requirements, self.python = name, requirements, python
        self.scripts, self.primary_root, self.by_hand = scripts or {}, primary_root, by_hand

    @abstractmethod
    def commit(self, project: GitProject, index: PackageIndex) -> str:
        """Makes the history in an empty repository and returns the commit to verify."""

    @abstractmethod
    def broken_by(self, hand: TestCounts) -> str:
        """What is wrong with the outcomes by hand; empty: nothing."""

    @property
    def varies(self) -> bool:
        """Whether outcomes may differ from run to run."""
        return False

    @property
    def context(self) -> DockerContext:
        """The stock context, but for ``scripts``."""
        return msgspec.structs.replace(stock_context(), **self.scripts)


class Layout(Case):
    """A small project of this suite, whose every test's outcome is known.

    Args:
        name: of the case.
        files: by path; bytes are written as they are.
        outcomes: of its tests, each counted once; ``None``: they vary from run to run.
        links: targets of symbolic links by path.
        executable: files with the executable bit.
        tag: of the commit, annotated.
        arrange: does to the repository, before the commit, what files alone do not.
        options: see ``Case``.
    """

    def __init__(
        self,
        name: str,
        files: Mapping[str, str | bytes],
        outcomes: TestCounts | None,
        *,
        requirements: tuple[str, ...],
        links: Mapping[str, str] | None = None,
        executable: tuple[str, ...] = (),
        tag: str | None = None,
        arrange: Callable[[GitProject], object] = lambda project: None,
        python: str = "3.11",
        scripts: Mapping[str, str] | None = None,
        primary_root: str | None = None,
        by_hand: str = "python -m pytest",
    ) -> None:
        super().__init__(
            name,
            requirements=requirements,
            python=python,
            scripts=scripts,
            primary_root=primary_root,
            by_hand=by_hand,
        )
        self.files, self.outcomes, self.links = files, outcomes, links or {}
        self.executable, self.tag, self.arrange = executable, tag, arrange

    def commit(self, project: GitProject, index: PackageIndex) -> str:
        for name, content in self.files.items():
            path = project.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        for name, target in self.links.items():
            path = project.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)
        for name in self.executable:
            (project.path / name).chmod(0o755)
        self.arrange(project)
        return project.commit({}, message=self.name, tag=self.tag)

    @property
    def varies(self) -> bool:
        return self.outcomes is None

    def broken_by(self, hand: TestCounts) -> str:
        if self.outcomes is None or hand == self.outcomes:
            return ""
        return f"expected {self.outcomes}, got {hand}"


class Release(Case):
    """A release on the package index, as ``headrace ingest pypi`` brings it into git."""

    def __init__(
        self,
        project: str,
        version: str,
        *,
        requirements: tuple[str, ...],
        python: str = "3.11",
        scripts: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{project}-{version}", requirements=requirements, python=python, scripts=scripts)
        self.project, self.version = project, version

    def commit(self, project: GitProject, index: PackageIndex) -> str:
        (release,) = (sdist for sdist in index.sdists(self.project) if sdist.version == self.version)
        bare = ReleaseRepository(project.path.with_suffix(".releases"), project=self.project)
        commits = bare.append([(release, read_sdist(index.fetch(release)))])
        project.git("fetch", "--quiet", "--tags", str(bare.path), "main")
        project.git("update-ref", "refs/heads/main", "FETCH_HEAD")
        return commits[self.version]

    def broken_by(self, hand: TestCounts) -> str:
        return "" if hand.passed and not hand.failed + hand.errors else f"got {hand}"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What one case came to: ``broken`` says why its tests do not pass by hand, with ``output``; empty: they do."""

    broken: str
    output: str
    hand: TestCounts
    verdict: Verdict
    build_s: float
    verify_s: float


def judge(case: Case, *, bench: TestBench, index: PackageIndex) -> Result:
    """Builds a case, runs its tests by hand and has the image verified.

    Raises:
        BuildFailed: no image; the build's output is in the bench's folder.
    """
    project = bench.project(case.name)
    order = bench.order(project, case.commit(project, index), dependencies=case.requirements)
    request = msgspec.structs.replace(order.pull_request, python_version=case.python, primary_root=case.primary_root)
    order = msgspec.structs.replace(order, pull_request=request)
    image, _ = bench.build(order, case.context)
    code, output = bench.run(image.image_id, f"cd '{case.primary_root or '.'}' && {case.by_hand}")
    hand = counts_in(output)
    wrong = "" if code == 0 or (code == 1 and hand.failed) else f"exit code {code}"
    spool = bench.folder / "spool"
    spool.mkdir()
    began = time.monotonic()
    verifier = Verifier(engine=bench.engine, settings=SETTINGS, build=bench.settings, cache_dir=bench.cache_dir)
    verdict = verifier.verify(order, image, context=case.context, spool=spool, cancel=threading.Event())
    return Result(
        broken=wrong or case.broken_by(hand),
        output=output,
        hand=hand,
        verdict=verdict,
        build_s=image.build_s,
        verify_s=time.monotonic() - began,
    )


def counts_in(output: str) -> TestCounts:
    """The outcomes in pytest's last line, counted as a junit report does: an ``xfail`` among the skipped."""
    found = list(SUMMARY.finditer(COLOUR.sub("", output)))
    tally: dict[str, int] = {}
    for number, kind in COUNT.findall(found[-1]["counts"]) if found else []:
        tally[kind] = int(number)
    return TestCounts(
        passed=tally.get("passed", 0) + tally.get("xpassed", 0),
        failed=tally.get("failed", 0),
        errors=tally.get("error", 0) + tally.get("errors", 0),
        skipped=tally.get("skipped", 0) + tally.get("xfailed", 0),
    )


def pyproject(
    name: str = "acme",
    *,
    requires: str = "setuptools",
    backend: str = "setuptools.build_meta",
    project: str = 'version = "1.2"\n',
    tables: str = "",
) -> str:
    """A ``pyproject.toml``: ``project`` holds further lines of that table, ``tables`` further tables."""
    system = f'[build-system]\nrequires = ["{requires}"]\nbuild-backend = "{backend}"\n'
    return f'{system}\n[project]\nname = "{name}"\n{project}\n{tables}'
