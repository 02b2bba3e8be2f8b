"""Real installations for tests: pip and the build back ends install a checkout into an image made of folders.

pip runs on the host and writes this host's paths; they are taken off afterwards, so that the image looks as if it had
been built at its own root. Hashes in ``RECORD`` are then no longer those of the files.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import venv
from collections.abc import Mapping
from pathlib import Path

import pytest

from store.locks import file_lock
from tests.verifier.folder_files import Image

__all__ = ["SITE", "install", "python_with_backends", "setup_py_develop"]

BACKENDS = (
    *("setuptools==79.0.1", "wheel==0.45.1", "hatchling>=1.27,<2", "hatch-vcs>=0.4,<1", "flit_core>=3.9,<5"),
    *("poetry-core>=2,<3", "pdm-backend>=2.4,<3", "setuptools_scm>=8,<11", "cython>=3,<4", "cffi>=1.17,<3"),
    *("versioneer==0.29", "editables>=0.5,<1"),
)
SITE = f"opt/venv/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"


@pytest.fixture(scope="session")
def python_with_backends() -> Path:
    """A Python of this machine's test cache that has pip and the build back ends."""
    cache = Path(os.environ.get("HEADRACE_TEST_CACHE") or "~/.cache/headrace-tests").expanduser()
    digest = hashlib.sha256(repr((BACKENDS, sys.version)).encode()).hexdigest()[:12]
    folder, whole = cache / f"backends-{digest}", cache / f"backends-{digest}.whole"
    cache.mkdir(parents=True, exist_ok=True)
    with file_lock(folder.with_suffix(".lock"), cancel=threading.Event()):
        if not whole.exists():
            venv.create(folder, clear=True, with_pip=True)
            _run([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", *BACKENDS])
            whole.touch()
    return folder / "bin/python"


def install(image: Image, python: Path, *, editable: bool, folder: str = ".") -> None:
    """Installs a folder of an image's checkout into its environment."""
    target = ["--editable", "."] if editable else ["."]
    options = [
        "--quiet",
        "--no-deps",
        "--no-index",
        "--use-pep517",
        "--no-build-isolation",
        "--no-compile",
        "--ignore-installed",
    ]
    command = [str(python), "-m", "pip", "install", *options, "--prefix", str(image.root / "opt/venv"), *target]
    _run(command, folder=image.checkout / folder)
    _take_off_root(image)


def setup_py_develop(image: Image, python: Path) -> None:
    """The installation in place of setuptools before 80."""
    site = image.root / SITE
    site.mkdir(parents=True)
    prefix = str(image.root / "opt/venv")
    command = [str(python), "setup.py", "--quiet", "develop", "--no-deps", "--prefix", prefix]
    _run(command, folder=image.checkout, more={"PYTHONPATH": str(site)})
    _take_off_root(image)


def _run(command: list[str], *, folder: Path | None = None, more: Mapping[str, str] | None = None) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "GIT_"))}
    environment["PATH"] = f"{Path(command[0]).parent}:{environment.get('PATH', os.defpath)}"
    done = subprocess.run(
        command, cwd=folder, env=environment | dict(more or {}), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _take_off_root(image: Image) -> None:
    for path in (image.root / "opt/venv").rglob("*"):
        if path.is_file() and str(image.root).encode() in (content := path.read_bytes()):
            path.write_bytes(content.replace(str(image.root).encode(), b""))
