"""An image's file system for tests, made of two real folders, and commits to compare it with."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from actors.verifier.image.image_files import MAX_READ_BYTES, Entry, FileTooLarge, ImageConfig, ImageFiles
from actors.verifier.suite.commit import CommitTree
from store.sources import Mirror
from tests.engine_fixtures import GitProject

__all__ = ["FolderFiles", "Image"]


class FolderFiles(ImageFiles):
    """The folder ``image`` is the image, ``parent`` its parent.

    It does not do what only a real image needs: layers, whiteouts, owners, hard links, an image's configuration.
    """

    def __init__(self, *, image: Path, parent: Path) -> None:
        self._image, self._parent = image, parent

    @property
    def config(self) -> ImageConfig:
        return ImageConfig(environment={}, volumes=[])

    def changed(self) -> Mapping[str, Entry | None]:
        mine = {entry.path: entry for entry in _walk(self._image, self._image)}
        theirs = {entry.path: entry for entry in _walk(self._parent, self._parent)}
        gone: dict[str, Entry | None] = dict.fromkeys(theirs.keys() - mine.keys())
        return gone | {path: entry for path, entry in mine.items() if not self._equal(entry, theirs.get(path))}

    def entry(self, path: str) -> Entry | None:
        return _entry(self._image, self._image / path)

    def parent_entry(self, path: str) -> Entry | None:
        return _entry(self._parent, self._parent / path)

    def walk(self, folder: str) -> Iterator[Entry]:
        return _walk(self._image, self._image / folder)

    def read(self, path: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        return _read(self._image, path, max_bytes)

    def read_parent(self, path: str, *, max_bytes: int = MAX_READ_BYTES) -> bytes:
        return _read(self._parent, path, max_bytes)

    def _equal(self, entry: Entry, other: Entry | None) -> bool:
        return entry == other and (entry.kind != "file" or self.read(entry.path) == self.read_parent(entry.path))


def _entry(root: Path, place: Path) -> Entry | None:
    path = place.relative_to(root).as_posix()
    if any(root.joinpath(*place.relative_to(root).parts[:cut]).is_symlink() for cut in range(1, len(path.split("/")))):
        return None
    try:
        found = place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        return Entry(path=path, kind="link", mode=mode, target=os.readlink(place))  # noqa: PTH115 - as it is
    if stat.S_ISDIR(found.st_mode):
        return Entry(path=path, kind="folder", mode=mode)
    if stat.S_ISREG(found.st_mode):
        return Entry(path=path, kind="file", mode=mode, size=found.st_size)
    return Entry(path=path, kind="other", mode=mode)


def _walk(root: Path, folder: Path) -> Iterator[Entry]:
    places = [Path(at) / name for at, folders, names in os.walk(folder) for name in (*folders, *names)]
    for place in sorted(places, key=lambda p: p.relative_to(root).as_posix()):
        if (entry := _entry(root, place)) is not None:
            yield entry


def _read(root: Path, path: str, max_bytes: int) -> bytes:
    entry = _entry(root, root / path)
    if entry is None or entry.kind != "file":
        raise FileNotFoundError(path)
    if entry.size > max_bytes:
        raise FileTooLarge(path)
    return (root / path).read_bytes()


class Image:
    """A commit and the image that claims to hold it; ``root`` is the image's root folder."""

    def __init__(self, folder: Path) -> None:
        self.root, self._parent = folder / "image", folder / "parent"
        self._parent.mkdir(parents=True)
        self.checkout = self.root / "workspace/repo"
        self.project = GitProject(folder / "project")
        self.tree = CommitTree(Mirror(path=self.project.path, clone_url=""), "")

    @property
    def files(self) -> FolderFiles:
        """The image, seen from outside."""
        return FolderFiles(image=self.root, parent=self._parent)

    def commit(self, files: Mapping[str, str]) -> None:
        """Commits these files and checks the commit out, as Headrace's source stage does."""
        self.check_out(self.project.commit(files))

    def check_out(self, commit: str) -> None:
        """Puts a commit of the project into the image."""
        self.tree = CommitTree(Mirror(path=self.project.path, clone_url=""), commit)
        self.checkout.parent.mkdir(parents=True, exist_ok=True)
        self.project.git("clone", "--quiet", "--no-hardlinks", str(self.project.path), str(self.checkout))
        self.project.git("-C", str(self.checkout), "checkout", "--quiet", "--detach", commit)
        for hook in (self.checkout / ".git/hooks").glob("*"):
            hook.unlink()

    def write(self, files: Mapping[str, str | bytes]) -> None:
        """Writes files of the image, by paths relative to the checkout (or to the root, with a leading slash)."""
        for name, content in files.items():
            place = self.root / name[1:] if name.startswith("/") else self.checkout / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content.encode() if isinstance(content, str) else content)
