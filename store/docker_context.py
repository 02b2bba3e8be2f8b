"""The Dockerfile and scripts of one build, as a value.

A ``DockerContext`` is frozen and compares by content. Equal contents give byte-identical tars (sorted names, zero
times, fixed owners and modes), so ``digest``, the SHA-256 of that tar, names a context everywhere: in the log, in the
blob store and on image labels. Reading is strict: a missing or undecodable file is an ``InputError`` that names it.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import msgspec

from events.errors import InputError

__all__ = ["FILE_NAMES", "DockerContext"]

FILE_NAMES: Mapping[str, str] = {
    "dockerfile": "Dockerfile",
    "build_base_sh": "docker_build_base.sh",
    "build_env_sh": "docker_build_env.sh",
    "build_pkg_sh": "docker_build_pkg.sh",
    "build_run_sh": "docker_build_run.sh",
    "build_final_sh": "docker_build_final.sh",
    "profile_sh": "profile.sh",
    "run_tests_sh": "run-tests.sh",
    "entrypoint_sh": "entrypoint.sh",
}
"""Attribute of a ``DockerContext`` to its file's name (CONTRACTS.md section 1)."""


class DockerContext(msgspec.Struct, frozen=True, kw_only=True):
    """The Dockerfile and scripts of a build, each the full text of one file.

    >>> from actors.templates import stock_context
    >>> context = stock_context()
    >>> DockerContext.from_tar_bytes(context.to_tar_bytes()) == context
    True
    >>> sorted(context.files)[:2], len(context.digest)
    (['Dockerfile', 'docker_build_base.sh'], 64)
    """

    dockerfile: str
    build_base_sh: str
    build_env_sh: str
    build_pkg_sh: str
    build_run_sh: str
    build_final_sh: str
    profile_sh: str
    run_tests_sh: str
    entrypoint_sh: str

    @property
    def files(self) -> dict[str, str]:
        """Texts by file name, in the order of the names."""
        return {name: getattr(self, attribute) for attribute, name in sorted(FILE_NAMES.items(), key=lambda i: i[1])}

    @property
    def digest(self) -> str:
        """SHA-256 of ``to_tar_bytes()``, in hexadecimal."""
        return hashlib.sha256(self.to_tar_bytes()).hexdigest()

    @classmethod
    def from_directory(cls, path: str | Path) -> Self:
        """Reads a context from the nine files of a folder; other files there are not looked at.

        Raises:
            InputError: a file is missing, cannot be read or is not UTF-8; names it and what to do.
        """
        folder = Path(path)
        return cls(**{attribute: _read_text(folder / name) for attribute, name in FILE_NAMES.items()})

    def to_directory(self, path: str | Path) -> None:
        """Writes the nine files into a folder, which is made if need be.

        Each file is written beside its place and then renamed, so that a crash leaves whole files only; scripts are
        made executable. Other files in the folder stay.

        Raises:
            InputError: the folder cannot be written.
        """
        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in self.files.items():
                _replace(folder / name, text.encode(), mode=_mode(name))
        except OSError as exc:
            raise InputError(f"{folder}: cannot be written ({exc.strerror}); name a folder that can be") from exc

    def to_tar_bytes(self) -> bytes:
        """An uncompressed tar of the nine files, byte-identical for equal contents."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, text in self.files.items():
                data = text.encode()
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(data), _mode(name)
                tar.addfile(info, io.BytesIO(data))
        return buffer.getvalue()

    @classmethod
    def from_tar_bytes(cls, data: bytes, *, source: str = "context tar") -> Self:
        """Reads what ``to_tar_bytes`` wrote.

        Args:
            data: the tar.
            source: how messages name it.

        Raises:
            InputError: no readable tar, or one of the nine files is missing or not UTF-8.
        """
        texts: dict[str, str] = {}
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
                for attribute, name in FILE_NAMES.items():
                    try:
                        member = tar.extractfile(name)
                    except KeyError:
                        member = None
                    if member is None:
                        raise InputError(f"{source}: {name} is missing; make the context anew with all nine files")
                    texts[attribute] = _decode(member.read(), where=f"{source}: {name}")
        except tarfile.TarError as exc:
            raise InputError(f"{source}: is no readable tar ({exc}); make the context anew") from exc
        return cls(**texts)


def _mode(name: str) -> int:
    return 0o755 if name.endswith(".sh") else 0o644


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError as exc:
        raise InputError(
            f"{path}: is missing; a build context needs {', '.join(sorted(FILE_NAMES.values()))}; add the file"
        ) from exc
    except OSError as exc:
        raise InputError(f"{path}: cannot be read ({exc.strerror}); make it readable") from exc
    return _decode(data, where=str(path))


def _decode(data: bytes, *, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InputError(f"{where}: is not UTF-8 (byte {exc.start}); save it as UTF-8") from exc


def _replace(path: Path, data: bytes, *, mode: int) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
