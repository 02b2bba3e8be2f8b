"""Fixtures for tests with the real Docker engine: the engine, a cache folder, builds, and small projects in git.

Base images come from debootstrap, for machines without an image registry. Its root file systems are kept in
``$HEADRACE_TEST_CACHE`` (default ``~/.cache/headrace-tests``), so that only the first run on a machine makes them.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path

import pytest
from docker.errors import APIError, NotFound

from actors.images import BuiltImage, Engine, ImageBuilder, reap
from actors.images.engine import LABEL_LOG, LABEL_REPOSITORY, LABEL_TIER, TIER_TEST
from actors.settings import BuildSettings
from actors.templates import stock_context
from events.work import PullRequest, Stage, VerificationRules, WorkOrder
from store.docker_context import DockerContext

__all__ = ["GitProject", "TestBench", "bench", "bench_cache", "build_settings", "engine"]


class GitProject:
    """A git repository under construction; ``commit`` writes files and returns the new commit's hash."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    @property
    def clone_url(self) -> str:
        """What to clone it by."""
        return str(self.path)

    def git(self, *arguments: str) -> str:
        """Runs git as a fixed author at a fixed time and returns its output."""
        identity = {
            f"GIT_{role}_{name}": value
            for role in ("AUTHOR", "COMMITTER")
            for name, value in (("NAME", "T"), ("EMAIL", "t@example.org"), ("DATE", "2023-01-01T00:00:00Z"))
        }
        environment = {**os.environ, **identity, "GIT_CONFIG_GLOBAL": os.devnull}
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments], env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, files: Mapping[str, str], *, message: str = "change", tag: str | None = None) -> str:
        """Commits these files, and tags the commit if a tag is named."""
        for name, text in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        if tag:
            self.git("tag", "--annotate", "--message", tag, tag)
        return self.git("rev-parse", "HEAD")


class TestBench:
    """One log's view of the engine: makes orders and builds them, and ends its containers when the test is over."""

    __test__ = False

    def __init__(self, *, engine: Engine, settings: BuildSettings, cache_dir: Path, folder: Path) -> None:
        self.engine, self.settings, self.cache_dir, self.folder = engine, settings, cache_dir, folder
        self.log_id = f"log-{uuid.uuid4().hex[:12]}"
        self.owner = f"bench-{uuid.uuid4().hex[:12]}"

    def project(self, name: str = "project") -> GitProject:
        """A new, empty git repository."""
        return GitProject(self.folder / name)

    def order(
        self,
        project: GitProject,
        commit: str,
        *,
        anchor: str | None = None,
        number: int = 1,
        dependencies: tuple[str, ...] = (),
        primary_root: str | None = None,
        log_id: str | None = None,
    ) -> WorkOrder:
        """A work order for one commit; the anchor is that commit itself unless another is named."""
        request = PullRequest(
            owner=self.owner,
            repo=project.path.name,
            issue_number=number,
            sha=commit,
            created_at="2023-01-01T00:00:00Z",
            clone_url=project.clone_url,
            env_payload=json.dumps({"dependencies": list(dependencies)}),
            python_version="3.11",
            primary_root=primary_root,
        )
        return WorkOrder(
            attempt_id=f"attempt-{uuid.uuid4().hex[:12]}",
            log_id=log_id or self.log_id,
            sweep="test",
            stage=Stage.TRY_DEFAULT,
            pull_request=request,
            rules=VerificationRules(),
            anchor=anchor or commit,
        )

    def builder(self, settings: BuildSettings | None = None) -> ImageBuilder:
        """A builder over this bench's cache."""
        return ImageBuilder(engine=self.engine, settings=settings or self.settings, cache_dir=self.cache_dir)

    def build(
        self,
        order: WorkOrder,
        context: DockerContext | None = None,
        *,
        settings: BuildSettings | None = None,
        cancel: threading.Event | None = None,
    ) -> tuple[BuiltImage, str]:
        """Builds an order (with the stock context) and returns the image and all output.

        The output of a build that raises is in the newest file ``build-*.log`` of the bench's folder.
        """
        path = self.folder / f"build-{order.attempt_id}.log"
        with path.open("wb") as log:
            built = self.builder(settings).build(
                order, context or stock_context(), log=log, cancel=cancel or threading.Event()
            )
        return built, path.read_text(encoding="utf-8")

    def output(self, order: WorkOrder) -> str:
        """What the build of an order printed so far."""
        path = self.folder / f"build-{order.attempt_id}.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def clean(self) -> None:
        """Ends this log's containers and removes the images of this bench's projects."""
        reap(self.engine, log_id=self.log_id)
        for project in {path.name for path in self.folder.iterdir() if (path / ".git").exists()}:
            self._remove_images(f"{LABEL_REPOSITORY}={self.owner}/{project}")

    def _remove_images(self, label: str) -> None:
        """Removes the images with a label, children before parents.

        The engine lists images of one second in any order and refuses to remove a parent first; a build that was ended
        may hold its layers for a moment longer.
        """
        api = self.engine.api
        deadline_s = time.monotonic() + 60
        while found := api.images(filters={"label": label}):
            for image in found:
                try:
                    api.remove_image(image["Id"], force=True)
                except NotFound:
                    continue
                except APIError as exc:
                    if exc.status_code != HTTPStatus.CONFLICT or time.monotonic() > deadline_s:
                        raise
            time.sleep(0.05)

    def run(self, image: str, command: str) -> tuple[int, str]:
        """Runs a shell command in a fresh container without network; returns its exit code and output."""
        api = self.engine.api
        made = api.create_container(
            image,
            ["-c", command],
            entrypoint=["/bin/bash"],
            labels={LABEL_LOG: self.log_id, LABEL_TIER: TIER_TEST},
            host_config=api.create_host_config(network_mode="none"),
        )
        try:
            api.start(made["Id"])
            code = int(api.wait(made["Id"])["StatusCode"])
            return code, api.logs(made["Id"]).decode("utf-8", "replace").strip()
        finally:
            self.engine.remove_container(made["Id"])


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The Docker engine of this machine."""
    found = Engine()
    found.require()
    return found


@pytest.fixture(scope="session")
def bench_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder of this test run, in which only the root file systems are those of all runs on this machine."""
    shared = Path(os.environ.get("HEADRACE_TEST_CACHE") or "~/.cache/headrace-tests").expanduser() / "rootfs"
    shared.mkdir(parents=True, exist_ok=True)
    folder = tmp_path_factory.mktemp("bench-cache")
    (folder / "rootfs").symlink_to(shared)
    return folder


@pytest.fixture(scope="session")
def build_settings() -> BuildSettings:
    """Settings that build without an image registry, trusting what this machine trusts."""
    return BuildSettings(provider="debootstrap", ca_bundle=os.environ.get("SSL_CERT_FILE", ""), timeout_s=600)


@pytest.fixture
def bench(engine: Engine, build_settings: BuildSettings, bench_cache: Path, tmp_path: Path) -> Iterator[TestBench]:
    """Builds for one test."""
    made = TestBench(engine=engine, settings=build_settings, cache_dir=bench_cache, folder=tmp_path)
    yield made
    made.clean()
