"""Runs one command in a fresh container of an image, within limits, and tells how it ended.

Guarantees:

* The container has no network, bounded memory (no swap), processors and processes, no new privileges, nothing of this
  host's environment, and none of the image's: the command gets the environment given here. From the host it sees
  Headrace's scripts, read-only, and single files for its results, which it can fill but not replace by links.
* When the call returns or raises, the container is gone from the engine, unless the engine itself is away.
* The wall-clock limit ends the container, not only this client. Process 1 keeps a deadline of its own a little later,
  so that a container whose Headrace was killed ends too; its remains carry labels by which ``reap`` finds them.
* Output goes into a log file as it comes, up to a cap; the engine's own disk gets none of it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import msgspec
import requests
from docker.errors import APIError
from docker.types import LogConfig, Mount
from loguru import logger

from actors.images.engine import Engine
from actors.verifier.memory import PeakMemory
from events.errors import InfraError

__all__ = ["CHECKOUT", "ENVIRONMENT", "PYTHON", "SCRIPTS", "CannotStart", "Ended", "Limits", "run_in_container"]

CHECKOUT = "/workspace/repo"
PYTHON = "/opt/venv/bin/python"
SCRIPTS = "/headrace/inside"
"""Where ``actors/verifier/inside`` is mounted."""

ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/opt/venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
    "VIRTUAL_ENV": "/opt/venv",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONUNBUFFERED": "1",
}
"""The whole environment of a verification command."""

MAX_LOG_BYTES = 64 * 1024 * 1024
DEADLINE_GRACE_S = 5.0
"""How much later than the limit the deadline inside is: seconds for this side to end the container first."""
STOP_S = 30.0
POLL_S = 0.1
KILLED = 137
"""Exit code of a process 1 that was killed. Nothing inside a container can kill it: the engine or the kernel did."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one command may use."""

    wall_s: float
    memory_bytes: int
    cpus: float
    pids: int


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended.

    ``exit_code`` is process 1's (see ``inside/keeper.py``), ``None`` when it was ended from here: by its wall-clock
    limit (``timed_out``) or by ``cancelled``. ``oom_killed``: the kernel ended a process of it for want of memory.
    ``peak_memory_bytes``: the largest use without file cache that was seen, sampled; the limit if that was hit.
    """

    exit_code: int | None
    timed_out: bool
    cancelled: bool
    oom_killed: bool
    wall_s: float
    peak_memory_bytes: int | None


class CannotStart(Exception):
    """The image has no usable Python at the agreed place."""


def run_in_container(
    engine: Engine,
    *,
    image: str,
    command: Sequence[str],
    folder: str,
    limits: Limits,
    labels: Mapping[str, str],
    results: Mapping[str, Path],
    log: Path,
    cancel: threading.Event,
    max_log_bytes: int = MAX_LOG_BYTES,
) -> Ended:
    """Runs ``command`` in a new container and waits for its end.

    Args:
        engine: where to run it.
        image: id of the image.
        command: absolute path of a program in the image, and its arguments.
        folder: the command's working folder in the image.
        limits: what it may use.
        labels: put on the container; they replace the image's of the same names.
        results: files made here, empty, by the path under which the command can write each.
        log: file that the output is written to as it comes.
        cancel: ends the container within about a second once set.
        max_log_bytes: output beyond this is dropped, with a note in the log.

    Raises:
        CannotStart: the image has no ``PYTHON``.
        InfraError: the engine refused, went away, or ended the container by itself.
    """
    for path in results.values():
        path.write_bytes(b"")
    with engine.translated(f"create a test container of {image[:19]}"):
        container = _create(
            engine.api, image=image, command=command, folder=folder, limits=limits, labels=labels, results=results
        )
    try:
        with _Output(engine, container=container, log=log, max_bytes=max_log_bytes) as output:
            _start(engine, container)
            return _wait(engine, container, limits=limits, output=output, cancel=cancel)
    finally:
        try:
            engine.remove_container(container)
        except InfraError as exc:
            logger.warning("test container {} is left for reap: {}", container[:12], exc.message)


def _create(
    api: docker.APIClient,
    *,
    image: str,
    command: Sequence[str],
    folder: str,
    limits: Limits,
    labels: Mapping[str, str],
    results: Mapping[str, Path],
) -> str:
    scripts = Path(__file__).parent / "inside"
    mounts = [Mount(SCRIPTS, str(scripts), type="bind", read_only=True)]
    mounts += [Mount(target, str(source.resolve()), type="bind") for target, source in results.items()]
    environment = msgspec.json.encode(dict(ENVIRONMENT)).decode()
    deadline = f"{limits.wall_s + DEADLINE_GRACE_S:g}"
    created = api.create_container(
        image,
        entrypoint=[PYTHON, "-I", "-S", "-B", f"{SCRIPTS}/keeper.py"],
        command=[deadline, folder, environment, *command],
        environment={"LD_PRELOAD": "", "LD_LIBRARY_PATH": ""},
        working_dir="/",
        user="0:0",
        hostname="headrace",
        labels=dict(labels),
        healthcheck={"test": ["NONE"]},
        stop_timeout=1,
        host_config=api.create_host_config(
            network_mode="none",
            mem_limit=limits.memory_bytes,
            memswap_limit=limits.memory_bytes,
            nano_cpus=int(limits.cpus * 1e9),
            pids_limit=limits.pids,
            security_opt=["no-new-privileges:true"],
            log_config=LogConfig(type="none"),
            mounts=mounts,
        ),
    )
    return str(created["Id"])


def _start(engine: Engine, container: str) -> None:
    with engine.translated(f"start test container {container[:12]}"):
        try:
            engine.api.start(container)
        except APIError as exc:
            if f'exec: "{PYTHON}"' in str(exc.explanation):
                raise CannotStart(f"the image has no Python at {PYTHON}") from exc
            raise


def _wait(engine: Engine, container: str, *, limits: Limits, output: _Output, cancel: threading.Event) -> Ended:
    began = time.monotonic()
    timed_out = cancelled = False
    with PeakMemory(engine, container=container) as peak:
        while True:
            if output.ended.wait(POLL_S):
                if not _state(engine, container)["Running"]:
                    break
                cancel.wait(POLL_S)
            timed_out, cancelled = time.monotonic() - began >= limits.wall_s, cancel.is_set()
            if timed_out or cancelled:
                _kill(engine, container)
                break
    wall_s = time.monotonic() - began
    output.raise_if_broken()
    state = _state(engine, container)
    oom_killed = bool(state["OOMKilled"])
    if not (timed_out or cancelled or oom_killed) and state["ExitCode"] == KILLED:
        raise InfraError(f"test container {container[:12]} was ended from outside; the attempt can be repeated")
    return Ended(
        exit_code=None if timed_out or cancelled else int(state["ExitCode"]),
        timed_out=timed_out,
        cancelled=cancelled and not timed_out,
        oom_killed=oom_killed,
        wall_s=wall_s,
        peak_memory_bytes=limits.memory_bytes if oom_killed else peak.bytes,
    )


def _kill(engine: Engine, container: str) -> None:
    """Kills process 1 and returns when the container has stopped; one that stopped by itself meanwhile is no error."""
    with engine.translated(f"kill test container {container[:12]}"):
        try:
            engine.api.kill(container)
        except APIError as exc:
            if exc.status_code != requests.codes.conflict:
                raise
        engine.api.wait(container, timeout=STOP_S)


def _state(engine: Engine, container: str) -> dict[str, Any]:
    with engine.translated(f"inspect test container {container[:12]}"):
        return dict(engine.api.inspect_container(container)["State"])


class _Output:
    """Copies a container's output into a file, in a thread; ``ended`` is set when the container's streams closed."""

    def __init__(self, engine: Engine, *, container: str, log: Path, max_bytes: int) -> None:
        self.ended = threading.Event()
        self._engine, self._container, self._log, self._max_bytes = engine, container, log, max_bytes
        self._error: OSError | None = None

    def __enter__(self) -> _Output:
        self._api = self._engine.new_api()
        with self._engine.translated(f"attach to test container {self._container[:12]}"):
            self._stream = self._api.attach(self._container, stdout=True, stderr=True, stream=True)
        self._thread = threading.Thread(target=self._copy, name=f"output-{self._container[:12]}", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.ended.wait(POLL_S):
            with suppress(OSError, docker.errors.DockerException):
                self._stream.close()
        self._thread.join(STOP_S)
        self._api.close()

    def raise_if_broken(self) -> None:
        """Raises:
        InfraError: the log could not be written (disk full).
        """
        if self._error is not None:
            raise InfraError(f"cannot write {self._log.name}: {self._error.strerror}") from self._error

    def _copy(self) -> None:
        left, cut = self._max_bytes, False
        try:
            with self._log.open("wb", buffering=0) as file:
                for chunk in self._stream:
                    file.write(chunk[:left])
                    if len(chunk) > left and not cut:
                        cut = True
                        file.write(f"\nheadrace: output cut after {self._max_bytes} bytes\n".encode())
                    left -= min(left, len(chunk))
        except OSError as exc:
            self._error = exc
        finally:
            self.ended.set()
