"""Archives of byte code that come out of a container: only what was asked for is unpacked."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from actors.verifier.containers.bytecode import NotCompiled, unpacked


def archive(folder: Path, *members: tarfile.TarInfo) -> Path:
    made = folder / "made.tar"
    with tarfile.open(made, "w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return made


def member(name: str, *, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, "/etc/passwd" if kind != tarfile.REGTYPE else ""
    made.size = 3 if kind == tarfile.REGTYPE else 0
    return made


def test_compiled_files_are_unpacked(tmp_path: Path) -> None:
    made = archive(tmp_path, member("usr/lib/a.cpython-311.pyc"), member("opt/b.cpython-311.pyc"))
    folder = unpacked(made, tmp_path / "out", at_most=2)
    assert (folder / "usr/lib/a.cpython-311.pyc").read_bytes() == b"xxx"
    assert (folder / "opt/b.cpython-311.pyc").read_bytes() == b"xxx"


@pytest.mark.parametrize(
    "wrong",
    [
        member("../out.pyc"),
        member("usr/../../out.pyc"),
        member("/etc/out.pyc"),
        member("usr/out.py"),
        member("usr/out.pyc", kind=tarfile.SYMTYPE),
        member("usr/out.pyc", kind=tarfile.LNKTYPE),
        member("usr/out.pyc", kind=tarfile.FIFOTYPE),
        member("usr/out.pyc", kind=tarfile.DIRTYPE),
    ],
    ids=["above", "above_by_a_detour", "absolute", "source", "link", "hard_link", "fifo", "folder"],
)
def test_an_archive_with_anything_else_is_not(wrong: tarfile.TarInfo, tmp_path: Path) -> None:
    made = archive(tmp_path, member("usr/good.pyc"), wrong)
    with pytest.raises(NotCompiled, match="no compiled file"):
        unpacked(made, tmp_path / "out", at_most=5)
    assert not (tmp_path / "out.pyc").exists()


def test_an_archive_with_more_than_was_asked_for_is_not(tmp_path: Path) -> None:
    made = archive(tmp_path, member("a.pyc"), member("b.pyc"))
    with pytest.raises(NotCompiled, match=r"b\.pyc"):
        unpacked(made, tmp_path / "out", at_most=1)
