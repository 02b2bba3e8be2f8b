"""Source distributions read into trees: what stays inside is taken, what leads outside is refused."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from events.errors import InputError
from scripts import sdist
from scripts.sdist import TreeEntry, read_sdist


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as out:  # type: ignore[call-overload]
        for member, content in members:
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return path


def member(
    name: str, content: bytes = b"x", *, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info, content if kind == tarfile.REGTYPE else b""


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, kind=tarfile.SYMTYPE, link=target)


def test_files_links_and_modes_are_kept_and_the_outer_folder_is_taken_off(tmp_path: Path) -> None:
    archive = tar(
        tmp_path / "p-1.tar.gz",
        member("p-1", kind=tarfile.DIRTYPE),
        member("p-1/run.sh", b"go", mode=0o755),
        member("p-1/a/b.txt", b"text"),
        symlink("p-1/a/link", "../run.sh"),
        member("p-1/hard", kind=tarfile.LNKTYPE, link="p-1/run.sh"),
        member("./p-1/käse.txt"),
    )
    assert read_sdist(archive) == {
        "run.sh": TreeEntry("100755", b"go"),
        "a/b.txt": TreeEntry("100644", b"text"),
        "a/link": TreeEntry("120000", b"../run.sh"),
        "hard": TreeEntry("100755", b"go"),
        "käse.txt": TreeEntry("100644", b"x"),
    }


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_every_compression_of_tars_is_read(tmp_path: Path, suffix: str) -> None:
    assert list(read_sdist(tar(tmp_path / f"p-1.tar.{suffix}", member("p-1/a"), mode=f"w:{suffix}"))) == ["a"]


def test_zips_are_read_with_their_modes_and_links(tmp_path: Path) -> None:
    path = tmp_path / "p-1.zip"
    with zipfile.ZipFile(path, "w") as out:
        for name, mode in (
            ("p-1/a.py", stat.S_IFREG | 0o644),
            ("p-1/run", stat.S_IFREG | 0o755),
            ("p-1/l", stat.S_IFLNK),
        ):
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            out.writestr(info, "a.py")
    assert {name: entry.mode for name, entry in read_sdist(path).items()} == {
        "a.py": "100644",
        "run": "100755",
        "l": "120000",
    }


def test_files_beside_each_other_keep_their_places(tmp_path: Path) -> None:
    assert set(read_sdist(tar(tmp_path / "p.tar.gz", member("p/a"), member("setup.py")))) == {"p/a", "setup.py"}


def test_a_git_folder_inside_is_left_out(tmp_path: Path) -> None:
    assert list(read_sdist(tar(tmp_path / "p.tar.gz", member("p/.git/config"), member("p/x/.GIT"), member("p/a")))) == [
        "a"
    ]


def test_an_absolute_name_is_taken_as_one_inside(tmp_path: Path) -> None:
    assert list(read_sdist(tar(tmp_path / "p.tar.gz", member("/p/etc/passwd")))) == ["etc/passwd"]


REFUSED: dict[str, list[tuple[tarfile.TarInfo, bytes]]] = {
    "a name that climbs out": [member("p/../../evil")],
    "a link that climbs out": [member("p/a"), symlink("p/l", "../../etc/passwd")],
    "a link out of the folder that is taken off": [member("p/a"), symlink("p/l", "../other")],
    "an absolute link": [member("p/a"), symlink("p/l", "/etc/passwd")],
    "a hard link to what is not there": [member("p/a"), member("p/h", kind=tarfile.LNKTYPE, link="/etc/passwd")],
    "a hard link that climbs out": [member("p/a"), member("p/h", kind=tarfile.LNKTYPE, link="../../etc/passwd")],
    "a device": [member("p/null", kind=tarfile.CHRTYPE)],
    "a pipe": [member("p/pipe", kind=tarfile.FIFOTYPE)],
    "nothing but folders": [member("p", kind=tarfile.DIRTYPE)],
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_archive_is_refused_whole_that_holds(tmp_path: Path, what: str) -> None:
    with pytest.raises(InputError, match=r"p-1\.tar\.gz: .*; this release cannot be taken"):
        read_sdist(tar(tmp_path / "p-1.tar.gz", *REFUSED[what]))


def test_a_zip_is_refused_that_holds_a_name_that_climbs_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as out:
        out.writestr("p/../../evil", "x")
    with pytest.raises(InputError, match="outside"):
        read_sdist(tmp_path / "p.zip")


def test_a_zip_is_refused_that_holds_a_device(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("p/null")
    info.external_attr = stat.S_IFCHR << 16
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as out:
        out.writestr(info, "")
    with pytest.raises(InputError, match="no file, folder or link"):
        read_sdist(tmp_path / "p.zip")


def _tar_bomb(path: Path) -> Path:
    return tar(path / "p.tar.gz", member("p/a", b"0" * 600), member("p/b", b"0" * 600))


def _zip_bomb(path: Path) -> Path:
    with zipfile.ZipFile(path / "p.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("p/a", "0" * 1200)
    return path / "p.zip"


@pytest.mark.parametrize("make", [_tar_bomb, _zip_bomb])
def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path]
) -> None:
    monkeypatch.setattr(sdist, "MAX_BYTES", 1000)
    with pytest.raises(InputError, match="more than 1000 bytes"):
        read_sdist(make(tmp_path))


@pytest.mark.parametrize("name", ["p.tar.gz", "p.zip", "p.tar.xz"])
def test_what_is_cut_off_or_no_archive_is_damaged(tmp_path: Path, name: str) -> None:
    whole = tar(tmp_path / "whole.tar.gz", member("p/a", b"text" * 1000)).read_bytes()
    for content in (b"", b"no archive", whole[: len(whole) // 2]):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="is damaged"):
            read_sdist(tmp_path / name)
