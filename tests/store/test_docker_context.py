"""The build context as a value: what its digest means, and how bad folders and tars are refused."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import msgspec
import pytest

from events.errors import InputError
from store.docker_context import FILE_NAMES, DockerContext


def context(**changes: str) -> DockerContext:
    return DockerContext(**{name: f"# {name}\n" for name in FILE_NAMES} | changes)


def test_a_context_survives_the_way_through_a_folder(tmp_path: Path) -> None:
    made = context(build_env_sh="#!/bin/bash\necho 'naïve'\n")
    made.to_directory(tmp_path / "new" / "folder")
    assert DockerContext.from_directory(tmp_path / "new" / "folder") == made


def test_a_folder_gets_the_nine_files_by_their_contract_names_and_scripts_can_be_run(tmp_path: Path) -> None:
    context().to_directory(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(FILE_NAMES.values())
    executable = {name for name in names if os.access(tmp_path / name, os.X_OK)}
    assert executable == set(names) - {"Dockerfile"}


def test_writing_over_a_context_leaves_other_files_alone_and_no_temporary_ones(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    context().to_directory(tmp_path)
    context(dockerfile="FROM x\n").to_directory(tmp_path)
    assert (tmp_path / "Dockerfile").read_text() == "FROM x\n"
    assert {path.name for path in tmp_path.iterdir()} == {*FILE_NAMES.values(), "notes.txt"}


def test_equal_contents_give_identical_tars_whatever_the_files_times(tmp_path: Path) -> None:
    context().to_directory(tmp_path)
    os.utime(tmp_path / "Dockerfile", (1, 1))
    again = DockerContext.from_directory(tmp_path)
    assert again.to_tar_bytes() == context().to_tar_bytes()
    assert again.digest == context().digest


def test_one_changed_character_in_any_file_changes_the_digest() -> None:
    digests = {context(**{name: "# changed\n"}).digest for name in FILE_NAMES}
    assert len(digests | {context().digest}) == len(FILE_NAMES) + 1


def test_the_tar_is_sorted_has_zero_times_and_executable_scripts() -> None:
    with tarfile.open(fileobj=io.BytesIO(context().to_tar_bytes())) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == sorted(FILE_NAMES.values())
    assert {(member.mtime, member.uid, member.gid) for member in members} == {(0, 0, 0)}
    assert {member.name for member in members if not member.mode & 0o100} == {"Dockerfile"}


def test_a_context_survives_the_way_through_a_tar() -> None:
    assert DockerContext.from_tar_bytes(context().to_tar_bytes()) == context()


def test_a_context_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        context().dockerfile = "FROM y"  # type: ignore[misc]


def test_a_missing_file_is_named_with_a_remedy(tmp_path: Path) -> None:
    context().to_directory(tmp_path)
    (tmp_path / "run-tests.sh").unlink()
    with pytest.raises(InputError, match=r"run-tests\.sh: is missing;.*add the file"):
        DockerContext.from_directory(tmp_path)


def test_a_file_that_is_not_utf8_is_named_with_the_byte(tmp_path: Path) -> None:
    context().to_directory(tmp_path)
    (tmp_path / "profile.sh").write_bytes(b"ok \xff")
    with pytest.raises(InputError, match=r"profile\.sh: is not UTF-8 \(byte 3\)"):
        DockerContext.from_directory(tmp_path)


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="file: cannot be written"):
        context().to_directory(tmp_path / "file")


def test_a_tar_without_a_file_and_bytes_that_are_no_tar_are_refused() -> None:
    with pytest.raises(InputError, match="is no readable tar"):
        DockerContext.from_tar_bytes(b"nonsense" * 200)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w"):
        pass
    with pytest.raises(InputError, match="blob 12ab: Dockerfile is missing"):
        DockerContext.from_tar_bytes(buffer.getvalue(), source="blob 12ab")


def test_a_context_travels_as_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(context()), type=DockerContext) == context()
