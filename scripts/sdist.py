"""Reading a source distribution into a tree of files, without ever unpacking it to a disk.

Guarantees: the tree's paths are relative and stay inside of it, and so do its links; devices, pipes and whatever else
is no file, folder or link is refused, as are archives that unpack to more than ``MAX_BYTES``: these are the rules of
``tarfile``'s ``data`` filter, for zip files too. An archive that breaks one is refused whole. The one folder around
the files that every source distribution has (``name-version/``) is taken off.
"""

from __future__ import annotations

import posixpath
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from lzma import LZMAError
from pathlib import Path

import msgspec
from loguru import logger

from events.errors import InputError

__all__ = ["MAX_BYTES", "TreeEntry", "read_sdist"]

MAX_BYTES = 1 << 30
"""Most bytes that all files of one source distribution may have together."""

FILE, EXECUTABLE, LINK = "100644", "100755", "120000"
"""Modes as git writes them in trees."""


class TreeEntry(msgspec.Struct, frozen=True):
    """A file or link. ``mode`` is git's; ``content`` is the file's, or where the link leads."""

    mode: str
    content: bytes


def read_sdist(archive: Path) -> dict[str, TreeEntry]:
    """The files and links of a source distribution, by path.

    Paths that are not UTF-8 carry their bytes as surrogates, as ``os.fsdecode`` makes them. Entries below a ``.git``
    folder, which no git tree can hold, are left out with a warning.

    Raises:
        InputError: the archive is damaged, empty, too large or holds what is refused (see the module).
    """
    try:
        raw = dict(_zip_entries(archive) if archive.suffix == ".zip" else _tar_entries(archive))
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, RuntimeError, OSError) as exc:
        said = str(exc).partition("\n")[0].rstrip(":")
        raise InputError(f"{archive.name}: is damaged ({said}); this release cannot be taken") from exc
    tree = _without_folder(raw)
    for path in [path for path in tree if ".git" in path.lower().split("/")]:
        logger.warning("{}: {} is left out: git trees hold no .git", archive.name, path)
        del tree[path]
    for path, entry in tree.items():
        if entry.mode == LINK:
            target = entry.content.decode("utf-8", "surrogateescape")
            if target.startswith("/") or _leaves(posixpath.join(posixpath.dirname(path), target)):
                raise _refused(archive, f"link {path} leads outside, to {target}")
    if not tree:
        raise _refused(archive, "it holds no file")
    return tree


def _tar_entries(archive: Path) -> Iterator[tuple[str, TreeEntry]]:
    files: dict[str, TreeEntry] = {}
    left = MAX_BYTES
    with tarfile.open(archive, encoding="utf-8", errors="surrogateescape") as tar:
        for member in tar:
            path = _inside(archive, member.name)
            if member.isdir():
                continue
            if member.issym():
                entry = TreeEntry(LINK, member.linkname.encode("utf-8", "surrogateescape"))
            elif member.islnk():
                linked = files.get(_inside(archive, member.linkname))
                if linked is None:
                    raise _refused(archive, f"hard link {member.name} leads to no file of it")
                entry = linked
            elif member.isreg():
                content = tar.extractfile(member)
                left -= member.size
                if left < 0 or content is None:
                    raise _refused(archive, f"it unpacks to more than {MAX_BYTES} bytes")
                entry = TreeEntry(EXECUTABLE if member.mode & stat.S_IXUSR else FILE, content.read())
            else:
                raise _refused(archive, f"{member.name} is no file, folder or link")
            files[path] = entry
            yield path, entry


def _zip_entries(archive: Path) -> Iterator[tuple[str, TreeEntry]]:
    left = MAX_BYTES
    with zipfile.ZipFile(archive) as bundle:
        for member in bundle.infolist():
            path = _inside(archive, member.filename)
            mode = member.external_attr >> 16
            if member.is_dir():
                continue
            if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFLNK}:
                raise _refused(archive, f"{member.filename} is no file, folder or link")
            left -= member.file_size
            if left < 0:
                raise _refused(archive, f"it unpacks to more than {MAX_BYTES} bytes")
            kind = LINK if stat.S_ISLNK(mode) else EXECUTABLE if mode & stat.S_IXUSR else FILE
            yield path, TreeEntry(kind, bundle.read(member))


def _inside(archive: Path, name: str) -> str:
    path = posixpath.normpath(name.lstrip("/"))
    if _leaves(path) or "\0" in path:
        raise _refused(archive, f"{name} lies outside of it")
    return path


def _leaves(path: str) -> bool:
    return posixpath.normpath(path).split("/")[0] == ".."


def _without_folder(tree: dict[str, TreeEntry]) -> dict[str, TreeEntry]:
    tops = {path.split("/")[0] for path in tree}
    if len(tops) != 1 or any("/" not in path for path in tree):
        return tree
    return {path.partition("/")[2]: entry for path, entry in tree.items()}


def _refused(archive: Path, why: str) -> InputError:
    return InputError(f"{archive.name}: {why}; this release cannot be taken")
