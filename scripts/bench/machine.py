"""What figures were measured on and with: without it a figure says nothing."""

from __future__ import annotations

import os
import platform
import sqlite3
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter

from scripts.bench.sampling import percentiles

__all__ = ["describe", "installed"]

LIBRARIES = ("msgspec", "ray", "eventsourcing")
SYNCS = 200


def describe(folder: Path) -> dict[str, str]:
    """Hardware, kernel, file system of ``folder``, Python and libraries, in words."""
    found = {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": f"{len(os.sched_getaffinity(0))}, load {os.getloadavg()[0]:.1f} at the start",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "file system": _file_system(folder),
        "fdatasync of 4 KiB": _sync_time(folder),
    }
    for name in LIBRARIES:
        found[name] = installed(name) or "not installed"
    return found


def installed(name: str) -> str | None:
    """The version of an installed package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _field(path: str, name: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _file_system(folder: Path) -> str:
    """The type of the file system that holds ``folder``."""
    best, kind = "", "unknown"
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return kind
    place = str(folder.resolve())
    for _, mount, type_, *_ in mounts:
        inside = place == mount or place.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, type_
    return kind


def _sync_time(folder: Path) -> str:
    path = folder / "sync"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    took = []
    try:
        for _ in range(SYNCS):
            os.pwrite(descriptor, b"x" * 4096, 0)
            begun = perf_counter()
            os.fdatasync(descriptor)
            took.append((perf_counter() - begun) * 1e6)
    finally:
        os.close(descriptor)
        path.unlink()
    found = percentiles(took, 50, 99)
    return f"p50 {found['p50']:.0f} µs, p99 {found['p99']:.0f} µs"
