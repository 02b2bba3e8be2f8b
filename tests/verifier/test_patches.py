"""Patches on real repositories, by git itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from actors.verifier.suite.commit import CommitTree
from actors.verifier.suite.patches import apply_patches, compiled_sources, needs_build
from events.errors import InfraError, InputError
from store.sources import Mirror
from tests.engine_fixtures import GitProject
from tests.verifier.commits import mirrored

FILES = {"a.py": "one\ntwo\nthree\n", "old.py": "".join(f"line {number}\n" for number in range(20)), "gone.py": "x\n"}


class Patched:
    """A project, and what changes of it look like as a patch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project = GitProject(folder / "project")
        self.project.git("config", "core.autocrlf", "false")
        self.commit = self.project.commit(FILES)

    @property
    def path(self) -> Path:
        return self.project.path

    def patch(self) -> str:
        """What was changed since the last call, as ``git diff`` says it; the changes are then the commit's."""
        self.project.git("add", "--all")
        text = self.project.git("diff", "--cached", "--binary", "-M")
        return text + "\n\n"

    def tree(self) -> CommitTree:
        return mirrored(self.project, self.commit, cache=self.folder / "cache")


@pytest.fixture
def patched(tmp_path: Path) -> Patched:
    return Patched(tmp_path)


def test_changed_new_and_removed_files_are_told(patched: Patched) -> None:
    (patched.path / "a.py").write_text("one\n2\nthree\n")
    (patched.path / "new").mkdir()
    (patched.path / "new/b.py").write_text("new\n")
    (patched.path / "gone.py").unlink()
    assert apply_patches(patched.tree(), [patched.patch()]) == {
        "a.py": b"one\n2\nthree\n",
        "gone.py": None,
        "new/b.py": b"new\n",
    }


def test_a_renamed_file_is_gone_and_new(patched: Patched) -> None:
    (patched.path / "old.py").rename(patched.path / "renamed.py")
    patch = patched.patch()
    assert "rename from old.py" in patch
    assert apply_patches(patched.tree(), [patch]) == {"old.py": None, "renamed.py": FILES["old.py"].encode()}


def test_a_binary_patch_and_a_changed_mode_are_applied(patched: Patched) -> None:
    (patched.path / "image.bin").write_bytes(bytes(range(256)))
    (patched.path / "a.py").chmod(0o755)
    found = apply_patches(patched.tree(), [patched.patch()])
    assert found == {"a.py": FILES["a.py"].encode(), "image.bin": bytes(range(256))}


def test_line_ends_of_windows_are_kept(patched: Patched) -> None:
    (patched.path / "a.py").write_bytes(b"one\r\ntwo\r\n")
    patched.commit = patched.project.commit({})
    (patched.path / "a.py").write_bytes(b"one\r\n2\r\n")
    diff = subprocess.run(["git", "-C", str(patched.path), "diff"], capture_output=True, check=True).stdout.decode()
    assert apply_patches(patched.tree(), [diff]) == {"a.py": b"one\r\n2\r\n"}


def test_a_second_patch_builds_on_the_first_and_empty_ones_are_passed_over(patched: Patched) -> None:
    (patched.path / "a.py").write_text("one\n2\nthree\n")
    first = patched.patch()
    patched.project.git("commit", "--quiet", "--message", "first")
    (patched.path / "a.py").write_text("one\n2\n3\n")
    second = patched.patch()
    assert apply_patches(patched.tree(), [first, "", second]) == {"a.py": b"one\n2\n3\n"}
    assert apply_patches(patched.tree(), ["", " \n"]) == {}


def test_a_patch_that_loses_its_last_line_end_is_applied(patched: Patched) -> None:
    (patched.path / "a.py").write_text("one\n2\nthree\n")
    (patched.path / "image.bin").write_bytes(bytes(range(256)))
    found = apply_patches(patched.tree(), [patched.patch().rstrip("\n")])
    assert found == {"a.py": b"one\n2\nthree\n", "image.bin": bytes(range(256))}


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ("--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-four\n+five\n", "patch failed: a.py:1"),
        ("--- a/none.py\n+++ b/none.py\n@@ -1 +1 @@\n-four\n+five\n", "none.py: does not exist in index"),
        ("no patch at all\n", "No valid patches in input"),
        ("--- a/a.py\n+++ b/a.py\n@@ -1 +1 @@\n-one\n", "corrupt patch at"),
        (
            "diff --git a/../x b/../x\nnew file mode 100644\n--- /dev/null\n+++ b/../x\n@@ -0,0 +1 @@\n+x\n",
            "invalid path '../x'",
        ),
        (
            "diff --git a/i.bin b/i.bin\nindex 1234567..89abcde 100644\nBinary files a/i.bin and b/i.bin differ\n",
            "i.bin",
        ),
    ],
    ids=["other_text", "no_file", "no_patch", "cut", "outside", "binary_without_data"],
)
def test_a_patch_that_does_not_apply_names_its_field_and_the_reason(patched: Patched, patch: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        apply_patches(patched.tree(), ["", patch])
    assert caught.value.message.startswith("field 'test_patch': the patch does not apply to commit ")
    assert said in caught.value.message
    assert caught.value.message.endswith("; correct the patch")


def test_a_patch_with_a_link_is_refused(patched: Patched) -> None:
    (patched.path / "link").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="changes the link link"):
        apply_patches(patched.tree(), [patched.patch()])


def test_the_mirror_is_only_read(patched: Patched) -> None:
    tree = patched.tree()
    before = sorted(str(path) for path in tree.mirror.path.rglob("*"))
    (patched.path / "a.py").write_text("something new\n")
    assert apply_patches(tree, [patched.patch()]) == {"a.py": b"something new\n"}
    assert sorted(str(path) for path in tree.mirror.path.rglob("*")) == before


def test_a_commit_that_the_mirror_lacks_is_no_fault_of_the_patch(patched: Patched) -> None:
    tree = CommitTree(Mirror(path=patched.tree().mirror.path, clone_url=""), "0" * 40)
    with pytest.raises(InfraError, match="git read-tree failed"):
        apply_patches(tree, ["x"])


def test_sources_of_compiled_modules_and_inputs_of_a_build_are_told_from_other_files() -> None:
    paths = ["src/a.pyx", "b.F90", "c.rs", "setup.py", "sub/CMakeLists.txt", "cmake/x.cmake", "d.c.src"]
    others = ["a.py", "docs/index.rst", "tests/test_setup.py", "data.json", "c"]
    assert needs_build([*others, *paths]) == sorted(paths)
    assert compiled_sources([*others, *paths]) == ["b.F90", "c.rs", "d.c.src", "src/a.pyx"]
