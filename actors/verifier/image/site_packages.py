"""What is installed in an image's environment, read from its files: distributions, their sources, files and path lines.

The outside half of ``inside/smoke.py``: both understand the same installations (standard metadata, with or without
``direct_url.json``; ``setup.py develop``; metadata that lie in the checkout), and this one runs nothing.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterator
from functools import cached_property
from urllib.parse import unquote, urlsplit

import msgspec

from actors.verifier.checks.declared import below, canonical
from actors.verifier.containers.inside.smoke import is_path_file, loaders_of, read_loader
from actors.verifier.image.image_files import Entry, FileTooLarge, ImageFiles

__all__ = ["Installed", "Mappings", "SitePackages"]

LIBRARIES = "opt/venv/lib"
SITE = re.compile(rf"{LIBRARIES}/python3\.\d+t?/site-packages")
MAX_METADATA_BYTES = 16 * 1024 * 1024


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """One distribution. Paths are the image's.

    ``source``: the folder that it was installed from, without leading slash; ``None``: from an index, or not told.
    ``files``: what its ``RECORD`` lists below its site-packages; ``top_level``: names from ``top_level.txt``.
    """

    name: str
    version: str
    metadata: str
    site: str
    source: str | None
    editable: bool
    files: tuple[str, ...]
    top_level: tuple[str, ...]
    entry_points: str


class Mappings(msgspec.Struct, frozen=True, kw_only=True):
    """Files and folders by the module that a loader finds there, modules of which it tells no place, and folders that
    it has compiled modules built in. Paths are the image's."""

    places: dict[str, str]
    names: set[str]
    builds: set[str]


class SitePackages:
    """The environment's packages. Reads on demand; malformed metadata tell nothing rather than raise."""

    def __init__(self, files: ImageFiles, *, checkout: str) -> None:
        self._files, self._checkout = files, checkout
        self.entries: dict[str, Entry] = {entry.path: entry for entry in files.walk(LIBRARIES)}
        self.folders = [path for path in self.entries if SITE.fullmatch(path)]

    @cached_property
    def path_lines(self) -> list[tuple[str, str]]:
        """Folders that path files add to ``sys.path``: the path file, and the folder without leading slash."""
        found = []
        for path in self.entries:
            folder, name = posixpath.split(path)
            if folder not in self.folders or not name.endswith(".pth"):
                continue
            for line in self.text(path).splitlines():
                text = line.strip()
                if text and not text.startswith(("#", "import ", "import\t")):
                    found.append((path, posixpath.normpath(posixpath.join("/", folder, text)).lstrip("/")))
        return found

    @cached_property
    def distributions(self) -> list[Installed]:
        """All that is installed, including what ``setup.py develop`` and path files bring in from the checkout."""
        found = []
        for path in self.entries:
            site, name = posixpath.split(path)
            if site not in self.folders:
                continue
            if name.endswith(".dist-info"):
                found.append(self._read(path, site=site, source=self._source(path)))
            elif name.endswith(".egg-info") and self.entries[path].kind == "folder":
                found.append(self._read(path, site=site, source=(None, False)))
            elif name.endswith(".egg-link"):
                place = next(iter(self.text(path).splitlines()), "").strip()
                found += self._in_place(posixpath.normpath(place).lstrip("/"), site=site, only=name)
        known = {canonical(dist.name) for dist in found if dist.source}
        for file, folder in self.path_lines:
            if below(folder, self._checkout):
                more = self._in_place(folder, site=posixpath.dirname(file), only=None)
                found += [dist for dist in more if canonical(dist.name) not in known]
                known |= {canonical(dist.name) for dist in more}
        return [dist for dist in found if dist.name]

    def text(self, path: str) -> str:
        """A small text file of the image; empty when there is none or it is too large."""
        try:
            return self._files.read(path, max_bytes=MAX_METADATA_BYTES).decode("utf-8", "replace")
        except (FileNotFoundError, FileTooLarge):
            return ""

    def loaders(self, dist: Installed) -> list[str]:
        """Start-up modules by which an editable installation is found; STARTUP judges what they do."""
        inner = {path.removeprefix(f"{dist.site}/"): path for path in dist.files}
        texts = {name: self.text(path) if is_path_file(name) else "" for name, path in inner.items()}
        return [inner[name] for name in loaders_of(texts)]

    def mappings(self, dist: Installed) -> Mappings:
        """What the loaders of an editable installation say that they find."""
        found = Mappings(places={}, names=set(), builds=set())
        for path in self.loaders(dist):
            places, names, builds = read_loader(self.text(path))
            for name, place in places.items():
                found.places[name] = posixpath.normpath(posixpath.join("/", dist.site, place)).lstrip("/")
            found.names.update(names)
            found.builds.update(posixpath.normpath(build).lstrip("/") for build in builds)
        return found

    def _in_place(self, folder: str, *, site: str, only: str | None) -> Iterator[Installed]:
        """Distributions whose metadata lie in a folder of the checkout."""
        for entry in self._files.walk(folder):
            info, name = posixpath.split(entry.path)
            if name != "PKG-INFO" or not info.endswith(".egg-info") or posixpath.dirname(info) != folder:
                continue
            dist = self._read(info, site=site, source=(folder, True))
            if only is None or canonical(dist.name) == canonical(only.removesuffix(".egg-link")):
                yield dist

    def _source(self, info: str) -> tuple[str | None, bool]:
        text = self.text(f"{info}/direct_url.json")
        try:
            document = json.loads(text) if text else {}
            url, told = str(document["url"]), document["dir_info"]
            parts = urlsplit(url)
            if parts.scheme == "file" and parts.netloc in ("", "localhost") and isinstance(told, dict):
                return posixpath.normpath(unquote(parts.path)).lstrip("/"), told.get("editable") is True
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        return None, False

    def _read(self, info: str, *, site: str, source: tuple[str | None, bool]) -> Installed:
        metadata = self.text(f"{info}/METADATA") or self.text(f"{info}/PKG-INFO")
        head = metadata.split("\n\n", 1)[0]
        return Installed(
            name=_field(head, "Name"),
            version=_field(head, "Version"),
            metadata=info,
            site=site,
            source=source[0],
            editable=source[1],
            files=tuple(_recorded(self.text(f"{info}/RECORD"), site)),
            top_level=tuple(self.text(f"{info}/top_level.txt").split()),
            entry_points=self.text(f"{info}/entry_points.txt"),
        )


def _field(head: str, name: str) -> str:
    match = re.search(rf"^{name}:[ \t]*(\S+)", head, re.MULTILINE)
    return match[1] if match else ""


def _recorded(text: str, site: str) -> Iterator[str]:
    try:
        for row in csv.reader(io.StringIO(text)):
            path = posixpath.normpath(posixpath.join("/", site, row[0])).lstrip("/") if row and row[0] else ""
            if below(path, site) and path != site:
                yield path
    except csv.Error:
        return
