"""A container's output, copied into a file of this host as it comes."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import docker

from actors.images.engine import Engine
from events.errors import InfraError

__all__ = ["Output"]

POLL_S = 0.1
JOIN_S = 30.0


class Output:
    """Copies in a thread, up to a cap; ``ended`` is set when the container's streams closed.

    Attached before the container starts, so nothing is missed; beyond the cap output is read on and dropped, so that
    the command is not held up.
    """

    def __init__(self, engine: Engine, *, container: str, log: Path, max_bytes: int) -> None:
        self.ended = threading.Event()
        self._engine, self._container, self._log, self._max_bytes = engine, container, log, max_bytes
        self._error: OSError | None = None

    def __enter__(self) -> Output:
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
        self._thread.join(JOIN_S)
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
