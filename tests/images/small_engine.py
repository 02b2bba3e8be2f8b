"""A Docker daemon of a test's own whose disk is small: an ext4 file system in a file."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actors.images import Engine
from tests.sweeps.own_engine import OwnEngine

__all__ = ["small_engine"]


@contextmanager
def small_engine(*, size_mb: int) -> Iterator[Engine]:
    """The engine; while the context lasts it is also the one that ``DOCKER_HOST`` names."""
    own = OwnEngine()
    data, image = own.folder / "data", own.folder / "disk.img"
    data.mkdir()
    with image.open("wb") as file:
        file.truncate(size_mb << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(data)], check=True, capture_output=True)
    before = os.environ.get("DOCKER_HOST")
    try:
        with own:
            os.environ["DOCKER_HOST"] = own.host
            yield Engine()
    finally:
        os.environ.pop("DOCKER_HOST", None)
        if before is not None:
            os.environ["DOCKER_HOST"] = before
        mounts = [line.split(" ")[1] for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
        for mount in sorted((mount for mount in mounts if mount.startswith(f"{own.folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=True, capture_output=True)
        shutil.rmtree(own.folder)
