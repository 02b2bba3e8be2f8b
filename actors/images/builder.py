"""Builds a pull request's image in three tiers: base → repository → pull request.

Every tier has a key, the SHA-256 of all that determines its content, in its tag and label. An image whose key is on
the engine is used and not built again; a lock per key makes threads, processes and sweeps of one node wait for each
other instead of building the same thing twice. A tag is set only at the end of a successful build, so a crash leaves
either a whole image or none. Space is reserved before a build; one that meets a full disk all the same is made again
once, after images that were not used for long made room (``disk.py``).
"""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from actors.images.diagnose import is_disk_full
from actors.images.disk import DiskBudget, steps_key
from actors.images.engine import (
    LABEL_KEY,
    LABEL_LOG,
    LABEL_NODE,
    LABEL_TIER,
    TIER_BASE,
    TIER_BUILDING,
    TIER_PR,
    TIER_REPOSITORY,
    Engine,
    attempt_labels,
    node_of,
)
from actors.images.history import write_history
from actors.images.outcomes import BuildCancelled, BuildFailed, BuiltImage
from actors.images.recipes import (
    DOCKERFILE,
    add_bytes,
    add_tree,
    base_dockerfile,
    build_arguments,
    key_of,
    pr_dockerfile,
    pull_request_facts,
    repository_dockerfile,
    tag_of,
)
from actors.images.root_images import RootImage, root_image
from actors.images.running import BuildRequest, run_build
from actors.settings import BuildSettings, DiskSettings
from events.errors import InfraError, ResolutionRequired, SettingError, UnknownCommit
from events.work import FailureClass, WorkOrder
from store.docker_context import DockerContext
from store.locks import LockWaitCancelled, file_lock
from store.sources import Mirror, SourceCancelled, Sources, clone_url_of

__all__ = ["ImageBuilder"]

Made = TypeVar("Made")


class _Tier(msgspec.Struct, frozen=True):
    image_id: str
    key: str
    image_bytes: int


class _Source(msgspec.Struct, frozen=True, kw_only=True):
    mirror: Mirror
    commit: str
    anchor: str


class _Job(msgspec.Struct, frozen=True, kw_only=True):
    """What goes with one call of ``build``; ``held`` keeps its images from being evicted."""

    log: BinaryIO
    cancel: threading.Event
    held: ExitStack


class ImageBuilder:
    """Builds images on one engine, with the mirrors, root file systems and locks of one node.

    Success: the image is on the engine under its tag. Failure, time-out, cancellation: no image, no container, and the
    shared tiers that were finished stay. A crash leaves at most the container of the step that ran, which ``reap``
    (of a pull request) or ``reap_orphans`` (of a shared tier) ends. Threads may share a builder.
    """

    def __init__(
        self, *, engine: Engine, settings: BuildSettings, cache_dir: Path, disk: DiskSettings | None = None
    ) -> None:
        """``cache_dir``: the node's caches; builders with the same one build shared tiers once between them."""
        self.engine, self.settings, self.cache_dir = engine, settings, cache_dir
        self.sources = Sources(cache_dir)
        self._locks = cache_dir / "locks"
        self.node = node_of(cache_dir)
        self.disk = DiskBudget(engine, settings=disk or DiskSettings(), cache_dir=cache_dir, node=self.node)

    def build(
        self,
        order: WorkOrder,
        context: DockerContext,
        *,
        log: BinaryIO,
        cancel: threading.Event,
        keep: ExitStack | None = None,
    ) -> BuiltImage:
        """Builds the image of one work order, or finds it finished.

        Args:
            order: the pull request, its anchor, and whose attempt it is.
            context: Dockerfile and scripts; the caller resolved ``order.context``.
            log: receives all output as it comes, of the shared tiers too if they are built on this occasion.
            cancel: ends waiting, fetching and building within a second or so when set.
            keep: the images are not evicted before it is closed; without it, not before the call returns.

        Raises:
            BuildFailed: no image, for a reason in source, context or limits.
            BuildCancelled: ``cancel`` was set.
            InfraError: nobody's fault; try again later.
            EnvironmentNotReady: the machine lacks debootstrap.
            InputError: ``ResolutionRequired`` when ``env_payload`` or ``python_version`` is missing; a Python version
                without a base image; an unreadable ``ca_bundle``.
        """
        python_version = _required(order, "python_version", order.pull_request.python_version)
        payload = _required(order, "env_payload", order.pull_request.env_payload)
        source = self._source(order, cancel=cancel)
        with ExitStack() as until_return:
            job = _Job(log=log, cancel=cancel, held=keep or until_return)
            base = self._base(context, python_version=python_version, job=job)
            repository = self._repository(order, source, base=base, job=job)
            return self._pull_request(
                order, context, source=source, repository=repository, payload=payload.encode(), job=job
            )

    def reap_orphans(self) -> list[str]:
        """Ends containers of shared tiers' builds whose builder, on this node, is dead: nobody holds their lock.

        Containers of pull requests' builds are left to ``reap``.

        Returns:
            The ids of the containers that were removed.

        Raises:
            InfraError: the engine is away.
        """
        removed = []
        cancelled = threading.Event()
        cancelled.set()
        for found in self.engine.containers({LABEL_TIER: TIER_BUILDING, LABEL_NODE: self.node}):
            if LABEL_LOG in found["Labels"]:  # of a pull request's build, which inherits the labels of its base
                continue
            try:
                with file_lock(self._locks / f"{found['Labels'][LABEL_KEY]}.lock", cancel=cancelled):
                    self.engine.remove_container(found["Id"])
                    removed.append(str(found["Id"]))
            except LockWaitCancelled:
                continue
        return removed

    def _source(self, order: WorkOrder, *, cancel: threading.Event) -> _Source:
        request = order.pull_request
        try:
            mirror = self.sources.mirror(
                clone_url_of(request), [request.commit, order.anchor], pull_request=request.name, cancel=cancel
            )
        except SourceCancelled as exc:
            raise BuildCancelled(stage="source") from exc
        except UnknownCommit as exc:
            raise BuildFailed(stage="source", message=exc.message, failure_class=FailureClass.RECIPE) from exc
        return _Source(mirror=mirror, commit=mirror.resolve(request.commit), anchor=mirror.resolve(order.anchor))

    def _base(self, context: DockerContext, *, python_version: str, job: _Job) -> _Tier:
        root = self._root(python_version=python_version, job=job)
        authorities = _read_bundle(self.settings.ca_bundle)
        declared, proxies = build_arguments(self.settings)
        key = key_of(
            tier=TIER_BASE,
            root=root.identity,
            python=python_version,
            script=context.build_base_sh,
            ca=hashlib.sha256(authorities).hexdigest(),
            arguments=declared,
            network=self.settings.network,
        )

        def fill(tar: tarfile.TarFile) -> None:
            dockerfile = base_dockerfile(
                root=root.image_id,
                key=key,
                node=self.node,
                python_version=python_version,
                settings=self.settings,
                with_ca=bool(authorities),
            )
            add_bytes(tar, DOCKERFILE, dockerfile.encode())
            add_bytes(tar, "docker_build_base.sh", context.build_base_sh.encode(), mode=0o755)
            if authorities:
                add_bytes(tar, "headrace/ca.crt", authorities)

        request = BuildRequest(
            stage="base",
            tag=tag_of("base", python_version, key=key),
            arguments=declared | proxies,
        )
        return self._once(request, key=key, fill=fill, job=job)[0]

    def _root(self, *, python_version: str, job: _Job) -> RootImage:
        """The root image, made again if it was evicted before it could be held."""
        try:
            self.disk.relieve(cancel=job.cancel)
            root = self._found_root(python_version=python_version, job=job)
            job.held.enter_context(self.disk.held(root.identity, cancel=job.cancel))
            if self.engine.image(root.image_id) is None:
                root = self._found_root(python_version=python_version, job=job)
        except LockWaitCancelled as exc:
            raise BuildCancelled(stage="base") from exc
        return root

    def _found_root(self, *, python_version: str, job: _Job) -> RootImage:
        return self._mended(
            lambda: root_image(
                self.engine,
                settings=self.settings,
                python_version=python_version,
                cache_dir=self.cache_dir,
                log=job.log,
                cancel=job.cancel,
            ),
            job=job,
        )

    def _repository(self, order: WorkOrder, source: _Source, *, base: _Tier, job: _Job) -> _Tier:
        name = order.pull_request.repository
        key = key_of(tier=TIER_REPOSITORY, base=base.key, url=source.mirror.clone_url, anchor=source.anchor)

        def fill(tar: tarfile.TarFile) -> None:
            dockerfile = repository_dockerfile(base=base.image_id, key=key, node=self.node, name=name)
            add_bytes(tar, DOCKERFILE, dockerfile.encode())
            self._add_history(tar, source.mirror, commit=source.anchor)

        request = BuildRequest(
            stage="repository",
            tag=tag_of("repo", name, key=key),
            arguments={},
        )
        return self._once(request, key=key, fill=fill, job=job)[0]

    def _pull_request(
        self,
        order: WorkOrder,
        context: DockerContext,
        *,
        source: _Source,
        repository: _Tier,
        payload: bytes,
        job: _Job,
    ) -> BuiltImage:
        declared, proxies = build_arguments(self.settings)
        facts = pull_request_facts(order, commit=source.commit)
        digest = context.digest
        key = key_of(
            tier=TIER_PR,
            repository=repository.key,
            commit=source.commit,
            context=digest,
            payload=hashlib.sha256(payload).hexdigest(),
            facts=facts.decode(),
            arguments=declared,
            network=self.settings.network,
        )
        follows = source.mirror.is_ancestor(source.anchor, source.commit)
        dockerfile = pr_dockerfile(
            repository=repository.image_id,
            order=order,
            context=context,
            settings=self.settings,
            replace_history=not follows,
            labels={
                **attempt_labels(order, tier=TIER_PR, context_digest=digest),
                LABEL_KEY: key,
                LABEL_NODE: self.node,
            },
        )

        def fill(tar: tarfile.TarFile) -> None:
            add_bytes(tar, DOCKERFILE, dockerfile.encode())
            for name, text in context.files.items():
                add_bytes(tar, name, text.encode(), mode=0o755 if name.endswith(".sh") else 0o644)
            add_bytes(tar, "headrace/env_payload.json", payload)
            add_bytes(tar, "headrace/pull_request.json", facts)
            self._add_history(tar, source.mirror, commit=source.commit, beyond=source.anchor if follows else None)

        request = BuildRequest(
            stage="build",
            tag=tag_of("pr", f"{order.pull_request.repository}-{order.pull_request.issue_number}", key=key),
            arguments=declared | proxies,
        )
        steps = steps_key(log_id=order.log_id, pull_request=order.pull_request.name)
        tier, build_s = self._once(request, key=key, fill=fill, job=job, steps=steps)
        return BuiltImage(
            image_id=tier.image_id,
            tag=request.tag,
            image_bytes=tier.image_bytes,
            build_s=build_s or 0.0,
            reused=build_s is None,
            parent_id=repository.image_id,
            mirror=source.mirror,
            commit=source.commit,
        )

    def _once(
        self,
        request: BuildRequest,
        *,
        key: str,
        fill: Callable[[tarfile.TarFile], None],
        job: _Job,
        steps: str = "",
    ) -> tuple[_Tier, float | None]:
        """The image of a key, built unless it is there; with the seconds that the build took, ``None`` without one.

        ``steps``: what to hold besides for the steps of the build.
        """
        try:
            for hold in filter(None, (key, steps)):
                job.held.enter_context(self.disk.held(hold, cancel=job.cancel))
            found = self._finished(request.tag, key=key)
            if found is not None:
                return found, None
            with file_lock(self._locks / f"{key}.lock", cancel=job.cancel):
                found = self._finished(request.tag, key=key)
                if found is not None:
                    return found, None
                job.log.write(f"### {request.stage}: {request.tag}\n".encode())
                with self.disk.reserved(request.tag, cancel=job.cancel):
                    started_s = time.monotonic()
                    self._mended(lambda: self._run(request, fill=fill, job=job), job=job)
                    build_s = time.monotonic() - started_s
                found = self._finished(request.tag, key=key)
        except LockWaitCancelled as exc:
            raise BuildCancelled(stage=request.stage) from exc
        if found is None:
            raise InfraError(f"{request.tag} is gone just after its build; does something prune images on this engine?")
        return found, build_s

    def _run(self, request: BuildRequest, *, fill: Callable[[tarfile.TarFile], None], job: _Job) -> str:
        return run_build(self.engine, request, settings=self.settings, fill=fill, log=job.log, cancel=job.cancel)

    def _mended(self, make: Callable[[], Made], *, job: _Job) -> Made:
        """What ``make`` makes; made again, once, if the disk was full and images could be evicted."""
        try:
            return make()
        except InfraError as exc:
            if not is_disk_full(exc.message):
                raise
            room = self.disk.make_room(cancel=job.cancel)
            if not room.evicted:
                raise
            freed = f"{len(room.evicted)} images and steps of builds evicted, {room.freed_bytes >> 20} MiB"
            job.log.write(f"### the disk was full ({exc.message}); {freed}; once more\n".encode())
        return make()

    def _finished(self, tag: str, *, key: str) -> _Tier | None:
        image = self.engine.image(tag)
        if image is None or (image["Config"].get("Labels") or {}).get(LABEL_KEY) != key:
            return None
        return _Tier(image_id=str(image["Id"]), key=key, image_bytes=int(image["Size"]))

    def _add_history(self, tar: tarfile.TarFile, mirror: Mirror, *, commit: str, beyond: str | None = None) -> None:
        with tempfile.TemporaryDirectory(prefix="headrace-history-") as folder:
            write_history(mirror, commit=commit, folder=Path(folder), beyond=beyond)
            add_tree(tar, "headrace/git", Path(folder))


def _required(order: WorkOrder, field: str, value: str | None) -> str:
    if not value:
        raise ResolutionRequired(pull_request=order.pull_request.name, field=field, problem="is missing")
    return value


def _read_bundle(path: str) -> bytes:
    if not path:
        return b""
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as exc:
        raise SettingError(
            name="build.ca_bundle", value=path, expected=f"a readable PEM file ({exc.strerror})", source="settings"
        ) from exc
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise SettingError(name="build.ca_bundle", value=path, expected="a PEM file of certificates", source="settings")
    return data
