"""What is installed beside the test runner is what the package index serves, what the parent has, or was asked for.

A wheel's files are compared byte for byte. What an installer built from a source distribution has the source's Python
modules; modules that only a build writes are not judged, unless the interpreter would take one for a module of the
source. What the requirements name by a URL is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from posixpath import basename, dirname
from urllib.parse import urlsplit

from packaging.utils import canonicalize_name

from actors.verifier.checks.generated import is_literal
from actors.verifier.checks.requirements import requirements_of
from actors.verifier.image.image_files import FileTooLarge, ImageFiles
from actors.verifier.image.installed import Distribution

__all__ = ["is_asked_for", "is_of_parent", "of_parent", "of_source", "urls_of"]

COMPILED = (".so", ".pyc", ".pyd")
CODE = (".py", *COMPILED, ".pth")
VERSIONS = "version"
"""In the name of a module that builds write anew with what their version is."""


def urls_of(env_payload: str) -> dict[str, str]:
    """The URLs by which a pull request's requirements name distributions, by canonical name."""
    return {canonicalize_name(one.name): one.url for one in requirements_of(env_payload) if one.url}


def is_asked_for(item: Distribution, urls: Mapping[str, str]) -> bool:
    """Whether the requirements name a distribution by the URL that it says it was installed from."""
    asked = urls.get(item.name)
    if asked is None or item.url is None:
        return False
    there, here = (urlsplit(url.removeprefix("git+")) for url in (asked, item.url))
    place = there.path.partition("@")[0].removesuffix(".git").rstrip("/")
    return (there.hostname, place) == (here.hostname, here.path.partition("@")[0].removesuffix(".git").rstrip("/"))


def is_of_parent(item: Distribution, files: ImageFiles) -> bool:
    """Whether a distribution is the parent image's: its metadata are."""
    changed = files.changed()
    return files.parent_entry(item.metadata) is not None and not any(
        path == item.metadata or path.startswith(f"{item.metadata}/")
        for path, entry in changed.items()
        if entry is not None and entry.kind != "folder"
    )


def of_parent(item: Distribution, files: ImageFiles) -> list[str]:
    """The code of a distribution of the parent's that was changed, by path."""
    own = {path for path in item.record or () if path.endswith(CODE)}
    return [path for path in files.changed() if path in own and not _cached(path)]


def of_source(
    item: Distribution,
    files: ImageFiles,
    *,
    known: dict[str, set[str]],
    compiles: bool,
    digest: Callable[[str], str | None],
) -> list[str]:
    """What is wrong with a distribution that was built from a source distribution.

    Args:
        item: the distribution.
        files: the image.
        known: SHA-256 of the source's files by every ending of their paths.
        compiles: whether the source has sources of extension modules.
        digest: SHA-256 of a file of the image.
    """
    problems = []
    sources = {path.removesuffix(".py") for path in known if path.endswith(".py")}
    for path in sorted(set(_code_of(item, files))):
        inner = path.removeprefix(f"{item.location}/")
        if path.endswith(".py"):
            if inner in known and digest(path) not in known[inner] and not _is_version(path, files):
                problems.append(f"/{path} is not what its sdist has")
        elif not compiles and _module(inner) in sources:
            problems.append(f"/{path} would be imported in the place of a module of its sdist")
    return problems


def _code_of(item: Distribution, files: ImageFiles) -> Iterator[str]:
    """The code files in the packages of a distribution, and beside its modules."""
    inside = f"{item.location}/"
    recorded = [path for path in item.record or () if path.startswith(inside) and path.endswith(CODE)]
    tops = {path.removeprefix(inside).partition("/")[0] for path in recorded} - {"__pycache__"}
    if item.location.endswith(".egg"):
        tops |= {basename(entry.path) for entry in files.children(item.location)}
    modules = {_module(top) for top in tops}
    for entry in files.children(item.location):
        name = basename(entry.path)
        if entry.kind == "folder" and name in tops:
            yield from (found.path for found in files.walk(entry.path) if _is_code(found.path))
        elif entry.kind != "folder" and _module(name) in modules and _is_code(entry.path):
            yield entry.path


def _is_code(path: str) -> bool:
    return path.endswith(CODE) and not _cached(path)


def _cached(path: str) -> bool:
    """Compiled code that is never read."""
    return basename(dirname(path)) == "__pycache__" and path.endswith(".pyc")


def _module(path: str) -> str:
    folder, name = dirname(path), basename(path).partition(".")[0]
    return f"{folder}/{name}" if folder else name


def _is_version(path: str, files: ImageFiles) -> bool:
    """Whether a module is named for a version and holds nothing but data."""
    try:
        return VERSIONS in basename(path).lower() and is_literal(files.read(path))
    except (FileNotFoundError, FileTooLarge):
        return False
