"""Patches applied to a commit without a checkout: new contents of files, made by git in a scratch index.

The mirror is only read: index and new objects lie in a temporary folder that is gone when the call returns or raises.
"""

from __future__ import annotations

import os
import posixpath
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from actors.verifier.suite.commit import CommitTree
from events.errors import InfraError, InputError
from store.sources import git_environment

__all__ = ["FIELDS", "apply_patches", "compiled_sources", "needs_build"]

FIELDS = ("patch", "test_patch")
"""The fields of a pull request that hold patches."""
TIMEOUT_S = 120.0
LINK, SUBMODULE = "120000", "160000"

COMPILED_SUFFIXES = (
    *(".c", ".h", ".cc", ".hh", ".cpp", ".hpp", ".cxx", ".hxx", ".c++", ".mm", ".cu", ".cuh", ".pyx", ".pxd", ".pxi"),
    *(".pyx.in", ".pxd.in", ".pxi.in", ".f", ".for", ".f77", ".f90", ".f95", ".f03", ".f08", ".pyf", ".pyf.src"),
    *(".c.src", ".h.src", ".c.in", ".h.in", ".rs", ".go", ".s", ".asm", ".i", ".swg", ".ispc", ".proto", ".fbs"),
)
BUILD_SUFFIXES = (".cmake", ".gyp", ".gypi", ".mk", ".bzl", ".pc.in", ".spec.in")
BUILD_NAMES = frozenset(
    {"pyproject.toml", "setup.py", "setup.cfg", "CMakeLists.txt", "meson.build", "meson_options.txt", "meson.options"}
    | {"Cargo.toml", "Cargo.lock", "build.rs", "Makefile", "makefile", "GNUmakefile", "SConstruct", "SConscript"}
    | {"configure", "configure.ac", "Makefile.am", "WORKSPACE", "BUILD.bazel", "build.py", "MANIFEST.in"}
    | {"hatch_build.py", "pdm_build.py", "versioneer.py", "go.mod", "go.sum", "rust-toolchain", "rust-toolchain.toml"}
    | {"VERSION", "version.txt", ".git_archival.txt"}
)


def apply_patches(
    tree: CommitTree, patches: Sequence[str], *, fields: Sequence[str] = FIELDS
) -> dict[str, bytes | None]:
    """What patches, applied one after the other, change in a commit.

    Args:
        tree: the commit.
        patches: unified diffs as git writes them, binary ones, renames and changed modes included; empty ones are
            passed over.
        fields: where each patch comes from, for messages.

    Returns:
        The new content by path, sorted; ``None`` for a file that is gone. A file of which only the mode changed is in
        it with its content.

    Raises:
        InputError: a patch does not apply, or it changes a link or a submodule; names its field and what git says.
        InfraError: git cannot be run, or failed by itself.
    """
    names = [fields[number] if number < len(fields) else f"patch {number + 1}" for number in range(len(patches))]
    with tempfile.TemporaryDirectory(prefix="headrace-index-") as folder:
        scratch = _Scratch(tree, Path(folder))
        for field, patch in zip(names, patches, strict=True):
            if patch.strip():
                scratch.apply(patch, field=field)
        return scratch.changes(" and ".join(names))


def compiled_sources(paths: Iterable[str]) -> list[str]:
    """Those of the paths that are sources of compiled modules, sorted."""
    return sorted(path for path in paths if path.lower().endswith(COMPILED_SUFFIXES))


def needs_build(paths: Iterable[str]) -> list[str]:
    """Those of the changed files that are inputs of a build, sorted: after a change of them the package has to be built
    anew, and replacing files in an image is not enough."""
    changed = list(paths)
    inputs = [
        path for path in changed if posixpath.basename(path) in BUILD_NAMES or path.lower().endswith(BUILD_SUFFIXES)
    ]
    return sorted({*inputs, *compiled_sources(changed)})


class _Scratch:
    """An index of a commit, in which patches are applied."""

    def __init__(self, tree: CommitTree, folder: Path) -> None:
        self._tree = tree
        objects = os.fsdecode(tree.mirror.git("rev-parse", "--git-path", "objects")).strip()
        self._environment = {
            "GIT_INDEX_FILE": str(folder / "index"),
            "GIT_OBJECT_DIRECTORY": str(folder / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": str((tree.mirror.path / objects).resolve()),
        }
        (folder / "objects").mkdir()
        self._git("read-tree", tree.commit)

    def apply(self, patch: str, *, field: str) -> None:
        """Applies one patch, or raises ``InputError``."""
        # git ends a binary hunk with an empty line, and passes the hunk over in silence when that got lost
        data = patch.encode("utf-8", "surrogateescape") + b"\n\n"
        done = self._run(["apply", "--cached", "--whitespace=nowarn", "-"], stdin=data)
        if done.returncode != 0:
            lines = done.stderr.decode("utf-8", "replace").splitlines()
            errors = [line.removeprefix("error: ") for line in lines if line.startswith(("error: ", "fatal: "))]
            raise InputError(
                f"field {field!r}: the patch does not apply to commit {self._tree.commit[:12]}: "
                f"{'; '.join(errors[:2]) or 'git gave no reason'}; correct the patch"
            )

    def changes(self, fields: str) -> dict[str, bytes | None]:
        """What is in the index and not in the commit."""
        listed = self._git("diff-index", "--cached", "--no-renames", "-z", self._tree.commit)
        words = listed.rstrip(b"\0").split(b"\0") if listed else []
        found: dict[str, bytes | None] = {}
        for header, name in zip(words[::2], words[1::2], strict=True):
            before, mode, _, blob, status = header.decode("ascii").removeprefix(":").split(" ")
            path = os.fsdecode(name)
            for kind, word in ((LINK, "link"), (SUBMODULE, "submodule")):
                if kind in (before, mode):
                    raise InputError(
                        f"field {fields!r}: the patch changes the {word} {path}, which cannot be laid over"
                    )
            found[path] = None if status == "D" else self._git("cat-file", "blob", blob)
        return dict(sorted(found.items()))

    def _git(self, *arguments: str) -> bytes:
        done = self._run(list(arguments))
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise InfraError(f"git {arguments[0]} failed: {said[-1] if said else 'no message'}")
        return done.stdout

    def _run(self, arguments: list[str], *, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                ["git", "-C", str(self._tree.mirror.path), *arguments],
                input=stdin,
                capture_output=True,
                env=git_environment(self._environment),
                timeout=TIMEOUT_S,
                check=False,
            )
        except OSError as exc:
            raise InfraError(f"cannot run git ({exc.strerror}); install it") from exc
        except subprocess.TimeoutExpired as exc:
            raise InfraError(f"git {arguments[0]} took longer than {TIMEOUT_S:.0f} s and was ended") from exc
