"""Runs shell commands in containers of one image for tests of containers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from actors.images import Engine
from actors.verifier.containers.container import Ended, Limits, run_in_container

__all__ = ["LIMITS", "MIB", "Commands"]

MIB = 1024 * 1024
LIMITS = Limits(wall_s=30, memory_bytes=256 * MIB, cpus=1.0, pids=64)


class Commands:
    """Calling it runs a command; ``output`` is what the last one printed, ``report`` the file that it could fill."""

    def __init__(self, engine: Engine, *, image: str, labels: Mapping[str, str], folder: Path) -> None:
        self.engine, self.image, self.labels = engine, image, labels
        self.log, self.report = folder / "out.log", folder / "report"

    def __call__(self, command: str, *, image: str | None = None, folder: str = "/", **given: Any) -> Ended:
        """``given``: limits by name, or further arguments of ``run_in_container``."""
        limits = {name: given.pop(name) for name in Limits.__struct_fields__ if name in given}
        arguments: dict[str, Any] = {"cancel": threading.Event(), "max_log_bytes": MIB, **given}
        return run_in_container(
            self.engine,
            image=image or self.image,
            command=["/bin/bash", "-c", command],
            folder=folder,
            limits=msgspec.structs.replace(LIMITS, **limits),
            labels=self.labels,
            results={"/headrace/results/report": self.report},
            log=self.log,
            **arguments,
        )

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def python(self, code: str, **given: Any) -> Ended:
        """The same for Python code."""
        files = {"/tmp/code.py": code.encode(), **given.pop("files", {})}
        return self("exec /opt/venv/bin/python /tmp/code.py", files=files, **given)
