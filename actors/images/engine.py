"""The Docker engine: a connection a thread, one place that translates its errors, and the labels that we give things.

Success: the call happened. ``InfraError``: the engine, its disk or its registry refused or is away; the call may have
happened, so every use here can be repeated. An engine that restarts is found again by the next call.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import docker
import requests
import urllib3
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.utils import kwargs_from_env

from events.errors import EnvironmentNotReady, InfraError
from events.work import WorkOrder

__all__ = [
    "LABEL_ATTEMPT",
    "LABEL_CONTEXT",
    "LABEL_KEY",
    "LABEL_LOG",
    "LABEL_NODE",
    "LABEL_PR",
    "LABEL_REPOSITORY",
    "LABEL_SWEEP",
    "LABEL_TIER",
    "TIER_BASE",
    "TIER_BUILDING",
    "TIER_PR",
    "TIER_REPOSITORY",
    "TIER_TEST",
    "Engine",
    "attempt_labels",
    "filters_system_calls",
    "node_of",
    "reap",
]

LABEL_TIER = "headrace.tier"
LABEL_LOG = "headrace.log"
LABEL_SWEEP = "headrace.sweep"
LABEL_REPOSITORY = "headrace.repository"
LABEL_PR = "headrace.pr"
LABEL_CONTEXT = "headrace.context"
LABEL_ATTEMPT = "headrace.attempt"
LABEL_KEY = "headrace.key"
LABEL_NODE = "headrace.node"

TIER_BASE = "base"
TIER_REPOSITORY = "repository"
TIER_PR = "pr"
TIER_TEST = "test"
"""On containers in which a verification runs."""
TIER_BUILDING = "building"
"""On containers that the engine makes for the steps of a build, and on images without an end of their own."""

TIMEOUT_S = 60.0


class Engine:
    """The Docker engine that the environment names (``DOCKER_HOST``, ``DOCKER_TLS_VERIFY``, ``DOCKER_CERT_PATH``).

    Making one contacts nobody; threads may share it. After a fork or in another process make a new one.
    """

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        """``timeout_s``: how long any one answer of the engine may take."""
        self.timeout_s = timeout_s
        self.warned = False
        """Whether it was logged that this engine does not filter system calls."""
        self._local = threading.local()

    @property
    def api(self) -> docker.APIClient:
        """This thread's low-level client. Use it inside ``translated`` so that its errors become ours.

        Raises:
            InfraError: the engine does not answer.
        """
        client = getattr(self._local, "api", None)
        if client is None:
            client = self._local.api = self.new_api()
        return client

    def new_api(self) -> docker.APIClient:
        """A client of its own, for a call whose connection may have to be closed from another thread."""
        with self.translated("connect to the Docker engine"):
            return docker.APIClient(version="auto", timeout=self.timeout_s, **kwargs_from_env())

    def require(self) -> str:
        """The engine's version.

        Raises:
            EnvironmentNotReady: no engine answers, with what to do.
        """
        try:
            with self.translated("ask the Docker engine for its version"):
                return str(self.api.version()["Version"])
        except InfraError as exc:
            raise EnvironmentNotReady(
                f"{exc.message}; start Docker or set DOCKER_HOST (`headrace doctor` tells more)"
            ) from exc

    def answers(self) -> bool:
        """Whether the engine answers a ping now."""
        try:
            with self.translated("ping the Docker engine"):
                return bool(self.api.ping())
        except InfraError:
            return False

    @staticmethod
    @contextmanager
    def translated(doing: str) -> Iterator[None]:
        """Turns whatever ``docker``, ``requests`` or ``urllib3`` raise inside into an ``InfraError``.

        Args:
            doing: the attempted action, as in ``cannot {doing}: …``.
        """
        try:
            yield
        except APIError as exc:
            raise InfraError(f"cannot {doing}: {exc.explanation or exc}") from exc
        except (DockerException, requests.RequestException, urllib3.exceptions.HTTPError, OSError) as exc:
            raise InfraError(f"cannot {doing}: {_innermost(exc)}") from exc

    @cached_property
    def filters_system_calls(self) -> bool:
        """Whether containers run under the engine's default seccomp profile; asked once.

        Raises:
            InfraError: the engine is away.
        """
        with self.translated("ask the Docker engine about itself"):
            return filters_system_calls(self.api.info())

    @cached_property
    def data_folder(self) -> Path | None:
        """Where the engine keeps images and containers, when that is on this machine; asked once.

        Raises:
            InfraError: the engine is away.
        """
        with self.translated("ask the Docker engine about itself"):
            folder = Path(str(self.api.info()["DockerRootDir"]))
            local = self.api.base_url.startswith("http+docker:")
        return folder if local and folder.is_dir() else None

    @cached_property
    def control_group_driver(self) -> str:
        """``cgroupfs`` or ``systemd``; asked once.

        Raises:
            InfraError: the engine is away.
        """
        with self.translated("ask the Docker engine about itself"):
            return str(self.api.info().get("CgroupDriver") or "")

    def image(self, name: str) -> dict[str, Any] | None:
        """What the engine knows about an image (``docker inspect``), or ``None`` if it has none of that name or id."""
        with self.translated(f"inspect image {name}"):
            try:
                return dict(self.api.inspect_image(name))
            except ImageNotFound:
                return None

    def containers(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """Running and stopped containers that carry all these labels (``docker ps`` entries)."""
        with self.translated("list containers"):
            wanted = [f"{name}={value}" for name, value in labels.items()]
            return list(self.api.containers(all=True, filters={"label": wanted}))

    def remove_container(self, container: str, *, wait_s: float = 30.0) -> None:
        """Kills and removes a container with its anonymous volumes, and returns when it is gone.

        One that is gone already, or that somebody else removes, is no error.

        Raises:
            InfraError: it is still there after ``wait_s`` seconds, or the engine is away.
        """
        with self.translated(f"remove container {container[:12]}"):
            try:
                self.api.remove_container(container, force=True, v=True)
            except NotFound:
                return
            except APIError as exc:
                if exc.status_code != requests.codes.conflict:
                    raise
                with suppress(NotFound):
                    self.api.wait(container, timeout=wait_s, condition="removed")


def filters_system_calls(info: Mapping[str, Any]) -> bool:
    """Whether an engine's description of itself (``docker info``) names a seccomp profile, and not ``unconfined``."""
    options = [str(option) for option in info.get("SecurityOptions") or []]
    return any(option.startswith("name=seccomp") and "unconfined" not in option for option in options)


def node_of(cache_dir: Path) -> str:
    """The value of ``LABEL_NODE`` on what is built with the caches and locks of that folder."""
    return hashlib.sha256(str(cache_dir.resolve()).encode()).hexdigest()[:16]


def attempt_labels(order: WorkOrder, *, tier: str, context_digest: str) -> dict[str, str]:
    """The labels of what one attempt makes: its image (``TIER_PR``) or its test container (``TIER_TEST``).

    A container inherits its image's labels, and the image may be another log's: give a container all of these.
    """
    return {
        LABEL_TIER: tier,
        LABEL_LOG: order.log_id,
        LABEL_SWEEP: order.sweep,
        LABEL_REPOSITORY: order.pull_request.repository,
        LABEL_PR: order.pull_request.name,
        LABEL_CONTEXT: context_digest,
        LABEL_ATTEMPT: order.attempt_id,
    }


def reap(
    engine: Engine,
    *,
    log_id: str,
    attempts: set[str] | None = None,
    pull_requests: set[str] | None = None,
) -> list[str]:
    """Ends what interrupted attempts of one log left on the engine: test containers and containers of build steps.

    Only containers labelled with this log are looked at, so another sweep's are safe. Containers of build steps carry
    their pull request and no attempt (an attempt in a label would spoil the engine's build cache).

    Args:
        engine: where to look.
        log_id: the log whose attempts were interrupted; none of those named may still be running.
        attempts: ids whose test containers go; ``None``: all of the log.
        pull_requests: names (``owner/repo#1``) whose build containers go; ``None``: all of the log.

    Returns:
        The ids of the containers that were removed.

    Raises:
        InfraError: the engine is away; call it again.
    """
    removed = []
    for tier, label, wanted in ((TIER_TEST, LABEL_ATTEMPT, attempts), (TIER_BUILDING, LABEL_PR, pull_requests)):
        for found in engine.containers({LABEL_LOG: log_id, LABEL_TIER: tier}):
            if wanted is None or found["Labels"].get(label) in wanted:
                engine.remove_container(found["Id"])
                removed.append(str(found["Id"]))
    return removed


def _innermost(exc: BaseException) -> str:
    """The first error of a chain: libraries wrap ``[Errno 2] No such file …`` four times over."""
    while exc.__cause__ is not None or exc.__context__ is not None:
        exc = exc.__cause__ or exc.__context__ or exc
    return str(exc) or type(exc).__name__
