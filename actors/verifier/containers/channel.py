"""The way on which a command's results leave its container."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from actors.images.engine import Engine

__all__ = ["Channel", "ChannelMaker", "MountedFiles"]


class Channel(Protocol):
    """Made for one container, from the files that the results shall end in, by their path inside."""

    def mounts(self) -> Mapping[str, Path]:
        """Files of this host to mount writable, by path in the container; called before it is created."""

    def collect(self, engine: Engine, container: str) -> None:
        """Called when the container has stopped, before it is removed.

        Raises:
            InfraError: the engine is away.
        """


ChannelMaker = Callable[[Mapping[str, Path]], Channel]


class MountedFiles:
    """Files made here, empty, and mounted one by one: the image can have nothing in their place, and the command can
    fill them and not replace them by links."""

    def __init__(self, results: Mapping[str, Path]) -> None:
        self._results = results

    def mounts(self) -> Mapping[str, Path]:
        """See ``Channel``."""
        for path in self._results.values():
            path.write_bytes(b"")
        return self._results

    def collect(self, engine: Engine, container: str) -> None:
        """See ``Channel``. What the command wrote is here already."""
