"""What of a repository goes into an image: one commit's tree, the commits that led to it, and their tags. No future.

The image's repository holds every commit in the history of the checked-out one, without the trees and files of the
older ones, and the tags that point into that history: enough for ``git describe``, ``git log`` and the version plug-ins
that use them, and nothing that was committed later, such as the fix that a dataset asks for. It is marked as a partial
clone, so that git takes what is missing for missing on purpose; there is no ``.git/shallow``, which setuptools_scm and
others refuse.

Packs are made by the host's git in one thread and without reuse of the mirror's packing, so that equal contents give
equal bytes and the engine's build cache holds.
"""

from __future__ import annotations

import os
from pathlib import Path

from store.sources import Mirror, public_url

__all__ = ["write_history"]

PACKING = (
    *("-c", "pack.threads=1", "-c", "pack.window=10", "-c", "pack.depth=50", "-c", "pack.compression=6"),
    *("pack-objects", "--quiet", "--no-reuse-delta", "--no-reuse-object", "--threads=1"),
)


def write_history(mirror: Mirror, *, commit: str, folder: Path, beyond: str | None = None) -> None:
    """Writes the ``.git`` of an image into a folder, or what one must gain to reach a later commit.

    Args:
        mirror: where the objects come from.
        commit: full hash of the commit whose tree is complete; ``HEAD`` points to it.
        folder: becomes the ``.git``; must be empty.
        beyond: full hash of an ancestor of ``commit`` which the image's repository already holds; only what is new
            since then is packed. ``None``: everything.

    Raises:
        InfraError: git failed.
    """
    tags = _tags(mirror, commit)
    excluded = [f"^{beyond}"] if beyond else []
    revisions = "\n".join([commit, *tags.values(), *excluded]).encode()
    graph = mirror.git("rev-list", "--objects", "--filter=tree:0", "--stdin", stdin=revisions)
    objects = {line.split(b" ", 1)[0] for line in graph.splitlines()} | _tree(mirror, commit)
    objects |= {tag.encode() for tag in tags.values()}
    if beyond:
        objects -= _tree(mirror, beyond)
    packs = folder / "objects" / "pack"
    packs.mkdir(parents=True)
    (folder / "refs").mkdir()
    if objects:
        listed = b"\n".join(sorted(objects)) + b"\n"
        name = mirror.git(*PACKING, str(packs / "pack"), stdin=listed).decode("ascii").strip()
        (packs / f"pack-{name}.promisor").touch()
    (folder / "HEAD").write_text(f"{commit}\n", encoding="ascii")
    refs = "".join(f"{digest} {ref}\n" for ref, digest in sorted(tags.items()))
    (folder / "packed-refs").write_bytes(os.fsencode(refs))
    (folder / "config").write_text(_config(mirror.clone_url), encoding="utf-8")


def _tags(mirror: Mirror, commit: str) -> dict[str, str]:
    """Tags that point into the history of a commit: reference name to the hash of the tag (or of the commit)."""
    listed = mirror.git("for-each-ref", f"--merged={commit}", "--format=%(objectname) %(refname)", "refs/tags")
    pairs = (os.fsdecode(line).split(" ", 1) for line in listed.splitlines())
    return {ref: digest for digest, ref in pairs}


def _tree(mirror: Mirror, commit: str) -> set[bytes]:
    """Hashes of all trees and files of a commit; submodules are commits of other repositories and left out."""
    entries = mirror.git("ls-tree", "-r", "-t", "-z", commit).split(b"\0")
    headers = [entry.partition(b"\t")[0].split(b" ") for entry in entries if entry]
    found = {digest for _, kind, digest in headers if kind != b"commit"}
    return found | {mirror.git("rev-parse", f"{commit}^{{tree}}").strip()}


def _config(clone_url: str) -> str:
    url = public_url(clone_url)
    return (
        "[core]\n\trepositoryformatversion = 1\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = false\n"
        "[extensions]\n\tpartialClone = origin\n"
        '[remote "origin"]\n\tpromisor = true\n\tpartialclonefilter = tree:0\n'
        + (f"\turl = {url}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n" if url else "")
        + "[gc]\n\tauto = 0\n"
    )
