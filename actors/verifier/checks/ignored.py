"""What a commit's own ``.gitignore`` and ``.gitattributes`` say, as git itself reads them.

git is asked on the host, in a scratch repository that holds nothing but these files of the commit: the image's
``.git/info/exclude``, its configuration and this machine's own ones count for nothing.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from actors.verifier.suite.commit import LINK, SUBMODULE, CommitTree
from events.errors import InfraError
from store.sources import git_environment

__all__ = ["attributes_of", "ignored_by"]

NOTHING_MATCHED = 1
ATTRIBUTES = ("eol", "text", "ident", "working-tree-encoding")
SETTINGS = ("-c", f"core.excludesFile={os.devnull}", "-c", f"core.attributesFile={os.devnull}")


def ignored_by(tree: CommitTree, paths: Iterable[str]) -> frozenset[str]:
    """Those of the paths, relative to the checkout, that the commit's ``.gitignore`` files ignore.

    Raises:
        InfraError: git or the disk failed.
    """
    asked = list(paths)
    if not asked or ".gitignore" not in tree.by_name:
        return frozenset()
    answer = _ask(tree, ".gitignore", ["check-ignore", "--no-index", "--stdin", "-z"], asked)
    return frozenset(os.fsdecode(name) for name in answer.split(b"\0") if name)


def attributes_of(tree: CommitTree, paths: Iterable[str]) -> Mapping[str, Mapping[str, str]]:
    """By path, the attributes that change what git writes into a checkout: line ends, identifiers, encodings.

    Raises:
        InfraError: git or the disk failed.
    """
    asked = list(paths)
    if not asked or ".gitattributes" not in tree.by_name:
        return {}
    fields = _ask(tree, ".gitattributes", ["check-attr", "-z", "--stdin", *ATTRIBUTES], asked).split(b"\0")
    found: dict[str, dict[str, str]] = {}
    for path, name, value in zip(fields[::3], fields[1::3], fields[2::3], strict=False):
        if value != b"unspecified":
            found.setdefault(os.fsdecode(path), {})[os.fsdecode(name)] = os.fsdecode(value)
    return found


def _ask(tree: CommitTree, name: str, question: list[str], paths: list[str]) -> bytes:
    rules = [path for path in tree.by_name[name] if tree.files[path].mode not in {LINK, SUBMODULE}]
    tree.prefetch(rules)
    try:
        with tempfile.TemporaryDirectory(prefix="headrace-rules-") as folder:
            _git(folder, ["init", "--quiet", "--template="])
            for path in rules:
                place = Path(folder, path)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(tree.read(path))
            stdin = b"".join(os.fsencode(path) + b"\0" for path in paths)
            return _git(folder, [*SETTINGS, *question], stdin=stdin)
    except OSError as exc:
        raise InfraError(f"the rules of {name} cannot be written to a scratch folder ({exc.strerror})") from exc


def _git(folder: str, arguments: list[str], stdin: bytes = b"") -> bytes:
    done = subprocess.run(
        ["git", "-C", folder, *arguments],
        input=stdin,
        capture_output=True,
        env=git_environment({"GIT_ATTR_NOSYSTEM": "1"}),
        check=False,
    )
    if done.returncode not in (0, NOTHING_MATCHED):
        raise InfraError(f"git {arguments[-1]} failed: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout
