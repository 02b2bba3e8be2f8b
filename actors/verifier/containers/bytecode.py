"""Byte code of the standard library and of the test runner, compiled once and given to every container.

No byte code of an image is trusted, so every run of pytest would compile pytest and half of the standard library: as
long as short test suites take. What is compiled here comes from files that were found to be genuine before (the
standard library is the parent's, the test runner the index's byte for byte), by an interpreter that is the parent's,
in a container in which nothing else runs.

It is kept in the node's cache by the contents of those files, out of reach of every container, and mounted read-only.
What is not in it is compiled by the container that needs it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

import msgspec
from loguru import logger

from actors.images.engine import Engine
from actors.verifier.containers.container import PYTHON, SCRIPTS, CannotStart, Limits, run_in_container
from actors.verifier.image.image_files import Entry, ImageFiles
from actors.verifier.image.layout import layout_of
from events.errors import InfraError

__all__ = ["Bytecode", "NotCompiled", "Sources", "genuine_sources", "unpacked"]

MIB = 1024 * 1024
LIMITS = Limits(wall_s=120.0, memory_bytes=1024 * MIB, cpus=2.0, pids=64, disk_bytes=256 * MIB)
RESULT, REQUEST = "/headrace/results/compiled.tar", "/headrace/request.json"

RUNNER_MODULES = frozenset(
    {"pytest", "_pytest", "pluggy", "iniconfig", "packaging", "exceptiongroup", "tomli", "py", "attr", "attrs"}
    | {"typing_extensions", "pygments"}
)
"""What a start of pytest imports, in some release of it, beside the standard library."""
RARELY_IMPORTED = re.compile(
    r"/pygments/(lexers/(?!(__init__|_mapping|python|diff)\.py)|styles/)"
    r"|^usr/(local/)?lib/python[\d.]+/(test|idlelib|lib2to3|tkinter|turtledemo|ensurepip|pydoc_data|site-packages"
    r"|dist-packages|config-[^/]*)/|/tests?/"
)
"""Of the standard library and of the runner: compiling it would take longer than it ever saves."""


class Sources(msgspec.Struct, frozen=True):
    """Python files of an image that belong together: their paths, and a digest of paths and contents."""

    name: str
    digest: str
    paths: list[str]


def genuine_sources(files: ImageFiles, *, without: Collection[str]) -> list[Sources]:
    """The standard library and the test runner of an image.

    Args:
        files: the image; that they are genuine is for other defences to say.
        without: paths over which a run may lay something else, which byte code would hide.

    Raises:
        ImageRefused: the parent has no virtual environment.
    """
    layout = layout_of(files)
    runner = [
        top for top in files.children(layout.site) if PurePosixPath(top.path).name.removesuffix(".py") in RUNNER_MODULES
    ]
    entries = {
        "stdlib": files.walk(layout.stdlib),
        "runner": (entry for top in runner for entry in ([top] if top.kind == "file" else files.walk(top.path))),
    }
    return [_sources(name, files, found, without) for name, found in entries.items()]


def _sources(name: str, files: ImageFiles, entries: Iterator[Entry], without: Collection[str]) -> Sources:
    paths = [
        entry.path
        for entry in entries
        if entry.kind == "file"
        and entry.path.endswith(".py")
        and entry.path not in without
        and not RARELY_IMPORTED.search(entry.path)
    ]
    digest = hashlib.sha256(_own_code())
    for path in paths:
        digest.update(f"{path}\0".encode() + hashlib.sha256(files.read(path)).digest())
    return Sources(name, digest.hexdigest(), [f"/{path}" for path in paths])


class Bytecode:
    """The compiled files of one node. Threads and processes may share its folder."""

    def __init__(self, *, engine: Engine, cache_dir: Path) -> None:
        self._engine, self._folder = engine, cache_dir / "bytecode"
        self._lock = threading.Lock()

    def folders(
        self, image_id: str, genuine: Sequence[Sources], *, labels: Mapping[str, str], cancel: threading.Event
    ) -> dict[str, Path]:
        """Folders of byte code to mount, by name; without those that cannot be made, which costs time and nothing else.

        Args:
            image_id: an image that has these files, and whose interpreter was found to be genuine.
            genuine: what is wanted.
            labels: put on containers.
            cancel: ends what is under way.
        """
        with self._lock:
            found = {one.name: self._kept(one, image_id, labels, cancel) for one in genuine if one.paths}
        return {name: folder for name, folder in found.items() if folder is not None}

    def _kept(self, sources: Sources, image_id: str, labels: Mapping[str, str], cancel: threading.Event) -> Path | None:
        """The folder of some sources' byte code, made now if it is not there."""
        folder = self._folder / sources.digest
        if folder.is_dir():
            return folder
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=".compiled-") as temporary:
                made = self._compiled(Path(temporary), image_id, sources.paths, labels, cancel)
                try:
                    made.rename(folder)
                except OSError:
                    if not folder.is_dir():  # another process was quicker
                        raise
        except (OSError, tarfile.TarError, CannotStart, InfraError, NotCompiled) as exc:
            logger.warning("no byte code is made of {} ({}): containers compile it themselves", sources.name, exc)
            return None
        return folder

    def _compiled(
        self,
        temporary: Path,
        image_id: str,
        paths: Sequence[str],
        labels: Mapping[str, str],
        cancel: threading.Event,
    ) -> Path:
        """A folder with the byte code of these files."""
        request, result = temporary / "request.json", temporary / "compiled.tar"
        request.write_bytes(msgspec.json.encode(paths))
        ended = run_in_container(
            self._engine,
            image=image_id,
            command=[
                *(PYTHON, "-I", "-S", "-B", "-X", f"pycache_prefix={SCRIPTS}/none"),
                *(f"{SCRIPTS}/compile.py", RESULT, REQUEST),
            ],
            folder="/",
            limits=LIMITS,
            labels=labels,
            results={RESULT: result},
            log=temporary / "compile.log",
            cancel=cancel,
            extra_mounts={REQUEST: request},
        )
        if ended.exit_code != 0:
            raise NotCompiled(f"compiling ended with exit code {ended.exit_code}")
        return unpacked(result, temporary / "out", at_most=len(paths))


class NotCompiled(Exception):
    """There is no byte code."""


def unpacked(archive: Path, folder: Path, *, at_most: int) -> Path:
    """Writes an archive's files, which have to be plain ``.pyc`` files, below ``folder``, and returns that.

    Raises:
        NotCompiled: there is something else in it, or more than ``at_most`` files.
        tarfile.TarError: it is no archive.
        OSError: the disk.
    """
    folder.mkdir()
    with tarfile.open(archive) as tar:
        for number, member in enumerate(tar):
            path = PurePosixPath(member.name)
            source = tar.extractfile(member) if member.isfile() else None
            if source is None or path.is_absolute() or ".." in path.parts or path.suffix != ".pyc" or number >= at_most:
                raise NotCompiled(f"{member.name!r} is no compiled file that was asked for")
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                shutil.copyfileobj(source, file)
    return folder


@cache
def _own_code() -> bytes:
    """What compiles: byte code that other code made is not used."""
    return (Path(__file__).parent / "inside" / "compile.py").read_bytes()
