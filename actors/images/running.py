"""One build on the engine: output streamed as it comes, and an end that ends the container too.

Closing the connection makes the engine stop the build; engines have been seen to leave the step's container running
all the same, so it is looked for by the id that the output announced, and removed, before the call returns.
"""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, BinaryIO

import msgspec
import requests
from docker.errors import APIError
from docker.types.daemon import CancellableStream

from actors.images.build_limits import step_limits
from actors.images.diagnose import diagnose, exit_code_of, tail_of
from actors.images.engine import Engine
from actors.images.index_network import Gate, build_network, is_outside
from actors.images.outcomes import BuildCancelled, BuildFailed
from actors.images.recipes import DOCKERFILE
from actors.settings import BuildSettings
from events.errors import InfraError
from events.work import FailureClass

__all__ = ["BuildRequest", "run_build"]

POLL_S = 0.1
READ_MARGIN_S = 120.0
KEPT_CHARS = 1 << 20
RUNNING_IN = re.compile(r"^ ---> Running in ([0-9a-f]{12,64})\s*$", re.MULTILINE)
MEBIBYTE = 1 << 20


class BuildRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to build: the ``stage`` that it is for messages, its tag and its arguments."""

    stage: str
    tag: str
    arguments: dict[str, str]


def run_build(
    engine: Engine,
    request: BuildRequest,
    *,
    settings: BuildSettings,
    fill: Callable[[tarfile.TarFile], None],
    log: BinaryIO,
    cancel: threading.Event,
) -> str:
    """Builds an image and returns its id.

    Args:
        engine: where.
        request: what.
        settings: for the limits of its steps, network and the time-out.
        fill: writes the files of the build into the tar, ``headrace/Dockerfile`` among them.
        log: receives the output as it comes.
        cancel: ends the build when set.

    Raises:
        BuildFailed: with the real error, or with ``FailureClass.TIMEOUT`` after ``settings.timeout_s`` seconds.
        BuildCancelled: ``cancel`` was set.
        InfraError: the engine is away, the disk is full, a registry or index cannot be reached.
    """
    with tempfile.TemporaryFile(prefix="headrace-build-") as spool:
        try:
            with tarfile.open(fileobj=spool, mode="w", format=tarfile.GNU_FORMAT) as tar:
                fill(tar)
        except OSError as exc:
            raise InfraError(f"cannot write the build's files ({exc.strerror}); free disk space") from exc
        spool.seek(0)
        build = _Build(engine, request, settings=settings, log=log, cancel=cancel)
        return build.run(spool)


class _Build:
    """One build under way. ``why`` is set once, by the watcher, when the build is ended from our side."""

    def __init__(
        self, engine: Engine, request: BuildRequest, *, settings: BuildSettings, log: BinaryIO, cancel: threading.Event
    ) -> None:
        self.engine, self.request, self.settings = engine, request, settings
        self.log, self.cancel = log, cancel
        self.why: str | None = None
        self.output = ""
        self.error = ""
        self.image_id = ""
        self.started: list[str] = []
        self.response: Any = None
        self.gate = Gate(network=settings.network)
        self.lowest_free_bytes: int | None = None

    def run(self, spool: BinaryIO) -> str:
        api = self.engine.new_api()
        api.hooks["response"].append(self._remember)
        self.data_folder = self.engine.data_folder
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(ended,), name="headrace-build-watch", daemon=True)
        watcher.start()
        lost: InfraError | None = None
        try:
            with (
                build_network(self.engine, self.settings) as self.gate,
                step_limits(self.engine, self.settings) as limits,
                self.engine.translated(f"build {self.request.tag}"),
            ):
                api.params = limits
                for entry in self._stream(api, spool):
                    self._take(entry)
        except InfraError as exc:
            lost = exc
            if isinstance(exc.__cause__, APIError) and exc.__cause__.status_code == requests.codes.bad_request:
                self._take({"error": str(exc.__cause__.explanation)})
                lost = None
        finally:
            ended.set()
            watcher.join()
            api.close()
        if self.why is not None:
            self._remove_containers()
            raise self._ended()
        if lost is not None:
            raise lost
        if self.error or not self.image_id:
            raise self._failure()
        return self.image_id

    def _stream(self, api: Any, spool: BinaryIO) -> Iterator[Mapping[str, Any]]:
        limit = self.settings.memory_mb * MEBIBYTE
        stream: Iterator[Mapping[str, Any]] = api.build(
            fileobj=spool,
            custom_context=True,
            dockerfile=DOCKERFILE,
            tag=self.request.tag,
            buildargs=self.request.arguments | self.gate.arguments,
            container_limits={"memory": limit, "memswap": limit},
            network_mode=self.gate.network,
            timeout=self.settings.timeout_s + READ_MARGIN_S,
            use_config_proxy=False,
            pull=False,
            rm=True,
            forcerm=True,
            decode=True,
        )
        return stream

    def _remember(self, response: Any, *_: object, **__: object) -> None:
        self.response = response

    def _take(self, entry: Mapping[str, Any]) -> None:
        text = str(entry.get("stream") or "")
        if "error" in entry:
            self.error = text = str(entry["error"]).strip()
            text += "\n"
        elif isinstance(entry.get("aux"), dict) and entry["aux"].get("ID"):
            self.image_id = str(entry["aux"]["ID"])
        self.log.write(text.encode("utf-8", "replace"))
        self.log.flush()
        self.started += RUNNING_IN.findall(text)
        if "error" not in entry:
            self.output = (self.output + text)[-KEPT_CHARS:]

    def _watch(self, ended: threading.Event) -> None:
        deadline_s = time.monotonic() + self.settings.timeout_s
        while not ended.wait(POLL_S):
            self._look_at_disk()
            if self.why is None:
                if self.cancel.is_set():
                    self.why = "cancelled"
                elif time.monotonic() > deadline_s:
                    self.why = "timeout"
            if self.why is not None and self.response is not None:
                with suppress(OSError, AttributeError):
                    CancellableStream(iter(()), self.response).close()
                return

    def _look_at_disk(self) -> None:
        """Remembers when the engine's disk was fullest: a step that failed for want of space gives its own back."""
        if self.data_folder is not None:
            with suppress(OSError):
                system = os.statvfs(self.data_folder)
                no_inodes = system.f_files > 0 and system.f_favail == 0
                free = 0 if no_inodes else system.f_bavail * system.f_frsize
                lowest = self.lowest_free_bytes
                self.lowest_free_bytes = free if lowest is None else min(free, lowest)

    def _remove_containers(self) -> None:
        for container in self.started[-1:]:
            self.engine.remove_container(container)

    def _ended(self) -> Exception:
        if self.why == "cancelled":
            return BuildCancelled(stage=self.request.stage)
        return BuildFailed(
            stage=self.request.stage,
            message=f"the build took longer than {self.settings.timeout_s:g} s (setting build.timeout_s) and was ended",
            failure_class=FailureClass.TIMEOUT,
            log_tail=tail_of(self.output),
        )

    def _failure(self) -> Exception:
        """The verdict on a build that the engine ended without an image. A dying engine breaks steps: ask it first."""
        if not self.engine.answers():
            return InfraError(f"the Docker engine went away during the build of {self.request.tag}")
        found = diagnose(self.output, engine_error=self.error, lowest_free_bytes=self.lowest_free_bytes)
        if found.failure_class is FailureClass.INFRA and is_outside(found.message, network=self.settings.network):
            found = msgspec.structs.replace(found, failure_class=FailureClass.RECIPE)
        if found.failure_class is FailureClass.INFRA or not self.error:
            return InfraError(f"{self.request.stage}: {found.message}")
        return BuildFailed(
            stage=self.request.stage,
            message=found.message + self.gate.explanation,
            failure_class=found.failure_class,
            log_tail=tail_of(self.output + self.error),
            exit_code=exit_code_of(self.error),
        )
