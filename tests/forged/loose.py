"""Checks as the field has them, put in the place of Headrace's for one attempt at a time. For tests alone.

A forgery that a fresh result file, a fixed environment or a deadline stops cannot be shown to work by leaving a check
out: the verifier would still read its own file. So the command that a verification runs is replaced by one that a
naive verifier would have run.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker
import msgspec
import pytest

from actors.images import Engine
from actors.images.engine import LABEL_ATTEMPT
from actors.verifier.container import Ended, run_in_container
from tests.forged.forgery import Naive

__all__ = ["Loosened"]

GREEN_REPORT = {
    ".xml": b'<testsuites><testsuite><testcase classname="all" name="good"/></testsuite></testsuites>',
    ".json": b'{"distributions": [], "modules": [], "problems": []}',
}
"""What a naive verifier makes of no report at all."""
MAX_LINKS = 8


class Loosened:
    """Replaces how verification commands are run, for the attempts that are named to ``for_attempt``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._naive: dict[str, Naive] = {}
        self._lock = threading.Lock()
        self._run: Callable[..., Ended] = run_in_container
        monkeypatch.setattr("actors.verifier.verify.run_in_container", self._dispatch)

    @contextmanager
    def for_attempt(self, attempt_id: str, naive: Naive | None) -> Iterator[None]:
        """Judges this attempt naively, or as ever when ``naive`` is ``None``."""
        if naive is None:
            yield
            return
        with self._lock:
            self._naive[attempt_id] = naive
        try:
            yield
        finally:
            with self._lock:
                del self._naive[attempt_id]

    def _dispatch(self, engine: Engine, *, command: Sequence[str], **given: Any) -> Ended:
        with self._lock:
            naive = self._naive.get(given["labels"][LABEL_ATTEMPT])
        image, results, log = given["image"], given["results"], given["log"]
        if naive is Naive.IMAGE_REPORT:
            found = {path: _read(engine, image=image, path=path) for path in results}
            if found and all(data is not None for data in found.values()):
                _fill(results, {path: data or b"" for path, data in found.items()})
                log.write_bytes(b"the results were there already\n")
                return _ended(0)
        if naive is Naive.LOGIN_SHELL:
            variables = engine.api.inspect_image(image)["Config"]["Env"] or []
            command = ["/usr/bin/env", *variables, "/bin/bash", "-lc", 'exec "$@"', "login", *command]
        ended = self._run(engine, command=command, **given)
        if naive is Naive.TIMEOUT_PASSES and ended.timed_out:
            _fill(results, {path: source.read_bytes() for path, source in results.items()})
            return msgspec.structs.replace(ended, timed_out=False, exit_code=0)
        return ended


def _ended(exit_code: int) -> Ended:
    return Ended(
        exit_code=exit_code, timed_out=False, cancelled=False, oom_killed=False, wall_s=0.0, peak_memory_bytes=None
    )


def _fill(results: Mapping[str, Path], found: Mapping[str, bytes]) -> None:
    for path, data in found.items():
        results[path].write_bytes(data or GREEN_REPORT[posixpath.splitext(path)[1]])


def _read(engine: Engine, *, image: str, path: str) -> bytes | None:
    """The content of a file of an image, links followed; ``None`` when there is none."""
    made = engine.api.create_container(image, ["true"], entrypoint=[])["Id"]
    try:
        for _ in range(MAX_LINKS):
            if path.startswith("/dev/"):
                return b""
            try:
                stream, _stat = engine.api.get_archive(made, path)
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
        engine.remove_container(made)
