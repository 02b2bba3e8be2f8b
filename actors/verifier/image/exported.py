"""An image's files from a tar that the engine exports: for engines elsewhere and storage drivers other than overlay2.

The container that is exported is created, never started, and removed before anything is read from the tar. What
the parent has is kept as a list of entries with their SHA-256 in ``cache_dir``, made once per parent; the tar itself
lies in an anonymous temporary file and is gone with the object.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import msgspec

from actors.images.engine import LABEL_TIER, TIER_TEST, Engine
from actors.verifier.defences import Defence, Finding
from actors.verifier.image.image_files import MAX_READ_BYTES, Entry, FileTooLarge, ImageConfig, ImageFiles
from events.errors import InfraError
from events.work import FailureClass
from store.locks import file_lock

__all__ = ["ExportedImage", "ImageRefused"]

MAX_EXPORT_BYTES = 64 << 30
CHUNK_BYTES = 1 << 20
INDEX_GENERATION = "1"


class ImageRefused(Exception):
    """The image cannot be what it claims to be; ``finding`` says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


class _Kept(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An entry with the SHA-256 of its content; ``path`` as bytes, because names need not be UTF-8."""

    path: bytes
    kind: str
    mode: int
    size: int
    target: bytes
    digest: bytes


class _Archive:
    """One exported image: the tar in a temporary file, and where in it everything is."""

    def __init__(self, engine: Engine, image_id: str, *, labels: Mapping[str, str], folder: Path) -> None:
        self._spool: BinaryIO = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by close()
        self.entries: dict[str, Entry] = {}
        self._offsets: dict[str, int] = {}
        try:
            _export(engine, image_id, labels=labels, spool=self._spool)
            self._index()
        except BaseException:
            self.close()
            raise

    def _index(self) -> None:
        links: list[tuple[str, str]] = []
        self._spool.seek(0)
        with tarfile.open(fileobj=self._spool, mode="r:", errors="surrogateescape") as tar:
            for member in tar:
                path = member.name.strip("/").removeprefix("./")
                if path in ("", "."):
                    continue
                if member.islnk():
                    links.append((path, member.linkname.strip("/").removeprefix("./")))
                    continue
                self.entries[path] = _entry_of(path, member)
                if member.isreg():
                    self._offsets[path] = member.offset_data
        for path, target in links:
            found = self.entries.get(target)
            if found is not None:
                self.entries[path] = msgspec.structs.replace(found, path=path)
                if target in self._offsets:
                    self._offsets[path] = self._offsets[target]
        self.entries = dict(sorted(self.entries.items(), key=lambda item: item[0].split("/")))

    def read(self, path: str, *, max_bytes: int) -> bytes:
        entry = self.entries.get(path)
        if entry is None or entry.kind != "file":
            raise FileNotFoundError(path)
        if entry.size > max_bytes:
            raise FileTooLarge(f"{path} has {entry.size} bytes, more than {max_bytes}")
        return os.pread(self._spool.fileno(), entry.size, self._offsets[path])

    def digest(self, path: str) -> bytes:
        """SHA-256 of a regular file; empty for anything else."""
        if path not in self._offsets:
            return b""
        found, place, left = hashlib.sha256(), self._offsets[path], self.entries[path].size
        while left:
            chunk = os.pread(self._spool.fileno(), min(left, CHUNK_BYTES), place)
            if not chunk:
                raise InfraError(f"the exported image ends within {path}; try again")
            found.update(chunk)
            place, left = place + len(chunk), left - len(chunk)
        return found.digest()

    def close(self) -> None:
        self._spool.close()


def _entry_of(path: str, member: tarfile.TarInfo) -> Entry:
    permissions = stat.S_IMODE(member.mode)
    if member.issym():
        return Entry(path=path, kind="link", mode=0o777, target=member.linkname)
    if member.isreg():
        return Entry(path=path, kind="file", mode=permissions, size=member.size)
    return Entry(path=path, kind="folder" if member.isdir() else "other", mode=permissions)


def _export(engine: Engine, image_id: str, *, labels: Mapping[str, str], spool: BinaryIO) -> None:
    with engine.translated(f"export image {image_id[:19]}"):
        api = engine.new_api()
        made = api.create_container(
            image_id,
            entrypoint=["/headrace/never-started"],
            labels={LABEL_TIER: TIER_TEST, **labels},
            host_config=api.create_host_config(network_mode="none"),
        )
        container = str(made["Id"])
        try:
            written = 0
            for chunk in api.export(container, chunk_size=CHUNK_BYTES):
                written += len(chunk)
                if written > MAX_EXPORT_BYTES:
                    raise ImageRefused(
                        Finding(
                            defence=Defence.TOOLS,
                            message=f"image {image_id[:19]} holds more than {MAX_EXPORT_BYTES} bytes; make it smaller",
                            failure_class=FailureClass.RECIPE,
                        )
                    )
                spool.write(chunk)
        finally:
            api.close()
            engine.remove_container(container)
        spool.flush()


class ExportedImage(ImageFiles):
    """An image that was exported from the engine; ``close`` (or the end of ``with``) frees the temporary file.

    ``InfraError`` when the engine is away or the disk is full. A crash leaves at most a container that was never
    started, with the labels by which ``reap`` finds it.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        image_id: str,
        parent_id: str,
        cache_dir: Path,
        config: ImageConfig,
        labels: Mapping[str, str],
    ) -> None:
        """Exports the image, and the parent too if it was never exported here; see ``open_image`` for the rest."""
        self._engine, self._parent_id, self._config = engine, parent_id, config
        self._labels, self._folder = labels, cache_dir / "image-index"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._image = _Archive(engine, image_id, labels=labels, folder=self._folder)
        self._opened: _Archive | None = None
        try:
            self._parent = self._parent_index()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Frees the temporary files."""
        self._image.close()
        if self._opened is not None:
            self._opened.close()

    def _parent_index(self) -> dict[str, tuple[Entry, bytes]]:
        path = self._folder / f"{INDEX_GENERATION}-{self._parent_id.removeprefix('sha256:')}.msgpack"
        with file_lock(path.with_suffix(".lock")):
            with suppress(FileNotFoundError, msgspec.DecodeError):
                return _from_kept(msgspec.msgpack.decode(path.read_bytes(), type=list[_Kept]))
            archive = self._parent_archive
            kept = [_to_kept(entry, archive.digest(name)) for name, entry in archive.entries.items()]
            temporary = path.with_suffix(f".{os.getpid()}.part")
            temporary.write_bytes(msgspec.msgpack.encode(kept))
            temporary.replace(path)
        return _from_kept(kept)

    @property
    def _parent_archive(self) -> _Archive:
        if self._opened is None:
            self._opened = _Archive(self._engine, self._parent_id, labels=self._labels, folder=self._folder)
        return self._opened

    @property
    def config(self) -> ImageConfig:
        """The image's configuration."""
        return self._config

    def changed(self) -> Mapping[str, Entry | None]:
        """What differs from the parent, found once."""
        return self._changed

    @cached_property
    def _changed(self) -> dict[str, Entry | None]:
        found: dict[str, Entry | None] = {path: None for path in self._parent if path not in self._image.entries}
        for path, entry in self._image.entries.items():
            before = self._parent.get(path)
            if before is None or before[0] != entry or (entry.size and before[1] != self._image.digest(path)):
                found[path] = entry
        return dict(sorted(found.items(), key=lambda item: item[0].split("/")))

    def entry(self, path: str) -> Entry | None:
        """What the image has at a path; ``None`` if nothing."""
        return self._image.entries.get(path)

    def parent_entry(self, path: str) -> Entry | None:
        """What the parent has at a path; ``None`` if nothing."""
        return self._parent[path][0] if path in self._parent else None

    @cached_property
    def _by_folder(self) -> dict[str, list[Entry]]:
        folders: dict[str, list[Entry]] = {}
        for path, entry in self._image.entries.items():
            folders.setdefault(path.rpartition("/")[0], []).append(entry)
        return folders

    def walk(self, folder: str) -> Iterator[Entry]:
        """Everything below a folder of the image."""
        for entry in self.children(folder):
            yield entry
            if entry.kind == "folder":
                yield from self.walk(entry.path)

    def children(self, folder: str) -> list[Entry]:
        """What a folder of the image holds itself."""
        return list(self._by_folder.get(folder, ()))

    def read(self, path: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """The content of a regular file of the image."""
        return self._image.read(path, max_bytes=max_bytes)

    def read_parent(self, path: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """The content of a regular file of the parent, exported again if it is another than the image's."""
        if path not in self.changed() and path in self._parent:
            return self._image.read(path, max_bytes=max_bytes)
        if path not in self._parent:
            raise FileNotFoundError(path)
        return self._parent_archive.read(path, max_bytes=max_bytes)


def _to_kept(entry: Entry, digest: bytes) -> _Kept:
    return _Kept(os.fsencode(entry.path), entry.kind, entry.mode, entry.size, os.fsencode(entry.target), digest)


def _from_kept(kept: list[_Kept]) -> dict[str, tuple[Entry, bytes]]:
    found = {}
    for item in kept:
        values = {"path": os.fsdecode(item.path), "kind": item.kind, "target": os.fsdecode(item.target)}
        entry = msgspec.convert({**values, "mode": item.mode, "size": item.size}, Entry)
        found[entry.path] = (entry, item.digest)
    return found
