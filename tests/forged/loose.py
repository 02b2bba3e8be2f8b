"""Checks as the field has them, in the place of Headrace's, for forgeries that one of that kind is fooled by.

A forgery that a fresh result file or a fixed environment stops cannot be shown to work by leaving a check out: the
verifier would still read its own file and pass its own variables. So it is given the means of a naive verifier.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

import docker
import msgspec

from actors.images import Engine
from actors.verifier.containers.channel import MountedFiles
from actors.verifier.containers.container import ENVIRONMENT
from actors.verifier.session import Means
from tests.forged.forgery import Naive

__all__ = ["naive_means"]

GREEN_IMPORT: Mapping[str, object] = {"distributions": [], "modules": [], "problems": []}
MAX_LINKS = 8
WAIT_S = 60


class Labelled(Protocol):
    """Makes a container of one image that is not started; its id."""

    def __call__(self, command: list[str]) -> str: ...


def naive_means(naive: Naive | None, engine: Engine, *, image: str, labels: Mapping[str, str]) -> Means:
    """How a verifier of that kind gets results out of an image's containers, and what environment it gives commands.

    ``labels`` are put on containers that this takes.
    """
    made = partial(_created, engine, image, labels)
    match naive:
        case None:
            return Means()
        case Naive.IMAGE_REPORT:
            return Means(channel=partial(ImageReport, engine, made))
        case Naive.TIMEOUT_PASSES:
            return Means(channel=EmptyIsGreen)
        case Naive.LOGIN_SHELL:
            return Means(environment=_login_environment(engine, made))
        case Naive.IMAGE_CACHES:
            kept = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPYCACHEPREFIX"}
            return Means(environment=kept)


class EmptyIsGreen(MountedFiles):
    """A report without an outcome says that nothing failed."""

    def collect(self, engine: Engine, container: str) -> None:
        """See ``Channel``."""
        for path in self._results.values():
            if not path.stat().st_size or (path.suffix == ".jsonl" and b'"test":' not in path.read_bytes()):
                path.write_bytes(_green(path, _exit_code(engine, container)))


class ImageReport:
    """What the image holds at a result's path is the result; an empty report says that nothing failed."""

    def __init__(self, engine: Engine, made: Labelled, results: Mapping[str, Path]) -> None:
        found = {path: _read(engine, made(["true"]), path=path) for path in results}
        self._there = {results[path]: data for path, data in found.items() if data is not None}
        self._new = MountedFiles({path: place for path, place in results.items() if place not in self._there})

    def mounts(self) -> Mapping[str, Path]:
        """See ``Channel``."""
        return self._new.mounts()

    def collect(self, engine: Engine, container: str) -> None:
        """See ``Channel``."""
        for place, data in self._there.items():
            place.write_bytes(data or _green(place, _exit_code(engine, container)))


def _green(path: Path, exit_code: int) -> bytes:
    """What a naive verifier makes of no report at all."""
    if path.suffix == ".json":
        return msgspec.json.encode(GREEN_IMPORT)
    lines = [{"test": "all::good", "when": "call", "outcome": "passed"}, {"finished": exit_code}]
    return msgspec.json.Encoder().encode_lines(lines)


def _exit_code(engine: Engine, container: str) -> int:
    return int(engine.api.inspect_container(container)["State"]["ExitCode"])


def _created(engine: Engine, image: str, labels: Mapping[str, str], command: list[str]) -> str:
    return str(engine.api.create_container(image, command, entrypoint=[], labels=dict(labels))["Id"])


def _login_environment(engine: Engine, made: Labelled) -> dict[str, str]:
    """The variables that a login shell of the image has, in the image's own environment."""
    container = made(["/bin/bash", "-lc", "exec env -0"])
    try:
        engine.api.start(container)
        engine.api.wait(container, timeout=WAIT_S)
        told = engine.api.logs(container, stdout=True, stderr=False).decode()
    finally:
        engine.remove_container(container)
    return dict(line.split("=", 1) for line in told.split("\0") if "=" in line)


def _read(engine: Engine, container: str, *, path: str) -> bytes | None:
    """The content of a file of a new container, links followed; ``None`` when there is none. The container goes."""
    try:
        for _ in range(MAX_LINKS):
            if path.startswith("/dev/"):
                return b""
            try:
                stream, _stat = engine.api.get_archive(container, path)
            except docker.errors.NotFound:
                return None
            with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
                member = tar.next()
                if member is None or not (member.issym() or member.isfile()):
                    return None
                if member.isfile():
                    file = tar.extractfile(member)
                    return file.read() if file else None
                path = posixpath.normpath(posixpath.join(posixpath.dirname(path), member.linkname))
        return None
    finally:
        engine.remove_container(container)
