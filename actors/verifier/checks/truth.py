"""What a package index serves for one version of a distribution: the truth that installed files are compared with.

Files come through ``PackageIndex``, which checks their hashes. Which file answers a question is kept, too: an index
never changes a file that it has served, so what was asked once needs no network again. Threads and processes share a
cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from email.parser import HeaderParser
from pathlib import Path

import msgspec
from packaging.tags import Tag, parse_tag
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from events.errors import EnvironmentNotReady, InfraError
from store.locks import file_lock
from store.package_index import IndexFile, PackageIndex, UnknownProject, default_index_url

__all__ = ["IndexTruth", "Release"]

GENERATION = "1"
SOURCE_SUFFIXES = (".c", ".cc", ".cpp", ".cxx", ".pyx", ".rs")


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a release. ``files``: SHA-256 by path inside a wheel, or below the top folder of a source
    distribution; ``requires``: as its own metadata say; ``path``: where it is kept here."""

    filename: str
    is_wheel: bool
    files: dict[str, str]
    requires: list[str]
    path: str

    @property
    def compiles(self) -> bool:
        """Whether it holds sources of extension modules."""
        return any(path.endswith(SOURCE_SUFFIXES) for path in self.files)

    def read(self, path: str) -> bytes:
        """The content of one file of a wheel.

        Raises:
            KeyError: it has no such file, or is no wheel.
            InfraError: the cache was cleared meanwhile.
        """
        if not self.is_wheel or path not in self.files:
            raise KeyError(path)
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(path)
        except (OSError, zipfile.BadZipFile) as exc:
            raise InfraError(f"{self.filename} is gone from the cache or damaged; try again") from exc


class IndexTruth:
    """The releases of one index (and of further ones, in their order), cached on this node.

    Success: what the index serves, checked by hash. ``InfraError``: the index cannot be reached; nothing was cached by
    halves. A crash leaves nothing but a file of the same content to download again.
    """

    def __init__(self, *, index_url: str, cache_dir: Path, extra_index_urls: Sequence[str] = ()) -> None:
        """``index_url``: empty for the one that this machine's installers use, which is looked up when needed."""
        self._url, self._extra = index_url, tuple(extra_index_urls)
        self._cache = cache_dir / "index-truth"
        self._files = cache_dir

    def release(self, name: str, version: str, *, tags: Iterable[str] = ()) -> Release | None:
        """The wheel of these tags, or else the source distribution; ``None`` if no index has that version.

        Args:
            name: of the distribution.
            version: as its metadata tell it.
            tags: as an installed wheel's own metadata tell them. Without any, whichever pure wheel there is.

        Raises:
            InfraError: an index cannot be reached, or serves something else than it promises.
        """
        try:
            wanted = Version(version)
        except InvalidVersion:
            return None
        project, asked = canonicalize_name(name), sorted(set(tags))
        question = [GENERATION, self._url, *self._extra, project, str(wanted), *asked]
        key = hashlib.sha256(json.dumps(question).encode()).hexdigest()
        path = self._cache / key[:2] / f"{key}.json"
        found = _kept(path)
        if found is not None:
            return found
        with file_lock(self._cache / key[:2] / f"{key}.lock"):
            found = _kept(path)
            if found is not None:
                return found
            found = self._fetch(project, wanted, asked)
            if found is not None:
                temporary = path.with_suffix(f".{os.getpid()}.part")
                temporary.write_bytes(msgspec.json.encode(found))
                temporary.replace(path)
        return found

    def _fetch(self, project: str, version: Version, tags: list[str]) -> Release | None:
        try:
            for url in (self._url or default_index_url(), *self._extra):
                with PackageIndex(url=url, cache_dir=self._files) as index:
                    listed: list[IndexFile] = []
                    with suppress(UnknownProject):
                        listed = index.files(project)
                    chosen = _chosen(listed, project, version, tags)
                    if chosen is not None:
                        return _read(index.fetch(chosen))
        except (EnvironmentNotReady, UnknownProject) as exc:
            raise InfraError(exc.message) from exc
        return None


def _kept(path: Path) -> Release | None:
    """The answer that is kept in a file, as long as the downloaded file that it tells of is there, too."""
    try:
        release = msgspec.json.decode(path.read_bytes(), type=Release)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return release if Path(release.path).exists() else None


def _chosen(files: Sequence[IndexFile], project: str, version: Version, tags: list[str]) -> IndexFile | None:
    """The wheel that has the most of these tags, else the source distribution, of what an index lists."""
    asked = {tag for text in tags for tag in _tags(text)}
    wheels: list[tuple[int, IndexFile]] = []
    sdists: list[IndexFile] = []
    for file in files:
        with suppress(InvalidWheelFilename):
            name, number, _, offered = parse_wheel_filename(file.filename)
            pure = sum(tag.abi == "none" and tag.platform == "any" for tag in offered)
            fits = len(offered & asked) if asked else pure
            if (name, number) == (project, version) and fits:
                wheels.append((fits, file))
        with suppress(InvalidSdistFilename):
            name, number = parse_sdist_filename(file.filename)
            if (name, number) == (project, version):
                sdists.append(file)
    if wheels:
        return max(wheels, key=lambda found: (found[0], found[1].filename))[1]
    return sdists[0] if sdists else None


def _tags(text: str) -> frozenset[Tag]:
    return parse_tag(text) if text.count("-") == 2 else frozenset()


def _read(path: Path) -> Release:
    is_wheel = path.name.endswith(".whl")
    try:
        files: dict[str, str] = {}
        metadata = b""
        for name, content in _members(path) if is_wheel else _sdist_members(path):
            files[name] = hashlib.sha256(content).hexdigest()
            if name.endswith(".dist-info/METADATA") or name == "PKG-INFO":
                metadata = content
    except (OSError, zipfile.BadZipFile, tarfile.TarError, EOFError) as exc:
        raise InfraError(f"{path.name}, as the index serves it, cannot be read: {exc}") from exc
    headers = HeaderParser().parsestr(metadata.decode("utf-8", "replace"))
    return Release(
        filename=path.name,
        is_wheel=is_wheel,
        files=files,
        requires=list(headers.get_all("Requires-Dist") or ()),
        path=str(path),
    )


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, archive.read(info)


def _sdist_members(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.name.endswith(".zip"):
        yield from ((name.partition("/")[2], content) for name, content in _members(path))
        return
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None:
                yield member.name.partition("/")[2], content.read()
