"""An image's files straight from the engine's layer folders on this host (overlay2), or else from an exported tar.

Nothing is mounted, run or followed: a path is looked up component by component, each with ``lstat``, in the folders
of the layers, topmost first; a whiteout or an opaque folder hides what lies below. Regular files are opened so that
neither a link nor a pipe put in their place can redirect or block the reader. ``changed`` reads only the layers above
the parent.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from actors.images.engine import Engine
from actors.verifier.defences import Defence, Finding
from actors.verifier.image.exported import ExportedImage, ImageRefused
from actors.verifier.image.image_files import MAX_READ_BYTES, Entry, FileTooLarge, ImageConfig, ImageFiles
from events.errors import InfraError

__all__ = ["ImageRefused", "LayeredImage", "open_image"]

OPAQUE = "trusted.overlay.opaque"
REDIRECT = "trusted.overlay.redirect"
CHUNK_BYTES = 1 << 20
CAP_DAC_OVERRIDE, CAP_SYS_ADMIN = 1, 21
WHOLE_UID_RANGE = ["0", "0", "4294967295"]


def open_image(
    engine: Engine, image_id: str, *, parent_id: str, cache_dir: Path, labels: Mapping[str, str] | None = None
) -> ImageFiles:
    """The files of an image that was built on ``parent_id``; close it in the end.

    Args:
        engine: has both images.
        image_id: the image.
        parent_id: the image of the repository tier, which no script of the context touched.
        cache_dir: the node's caches; an index of each parent that had to be exported is kept there.
        labels: for the container that an export needs (``attempt_labels``), so that ``reap`` finds it after a crash.

    Raises:
        ImageRefused: the image was not built on the parent.
        InfraError: the engine is away or does not have one of the images.
    """
    image, parent = _inspected(engine, image_id), _inspected(engine, parent_id)
    own, below = image["RootFS"].get("Layers") or [], parent["RootFS"].get("Layers") or []
    if own[: len(below)] != below:
        raise ImageRefused(
            Finding(
                defence=Defence.TOOLS,
                message=f"image {image_id[:19]} was not built on the repository's own image {parent_id[:19]}; "
                f"the Dockerfile must start with `FROM headrace-source` and end in a stage that does",
            )
        )
    config = _config(image, parent)
    layers = _layer_folders(image, count=len(own))
    if layers is not None:
        return LayeredImage(layers, parent_layers=len(below), config=config)
    return ExportedImage(
        engine, image_id=image_id, parent_id=parent_id, cache_dir=cache_dir, config=config, labels=labels or {}
    )


def _inspected(engine: Engine, image_id: str) -> dict[str, Any]:
    found = engine.image(image_id)
    if found is None:
        raise InfraError(f"image {image_id[:19]} is gone from the engine; does something prune images there?")
    return found


def _config(image: Mapping[str, Any], parent: Mapping[str, Any]) -> ImageConfig:
    return ImageConfig(
        environment=_environment(image),
        volumes=sorted((image.get("Config") or {}).get("Volumes") or {}),
        parent_environment=_environment(parent),
    )


def _environment(image: Mapping[str, Any]) -> dict[str, str]:
    pairs = (line.partition("=") for line in (image.get("Config") or {}).get("Env") or [])
    return {name: value for name, _, value in pairs}


def _layer_folders(image: Mapping[str, Any], *, count: int) -> list[str] | None:
    """The layers' folders, topmost first, if they can be read here exactly as the engine's kernel merges them."""
    driver = image.get("GraphDriver") or {}
    data = driver.get("Data") or {}
    if driver.get("Name") != "overlay2" or not data.get("UpperDir") or not _sees_everything():
        return None
    folders = [data["UpperDir"], *(data["LowerDir"].split(":") if data.get("LowerDir") else [])]
    if len(folders) != count or not all(Path(folder).is_dir() for folder in folders):
        return None
    return folders


def _sees_everything() -> bool:
    """Whether this process may read every file and the kernel's own attributes: real root, in no user namespace."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        users = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    except OSError:
        return False
    effective = next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:")), 0)
    wanted = 1 << CAP_DAC_OVERRIDE | 1 << CAP_SYS_ADMIN
    return effective & wanted == wanted and users == WHOLE_UID_RANGE


class _Found(msgspec.Struct, frozen=True, gc=False):
    """One name in one layer: where it is on this host, and what ``lstat`` says."""

    real: str
    mode: int
    size: int
    device: int

    @property
    def is_whiteout(self) -> bool:
        return stat.S_ISCHR(self.mode) and self.device == 0

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)


def _found(real: str, status: os.stat_result) -> _Found:
    return _Found(real, status.st_mode, status.st_size, status.st_rdev)


def _entry(path: str, found: _Found) -> Entry:
    mode, permissions = found.mode, stat.S_IMODE(found.mode)
    if stat.S_ISREG(mode):
        return Entry(path=path, kind="file", mode=permissions, size=found.size)
    if stat.S_ISLNK(mode):
        return Entry(path=path, kind="link", mode=0o777, target=_target(found))
    return Entry(path=path, kind="folder" if stat.S_ISDIR(mode) else "other", mode=permissions)


def _target(link: _Found) -> str:
    return os.readlink(link.real)  # noqa: PTH115 - Path drops what it takes for superfluous


class _Folder(msgspec.Struct, frozen=True, gc=False):
    """One folder: its folders in the layers that make it up, topmost first; none if there is no such folder, or only
    behind a link. ``hides``: layers below these would not show through."""

    layers: list[str]
    hides: bool


class _Stack:
    """Layers merged as the kernel merges them."""

    def __init__(self, layers: list[str]) -> None:
        self._folders: dict[str, _Folder] = {"": _merged(layers, hides=False)}

    def folder(self, path: str) -> _Folder:
        """What makes up the folder at a path."""
        known = self._folders.get(path)
        if known is None:
            known = self._folders[path] = self._look_up(path)
        return known

    def _look_up(self, path: str) -> _Folder:
        head, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            return _Folder([], hides=True)
        above = self.folder(head)
        folders, hides = [], above.hides
        for layer in above.layers:
            found = _lstat(f"{layer}/{name}")
            if found is not None and not found.is_folder:
                hides = True
                break
            if found is not None:
                folders.append(found.real)
        return _merged(folders, hides=hides)

    def find(self, path: str) -> _Found | None:
        """What is at a path; a whiteout counts as nothing."""
        head, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            return None
        for layer in self.folder(head).layers:
            found = _lstat(f"{layer}/{name}")
            if found is not None:
                return None if found.is_whiteout else found
        return None

    def listing(self, path: str) -> list[tuple[str, _Found]]:
        """The names of a folder, in their order, each from its topmost layer; whiteouts of lower layers too."""
        names: dict[str, _Found] = {}
        for layer in self.folder(path).layers:
            with os.scandir(layer) as entries:
                for item in entries:
                    if item.name not in names:
                        names[item.name] = _found(item.path, item.stat(follow_symlinks=False))
        return sorted(names.items())

    def walk(self, folder: str) -> Iterator[tuple[str, _Found]]:
        """Everything below a folder, whiteouts left out, in the order of the paths."""
        for name, found in self.listing(folder):
            if not found.is_whiteout:
                path = f"{folder}/{name}" if folder else name
                yield path, found
                if found.is_folder:
                    yield from self.walk(path)


def _lstat(real: str) -> _Found | None:
    try:
        return _found(real, os.lstat(real))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as exc:
        if isinstance(exc, OSError) and exc.errno is not None:
            raise
        return None  # a null byte: no file has such a name


def _merged(folders: list[str], *, hides: bool) -> _Folder:
    for place, folder in enumerate(folders):
        if _is_opaque(folder):
            return _Folder(folders[: place + 1], hides=True)
    return _Folder(folders, hides=hides)


def _is_opaque(folder: str) -> bool:
    attributes = os.listxattr(folder, follow_symlinks=False)
    if REDIRECT in attributes:
        raise InfraError(f"layer folder {folder} is a renamed one, which cannot be read from outside (redirect_dir)")
    return OPAQUE in attributes and os.getxattr(folder, OPAQUE, follow_symlinks=False) == b"y"


class LayeredImage(ImageFiles):
    """An image in the layer folders of an overlay2 engine on this host. Images do not change, so answers are kept.

    ``InfraError`` when the engine removes the image meanwhile; ``ImageRefused`` for a path longer than the host can
    open, which only a build that wants to hide something makes.
    """

    def __init__(self, layers: list[str], *, parent_layers: int, config: ImageConfig) -> None:
        """``layers``: topmost first; the last ``parent_layers`` of them are the parent's."""
        above = len(layers) - parent_layers
        self._image, self._parent, self._above = _Stack(layers), _Stack(layers[above:]), _Stack(layers[:above])
        self._config, self._any_above = config, above > 0

    @property
    def config(self) -> ImageConfig:
        """The image's configuration."""
        return self._config

    def changed(self) -> Mapping[str, Entry | None]:
        """What differs from the parent, found once."""
        return self._changed

    @cached_property
    def _changed(self) -> dict[str, Entry | None]:
        if not self._any_above:
            return {}
        return dict(sorted(self._differences(""), key=lambda item: item[0].split("/")))

    def _differences(self, folder: str) -> Iterator[tuple[str, Entry | None]]:
        """What differs below a folder that is one in both, image and parent."""
        above = dict(self._above.listing(folder))
        prefix = f"{folder}/" if folder else ""
        hides = self._above.folder(folder).hides
        if hides:
            for name, old in self._parent.listing(folder):
                if not old.is_whiteout and (name not in above or above[name].is_whiteout):
                    yield from self._gone(prefix + name, old)
        for name, new in above.items():
            path = prefix + name
            before = self._parent.find(path)
            if new.is_whiteout:
                if before is not None and not hides:
                    yield from self._gone(path, before)
            elif new.is_folder and before is not None and before.is_folder:
                if stat.S_IMODE(new.mode) != stat.S_IMODE(before.mode):
                    yield path, _entry(path, new)
                yield from self._differences(path)
            elif before is None or not _same(new, before):
                if before is not None and before.is_folder:
                    yield from ((gone, None) for gone, _ in self._parent.walk(path))
                yield path, _entry(path, new)
                if new.is_folder:
                    yield from ((below, _entry(below, found)) for below, found in self._above.walk(path))

    def _gone(self, path: str, before: _Found) -> Iterator[tuple[str, None]]:
        yield path, None
        if before.is_folder:
            yield from ((below, None) for below, _ in self._parent.walk(path))

    def entry(self, path: str) -> Entry | None:
        """What the image has at a path; ``None`` if nothing."""
        found = self._image.find(path)
        return None if found is None else _entry(path, found)

    def parent_entry(self, path: str) -> Entry | None:
        """What the parent has at a path; ``None`` if nothing."""
        found = self._parent.find(path)
        return None if found is None else _entry(path, found)

    def walk(self, folder: str) -> Iterator[Entry]:
        """Everything below a folder of the image."""
        return (_entry(path, found) for path, found in self._image.walk(folder))

    def children(self, folder: str) -> list[Entry]:
        """What a folder of the image holds itself."""
        prefix = f"{folder}/" if folder else ""
        listed = self._image.listing(folder)
        return [_entry(prefix + name, found) for name, found in listed if not found.is_whiteout]

    def read(self, path: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """The content of a regular file of the image."""
        return _read(self._image.find(path), path, max_bytes=max_bytes)

    def read_parent(self, path: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        """The content of a regular file of the parent."""
        return _read(self._parent.find(path), path, max_bytes=max_bytes)


def _open(found: _Found) -> int:
    return os.open(found.real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _read(found: _Found | None, path: str, *, max_bytes: int) -> bytes:
    if found is None or not stat.S_ISREG(found.mode):
        raise FileNotFoundError(path)
    if found.size > max_bytes:
        raise FileTooLarge(f"{path} has {found.size} bytes, more than {max_bytes}")
    with os.fdopen(_open(found), "rb") as file:
        return file.read(found.size)


def _same(one: _Found, other: _Found) -> bool:
    if one.mode != other.mode:
        return False
    if stat.S_ISLNK(one.mode):
        return _target(one) == _target(other)
    if not stat.S_ISREG(one.mode):
        return one.device == other.device
    if one.size != other.size:
        return False
    with os.fdopen(_open(one), "rb") as first, os.fdopen(_open(other), "rb") as second:
        while chunk := first.read(CHUNK_BYTES):
            if chunk != second.read(CHUNK_BYTES):
                return False
    return True
