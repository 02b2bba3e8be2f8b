"""The distributions that an image's interpreter would find, listed from outside from their own records.

Records are what the build left: a claim to be compared with the index and the checkout, not a proof. Looked into are
the environment's site-packages, folders that its ``.pth`` files name, and the checkout, where builds leave
``*.egg-info``: wherever pytest would look for plug-ins.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from email.parser import HeaderParser
from posixpath import dirname, join, normpath
from urllib.parse import unquote

import msgspec
from packaging.utils import canonicalize_name

from actors.verifier.image.image_files import FileTooLarge, ImageFiles
from actors.verifier.image.layout import CHECKOUT, Layout, layout_of

__all__ = ["Distribution", "Plugin", "plugins", "read_installed"]

MAX_METADATA_BYTES = 8 << 20
METADATA_FOLDER = re.compile(r"\.(?:dist-info|egg-info)$", re.IGNORECASE)
PLUGIN_GROUP = "pytest11"


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    """One installed distribution.

    ``name``: canonical; ``metadata``: its folder or file of metadata; ``location``: the folder on the interpreter's
    path that holds it. ``record``: paths that its RECORD lists, ``None`` without one; ``url``: where pip was told to
    take it from instead of an index; ``editable``: its modules are elsewhere; ``tags``: of the wheel that it was;
    ``generator``: what built that; ``requires``: requirement lines; ``entry_points``: object references by group and
    name.
    """

    name: str
    version: str
    metadata: str
    location: str
    record: list[str] | None = None
    url: str | None = None
    editable: bool = False
    tags: list[str] = []
    generator: str = ""
    requires: list[str] = []
    entry_points: dict[str, dict[str, str]] = {}

    @property
    def of_checkout(self) -> bool:
        """Whether it claims to be installed from the checkout, or lies there."""
        return any(f"{folder}/".startswith(f"{CHECKOUT}/") for folder in (self.source or "", self.location))

    @property
    def source(self) -> str | None:
        """The folder of the image that it claims to be installed from."""
        if self.url is None or not self.url.startswith("file:///"):
            return None
        return normpath(unquote(self.url.removeprefix("file://"))).strip("/")


class Plugin(msgspec.Struct, frozen=True, kw_only=True):
    """A plug-in that pytest would load by itself: the distribution, and the entry point's name and module."""

    distribution: str
    name: str
    module: str


def plugins(installed: Iterable[Distribution]) -> list[Plugin]:
    """The pytest plug-ins among installed distributions, by distribution and name."""
    found = {
        Plugin(distribution=item.name, name=name, module=value.partition(":")[0].partition("[")[0].strip())
        for item in installed
        for name, value in item.entry_points.get(PLUGIN_GROUP, {}).items()
    }
    return sorted(found, key=lambda plugin: (plugin.distribution, plugin.name, plugin.module))


def read_installed(files: ImageFiles, *, folders: Sequence[str] = ()) -> list[Distribution]:
    """The distributions of the environment in ``/opt/venv``, and those whose metadata lies in the checkout.

    Args:
        files: the image.
        folders: further folders to look into, such as the checkout's primary root; without leading slash.

    Raises:
        ImageRefused: the parent has no virtual environment.
    """
    layout = layout_of(files)
    looked_into = dict.fromkeys([layout.site, *_named_by_pth(files, layout), CHECKOUT, f"{CHECKOUT}/src", *folders])
    links = _egg_links(files, layout)
    found = []
    for folder in looked_into:
        for entry in files.children(folder):
            is_egg = entry.path.lower().endswith(".egg")
            if is_egg or METADATA_FOLDER.search(entry.path):
                found.append(_distribution(files, f"{entry.path}/EGG-INFO" if is_egg else entry.path, links))
    return found


def _named_by_pth(files: ImageFiles, layout: Layout) -> list[str]:
    folders = []
    for entry in files.children(layout.site):
        if entry.kind == "file" and entry.path.endswith(".pth"):
            for line in _text(files, entry.path).splitlines():
                folder = normpath(join("/", layout.site, line.strip())).strip("/")
                if line.strip() and not line.startswith(("#", "import")):
                    folders.append(folder)
    return folders


def _egg_links(files: ImageFiles, layout: Layout) -> set[str]:
    """The folders that ``setup.py develop`` installed from."""
    links = (entry for entry in files.children(layout.site) if entry.path.endswith(".egg-link"))
    return {_text(files, entry.path).split("\n")[0].strip().strip("/") for entry in links}


def _distribution(files: ImageFiles, metadata: str, links: set[str]) -> Distribution:
    entry = files.entry(metadata)
    inside = entry is not None and entry.kind == "folder"
    text = _first(files, metadata, ("METADATA", "PKG-INFO")) if inside else _text(files, metadata)
    headers = HeaderParser().parsestr(text)
    own = metadata.removesuffix("/EGG-INFO")
    stem = re.sub(r"(?i)\.(?:dist-info|egg-info|egg)$", "", own.rpartition("/")[2])
    location = own if own != metadata else dirname(metadata)
    direct = _direct_url(_text(files, f"{metadata}/direct_url.json")) if inside else _Direct()
    wheel = HeaderParser().parsestr(_text(files, f"{metadata}/WHEEL")) if inside else HeaderParser().parsestr("")
    linked = location in links
    return Distribution(
        name=canonicalize_name(headers.get("Name") or stem.partition("-")[0]),
        version=headers.get("Version") or stem.partition("-")[2].partition("-")[0],
        metadata=metadata,
        location=location,
        record=_record(files, metadata, location) if inside else None,
        url=f"file:///{location}" if linked else direct.url,
        editable=linked or direct.dir_info.editable,
        tags=list(wheel.get_all("Tag") or ()),
        generator=wheel.get("Generator") or "",
        requires=list(headers.get_all("Requires-Dist") or ()),
        entry_points=_entry_points(_text(files, f"{metadata}/entry_points.txt")) if inside else {},
    )


class _DirInfo(msgspec.Struct):
    editable: bool = False


class _Direct(msgspec.Struct):
    url: str | None = None
    dir_info: _DirInfo = msgspec.field(default_factory=_DirInfo)


def _direct_url(text: str) -> _Direct:
    try:
        return msgspec.convert(json.loads(text), _Direct) if text else _Direct()
    except (ValueError, msgspec.ValidationError):
        return _Direct(url="unreadable")


def _record(files: ImageFiles, metadata: str, location: str) -> list[str] | None:
    """Paths in the image that a RECORD lists, or, of an old installation by pip, ``installed-files.txt``."""
    text = _text(files, f"{metadata}/RECORD")
    if text:
        try:
            rows = list(csv.reader(text.splitlines()))
        except csv.Error:
            return []
        return [normpath(join("/", location, row[0])).strip("/") for row in rows if row and row[0]]
    lines = _text(files, f"{metadata}/installed-files.txt").split()
    return [normpath(join("/", metadata, line)).strip("/") for line in lines] or None


def _entry_points(text: str) -> dict[str, dict[str, str]]:
    """Groups of an ``entry_points.txt``, read as loosely as ``importlib.metadata`` does."""
    groups: dict[str, dict[str, str]] = {}
    group = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            group = line[1:-1].strip()
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            groups.setdefault(group, {})[name.strip()] = value.strip()
    return groups


def _first(files: ImageFiles, folder: str, names: Sequence[str]) -> str:
    return next((text for name in names if (text := _text(files, f"{folder}/{name}"))), "")


def _text(files: ImageFiles, path: str) -> str:
    try:
        return files.read(path, max_bytes=MAX_METADATA_BYTES).decode("utf-8", "replace")
    except (FileNotFoundError, FileTooLarge):
        return ""
