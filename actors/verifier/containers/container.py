"""Runs one command in a fresh container of an image, within limits, and tells how it ended.

Guarantees:

* The container has no network unless the settings name one, bounded memory (no swap), processors, processes, open
  files, shared memory and disk, no new privileges, no devices, and of root's powers only those in ``CAPABILITIES``.
* It gets nothing of this host's environment and none of the image's: the command gets the environment given here, and
  process 1 none. From the host it sees Headrace's scripts and what the caller mounts, read-only, and its results.
* What the image has in the folders for temporary files is not there: they are fresh volumes of this container.
* When the call returns or raises, the container is gone from the engine, unless the engine itself is away.
* The wall-clock limit ends the container, not only this client. Process 1 keeps a deadline of its own a little later,
  so that a container whose Headrace was killed ends too; its remains carry labels by which ``reap`` finds them.
* Output goes into a log file as it comes, up to a cap; the engine's own disk gets none of it.
"""

from __future__ import annotations

import io
import tarfile
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
import msgspec
import requests
from docker.errors import APIError
from docker.types import LogConfig, Mount, Ulimit
from loguru import logger

from actors.images.engine import Engine
from actors.verifier.containers.channel import ChannelMaker, MountedFiles
from actors.verifier.containers.disk_watch import HOST_FULL_BYTES, DiskWatch
from actors.verifier.containers.memory import PeakMemory
from actors.verifier.containers.output import Output
from actors.verifier.containers.pids_watch import PidsWatch
from events.errors import InfraError

__all__ = [
    "BYTECODE_PREFIX",
    "CAPABILITIES",
    "CHECKOUT",
    "ENVIRONMENT",
    "PYTHON",
    "SCRIPTS",
    "CannotStart",
    "Ended",
    "Limits",
    "run_in_container",
]

CHECKOUT = "/workspace/repo"
PYTHON = "/opt/venv/bin/python"
SCRIPTS = "/headrace/inside"
"""Where ``actors/verifier/containers/inside`` is mounted."""
KEEPER = f"{SCRIPTS}/keeper.py"
BYTECODE = "/headrace/bytecode"
"""Where byte code is mounted that was compiled from genuine sources (``bytecode.py``)."""
BYTECODE_PREFIX = "/tmp/headrace-pycache"  # noqa: S108 - inside the container
"""Where commands look for byte code: of a container's own, with what is mounted linked into it."""
TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - inside the container
"""Fresh volumes rather than tmpfs, whose content would count as memory: honest tests write large temporary files."""

CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID")
"""What honest tests, which run as root, use of a root's powers.

Unpacking archives sets owners (CHOWN) and times and modes of files that then are another user's (FOWNER, DAC_OVERRIDE);
tests of servers that refuse to run as root change to a user (SETUID, SETGID) and end what they started (KILL). Left out
of the engine's own list: MKNOD, SYS_CHROOT, SETFCAP, SETPCAP, FSETID, AUDIT_WRITE and NET_RAW, which ordinary users do
without too, and NET_BIND_SERVICE, which the engine's containers do not need to bind low ports.
"""

ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/opt/venv/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin",
    "VIRTUAL_ENV": "/opt/venv",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PYTHONPYCACHEPREFIX": BYTECODE_PREFIX,  # compiled code of the image is never used
    "PYTHONUNBUFFERED": "1",
}
"""The whole environment of a verification command."""

MAX_LOG_BYTES = 64 * 1024 * 1024
DISK_BYTES = 4096 * 1024 * 1024
SHARED_MEMORY_BYTES = 256 * 1024 * 1024
"""Size of ``/dev/shm``; what lies there counts as memory as well."""
OPEN_FILES = 4096
"""Four times what a login shell has; an engine cannot give more than it was given itself."""
DEADLINE_GRACE_S = 5.0
"""How much later than the limit the deadline inside is: seconds for this side to end the container first."""
STOP_S = 30.0
INTERPRETER = (PYTHON, "-I", "-S", "-B", "-X")
"""Of process 1, which reads no byte code of the image: its prefix lies in a read-only mount, where the image has
nothing, or in the first of the folders of genuine byte code."""
POLL_S = 0.1
KILLED = 137
"""Exit code of a process 1 that was killed. Nothing inside a container can kill it: the engine or the kernel did."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one command may use."""

    wall_s: float
    memory_bytes: int
    cpus: float
    pids: int
    disk_bytes: int = DISK_BYTES


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended.

    ``exit_code`` is process 1's (see ``inside/keeper.py``), ``None`` when it was ended from here: by its wall-clock
    limit (``timed_out``), because it wrote more than it may (``disk_full``), or by ``cancelled``. ``oom_killed``: the
    kernel ended a process of it for want of memory. ``disk_full`` is set too when a command that ended by itself had
    written that much. ``pids_exhausted``: a process or thread could not be made at the limit; an engine on another host
    does not tell. ``peak_memory_bytes``: the largest use without file cache that was seen, sampled; the limit if that
    was hit.
    """

    exit_code: int | None
    timed_out: bool
    cancelled: bool
    oom_killed: bool
    disk_full: bool = False
    pids_exhausted: bool = False
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
    files: Mapping[str, bytes | None] | None = None,
    executables: Collection[str] = (),
    extra_mounts: Mapping[str, Path] | None = None,
    bytecode: Mapping[str, Path] | None = None,
    network: str = "none",
    max_log_bytes: int = MAX_LOG_BYTES,
    channel: ChannelMaker = MountedFiles,
    environment: Mapping[str, str] = ENVIRONMENT,
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
        files: laid over the image's before the command starts, by absolute path; ``None`` takes a path away, a folder
            with all that it holds. They belong to root, with mode 0644.
        executables: those of ``files`` that have mode 0755 instead.
        extra_mounts: files or folders of this host, mounted read-only, by absolute path in the container.
        bytecode: folders of this host with byte code that commands may use, by a name of each.
        network: the engine's network that the container is attached to.
        max_log_bytes: output beyond this is dropped, with a note in the log.
        channel: how results leave the container; only tests replace it.
        environment: the command's; only tests pass another.

    Raises:
        CannotStart: the image has no ``PYTHON``.
        InfraError: the engine refused, went away, ended the container by itself, or its disk was full.
    """
    opened = channel(results)
    laid = files or {}
    removed = [path for path, content in laid.items() if content is None]
    writable = opened.mounts()
    compiled = {f"{BYTECODE}/{name}": folder for name, folder in (bytecode or {}).items()}
    _warn_without_seccomp(engine)
    with engine.translated(f"create a test container of {image[:19]}"):
        created = engine.api.create_container(
            image,
            entrypoint=[*INTERPRETER, f"pycache_prefix={next(iter(compiled), SCRIPTS + '/none')}", KEEPER],
            command=[
                f"{limits.wall_s + DEADLINE_GRACE_S:g}",
                folder,
                msgspec.json.encode(dict(environment)).decode(),
                msgspec.json.encode(removed).decode(),
                msgspec.json.encode([BYTECODE_PREFIX, *compiled]).decode(),
                *command,
            ],
            environment=dict.fromkeys(_variables(engine.api, image)),
            working_dir="/",
            user="0:0",
            hostname="headrace",
            labels=dict(labels),
            healthcheck={"test": ["NONE"]},
            stop_timeout=1,
            host_config=_host_config(
                engine.api,
                limits=limits,
                network=network,
                mounts=_mounts(writable, {**(extra_mounts or {}), **compiled}),
            ),
        )
    container = str(created["Id"])
    try:
        _lay(engine, container, files=laid, executables=executables)
        with Output(engine, container=container, log=log, max_bytes=max_log_bytes) as output:
            _start(engine, container)
            ended = _wait(
                engine, container, limits=limits, output=output, written=list(writable.values()), cancel=cancel
            )
        opened.collect(engine, container)
        return ended
    finally:
        try:
            engine.remove_container(container)
        except InfraError as exc:
            logger.warning("test container {} is left for reap: {}", container[:12], exc.message)


def _host_config(api: docker.APIClient, *, limits: Limits, network: str, mounts: list[Mount]) -> Any:
    return api.create_host_config(
        network_mode=network,
        mem_limit=limits.memory_bytes,
        memswap_limit=limits.memory_bytes,
        nano_cpus=int(limits.cpus * 1e9),
        pids_limit=limits.pids,
        shm_size=SHARED_MEMORY_BYTES,
        ulimits=[
            Ulimit(name="core", soft=0, hard=0),
            Ulimit(name="nofile", soft=OPEN_FILES, hard=OPEN_FILES),
            Ulimit(name="fsize", soft=limits.disk_bytes, hard=limits.disk_bytes),
        ],
        cap_drop=["ALL"],
        cap_add=list(CAPABILITIES),
        security_opt=["no-new-privileges:true"],
        ipc_mode="private",
        init=False,
        log_config=LogConfig(type="none"),
        mounts=mounts,
    )


def _mounts(writable: Mapping[str, Path], extra: Mapping[str, Path]) -> list[Mount]:
    scripts = Path(__file__).parent / "inside"
    mounts = [Mount(SCRIPTS, str(scripts), type="bind", read_only=True)]
    mounts += [Mount(target, None, type="volume", no_copy=True) for target in TEMPORARY]
    mounts += [Mount(target, str(source.resolve()), type="bind") for target, source in writable.items()]
    mounts += [Mount(target, str(source.resolve()), type="bind", read_only=True) for target, source in extra.items()]
    return mounts


def _variables(api: docker.APIClient, image: str) -> list[str]:
    """Names of the variables that the image sets. One that is named without a value is taken away from process 1."""
    return [entry.partition("=")[0] for entry in api.inspect_image(image)["Config"].get("Env") or []]


def _warn_without_seccomp(engine: Engine) -> None:
    if not engine.filters_system_calls and not engine.warned:
        engine.warned = True
        logger.warning("the Docker engine filters no system calls (seccomp): test containers are less isolated")


def _lay(engine: Engine, container: str, *, files: Mapping[str, bytes | None], executables: Collection[str]) -> None:
    """Puts files into a container that was not started yet."""
    made = {path: content for path, content in files.items() if content is not None}
    if not made:
        return
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for path, content in made.items():
                info = tarfile.TarInfo(path.lstrip("/"))
                info.size, info.mtime = len(content), int(time.time())
                info.mode = 0o755 if path in executables else 0o644
                tar.addfile(info, io.BytesIO(content))
        with engine.translated(f"put files into test container {container[:12]}"):
            engine.api.put_archive(container, "/", buffer.getvalue())


def _start(engine: Engine, container: str) -> None:
    with engine.translated(f"start test container {container[:12]}"):
        try:
            engine.api.start(container)
        except APIError as exc:
            if f'exec: "{PYTHON}"' in str(exc.explanation):
                raise CannotStart(f"the image has no Python at {PYTHON}") from exc
            raise


def _wait(
    engine: Engine,
    container: str,
    *,
    limits: Limits,
    output: Output,
    written: Sequence[Path],
    cancel: threading.Event,
) -> Ended:
    began = time.monotonic()
    timed_out = cancelled = disk_full = False
    pids = PidsWatch(engine, container=container)
    with (
        PeakMemory(engine, container=container) as peak,
        DiskWatch(engine, container=container, files=written, limit_bytes=limits.disk_bytes) as disk,
    ):
        while True:
            if output.ended.wait(POLL_S):
                if not _state(engine, container)["Running"]:
                    break
                cancel.wait(POLL_S)
            pids.sample()
            timed_out, cancelled = time.monotonic() - began >= limits.wall_s, cancel.is_set()
            disk_full = disk.full.is_set()
            if timed_out or cancelled or disk_full:
                _kill(engine, container)
                break
    wall_s = time.monotonic() - began
    output.raise_if_broken()
    disk.measure()
    if disk.host_full:
        space = f"less than {HOST_FULL_BYTES >> 20} MiB"
        raise InfraError(f"the Docker engine's disk was full ({space} free) while a test container ran; free space")
    state = _state(engine, container)
    oom_killed = bool(state["OOMKilled"])
    from_here = timed_out or cancelled or disk_full
    if not (from_here or oom_killed) and state["ExitCode"] == KILLED:
        raise InfraError(f"test container {container[:12]} was ended from outside; the attempt can be repeated")
    return Ended(
        exit_code=None if from_here else int(state["ExitCode"]),
        timed_out=timed_out and not disk_full,
        cancelled=cancelled and not (timed_out or disk_full),
        oom_killed=oom_killed,
        disk_full=disk.full.is_set(),
        pids_exhausted=pids.exhausted,
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
