"""What an image holds, seen from outside, held against the commit, the index and the trusted parent.

An image does not change, and neither do its commit and what the index serves under one version. So what was found once
is kept in the node's cache, under a key of everything that it depends on, this package's own code included, and an
unchanged image is not looked at again. The cache lies on this host, out of reach of every container.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import tempfile
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path

import msgspec
from loguru import logger

from actors.images.engine import Engine
from actors.images.outcomes import BuiltImage
from actors.settings import BuildSettings
from actors.verifier.checks.allowed_plugins import allowed_names
from actors.verifier.checks.environment import check_environment
from actors.verifier.checks.origin import check_origin
from actors.verifier.checks.provenance import check_provenance
from actors.verifier.checks.requirements import missing
from actors.verifier.checks.startup import check_startup
from actors.verifier.checks.tools import check_channel, check_tools
from actors.verifier.checks.tree import check_tree
from actors.verifier.checks.truth import IndexTruth
from actors.verifier.containers.bytecode import Sources, genuine_sources
from actors.verifier.containers.container import CHECKOUT
from actors.verifier.defences import Defence, Finding
from actors.verifier.image.image_files import ImageFiles
from actors.verifier.image.installed import plugins, read_installed
from actors.verifier.image.layers import ImageRefused, open_image
from actors.verifier.image.layout import layout_of
from actors.verifier.suite.commit import CommitTree
from actors.verifier.suite.control import COMPILED, OwnFile, failing_tests, hidden_files, is_test_file, unimportable
from actors.verifier.suite.evidence import Functions, speaking, standing
from actors.verifier.suite.expected import Expected, expected_tests
from actors.verifier.trial import Trial
from events.errors import InfraError
from events.work import Level, PullRequest

__all__ = ["Inspection", "Inspector"]

BEFORE_IMPORT = (
    Defence.CHANNEL,
    Defence.ENVIRONMENT,
    Defence.TOOLS,
    Defence.STARTUP,
    Defence.PROVENANCE,
    Defence.TREE,
)
SOLD = {
    Defence.CHANNEL: "nothing lies where results are put",
    Defence.ENVIRONMENT: "nothing sets another environment",
    Defence.TOOLS: "interpreter, libraries and tools are the parent image's",
    Defence.STARTUP: "nothing of its own runs when the interpreter starts",
    Defence.PROVENANCE: "what is installed is what the index serves",
    Defence.TREE: "the checkout is the commit",
}
"""What is said of a defence that found nothing."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of an inspection. ``findings``: by defence; ``plugins``: distributions that bring pytest plug-ins;
    ``allowed``: those of them that may be loaded; ``genuine``: code that is known to be genuine and may be compiled;
    ``not_installed``: distributions that the pull request requires and that are missing."""

    findings: list[Finding]
    distributions: list[str]
    own: list[OwnFile]
    plugins: list[str]
    allowed: list[str]
    genuine: list[Sources]
    not_installed: list[str]


class Inspection:
    """What is known of an image before anything of it runs."""

    def __init__(self, facts: Facts, tree: CommitTree, *, primary_root: str, every_plugin: bool) -> None:
        self._facts, self._tree, self._primary_root = facts, tree, primary_root
        self.plugins: list[str] = facts.plugins if every_plugin else facts.allowed
        """Distributions whose plug-ins pytest may load."""
        self.not_installed = facts.not_installed
        """Distributions that the pull request requires and that are missing."""
        self.genuine = facts.genuine
        """Code that is known to be genuine: see ``bytecode.py``."""

    @cached_property
    def expected(self) -> Expected:
        """The commit's own list of tests."""
        return expected_tests(self._tree, primary_root=self._primary_root)

    def speaking(self, tests: Mapping[str, tuple[str, str]]) -> set[str]:
        """Of tests, those that speak of a function of the package: see ``evidence.py``. ``tests``: file of the commit,
        and name there, by node id. All of them, if the package has compiled modules: nobody reads those."""
        if self._is_compiled:
            return set(tests)
        sources = [one.source for one in self._facts.own if one.source in self._tree.files]
        own = [path for path in sources if path and path.endswith(".py") and not is_test_file(path)]
        return speaking(self._tree, Functions.of(self._tree, own), tests)

    def controls(self, *, speaking: bool) -> list[Mapping[str, bytes | None]]:
        """What is laid over the image for the negative control: the first, and those for when that passes too much.

        First the functions of the package raise. A package whose work is done by compiled modules passes that in good
        faith, so they are taken away next. Where there are none, the tests may be of constants alone: then the modules
        cannot be imported. That is an answer only if no test of the sample speaks of a function of the package: else
        something stands in for the functions, and would be taken away with them.

        Args:
            speaking: whether the tests of the sample speak of functions.
        """
        own, tree = self._facts.own, self._tree
        found = [hidden_files(tree, own)]
        if self._is_compiled:
            found.append(hidden_files(tree, own, compiled=True))
        elif not speaking:
            found.append(unimportable(own))
        return [{f"/{path}": content for path, content in files.items()} for files in found if files]

    @property
    def _is_compiled(self) -> bool:
        return any(one.path.endswith(COMPILED) for one in self._facts.own)

    def failing(self, tests: Mapping[str, tuple[str, str]]) -> dict[str, bytes | None]:
        """What is laid over the image to have these tests fail; ``tests``: as for ``speaking``."""
        return self.in_image(failing_tests(self._tree, {path for path, _ in tests.values()}))

    def standing(self, tests: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
        """Of tests, those whose function is written in their file, not inherited from another."""
        found = standing(self._tree, tests)
        return {test: place for test, place in tests.items() if test in found}

    def in_image(self, files: Mapping[str, bytes | None]) -> dict[str, bytes | None]:
        """Changed files of the commit by their absolute paths in the image: in the checkout, and installed copies."""
        copies = {one.source: f"/{one.path}" for one in self._facts.own if one.source in files}
        laid = {f"{CHECKOUT}/{path}": content for path, content in files.items()}
        return laid | {path: files[source] for source, path in copies.items() if source is not None}


class Inspector:
    """Inspects images of one engine. Threads and processes of a node may share its cache."""

    def __init__(self, *, engine: Engine, build: BuildSettings, cache_dir: Path) -> None:
        self._engine, self._cache_dir = engine, cache_dir
        self._folder = cache_dir / "inspections"
        self._truth = IndexTruth(
            index_url=build.index_url, extra_index_urls=build.extra_index_urls, cache_dir=cache_dir
        )

    def inspect(
        self,
        trial: Trial,
        image: BuiltImage,
        *,
        tree: CommitTree,
        request: PullRequest,
        level: Level,
        labels: Mapping[str, str],
    ) -> Inspection:
        """Notes in ``trial`` what each defence found, and refuses at the first that found something.

        ``labels`` are put on a container that reading the image may need.

        Raises:
            Refused: by the first defence that found something.
            InfraError: the engine, git or the index does not answer.
        """
        key = _key(image, request)
        facts = self._kept(key)
        if facts is None:
            facts = self._look(image, tree=tree, request=request, labels=labels)
            self._keep(key, facts)
        root = request.primary_root or "."
        inspection = Inspection(facts, tree, primary_root=root, every_plugin=not trial.applies(Defence.PLUGINS))
        for defence in BEFORE_IMPORT:
            if trial.applies(defence):
                trial.record(defence, _of(facts, defence), detail=SOLD[defence])
        if level is not Level.BUILD and trial.applies(Defence.ORIGIN):
            found = _of(facts, Defence.ORIGIN)
            trial.record(Defence.ORIGIN, found, detail=", ".join(facts.distributions))
        blocked = sorted(set(facts.plugins) - set(facts.allowed))
        if blocked and trial.applies(Defence.PLUGINS):
            trial.note(Defence.PLUGINS, f"not loaded, for nothing names them: {', '.join(blocked)}")
        return inspection

    def _look(self, image: BuiltImage, *, tree: CommitTree, request: PullRequest, labels: Mapping[str, str]) -> Facts:
        try:
            with open_image(
                self._engine, image.image_id, parent_id=image.parent_id, cache_dir=self._cache_dir, labels=labels
            ) as files:
                return self._found(files, tree=tree, request=request)
        except ImageRefused as refused:
            return _refused(refused.finding)
        except OSError as exc:
            if exc.errno != errno.ENAMETOOLONG:
                raise InfraError(f"the files of {image.tag} cannot be read: {exc}") from exc
            message = "the image has paths longer than this system can name; no build needs them"
            return _refused(Finding(defence=Defence.TOOLS, message=message))

    def _found(self, files: ImageFiles, *, tree: CommitTree, request: PullRequest) -> Facts:
        installed = read_installed(files, folders=[posixpath.normpath(f"{CHECKOUT}/{request.primary_root or '.'}")[1:]])
        findings = [
            *check_channel(files),
            *check_environment(files),
            *check_tools(files),
            *check_startup(files, installed, self._truth),
            *check_provenance(files, installed, self._truth, env_payload=request.env_payload or ""),
            *check_tree(files, tree),
        ]
        origin = check_origin(files, tree, primary_root=request.primary_root or ".")
        own = {one.name for one in origin.distributions}
        named = own | allowed_names(tree, env_payload=request.env_payload or "")
        modules = [OwnFile(file.path, file.checkout_path) for module in origin.modules for file in module.files]
        bringing = sorted({one.distribution for one in plugins(installed)})
        return Facts(
            findings=[*findings, *origin.findings],
            distributions=[f"{one.name} {one.version}" for one in origin.distributions],
            own=modules,
            plugins=bringing,
            allowed=[name for name in bringing if name in named],
            genuine=genuine_sources(files, without={one.path for one in modules}),
            not_installed=missing(request.env_payload or "", installed, version=layout_of(files).version),
        )

    def _kept(self, key: str) -> Facts | None:
        path = self._folder / f"{key}.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Facts)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as exc:
            logger.warning("{}: not usable ({}); the image is inspected again", path, exc)
            return None

    def _keep(self, key: str, facts: Facts) -> None:
        """Keeps facts; a cache that cannot be written costs time and nothing else."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".facts-")
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.encode(facts))
            Path(temporary).replace(self._folder / f"{key}.json")
        except OSError as exc:
            logger.warning("{}: cannot be written ({})", self._folder, exc.strerror)


def _refused(finding: Finding) -> Facts:
    return Facts(findings=[finding], distributions=[], own=[], plugins=[], allowed=[], genuine=[], not_installed=[])


def _of(facts: Facts, defence: Defence) -> list[Finding]:
    return [one for one in facts.findings if one.defence is defence]


def _key(image: BuiltImage, request: PullRequest) -> str:
    what = [image.image_id, image.parent_id, image.commit, request.env_payload, request.primary_root, _own_code()]
    return hashlib.sha256(msgspec.json.encode(what)).hexdigest()


@cache
def _own_code() -> str:
    """A digest of this package: facts that other code found are not used."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
