"""What is installed is what the package index serves, the test runner and its plug-ins byte for byte.

What is neither the runner's nor a plug-in is judged more mildly where it was built from source (``dependencies.py``).

Compared are the files themselves; the records that an installation left only claim which version to ask for. What
claims to come from the checkout is compared with the checkout, whose own state is another defence's business. A file
that its distribution does not have is refused when the interpreter could take it for code: a package or an extension
module beside a module of its name hides it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from posixpath import basename, dirname

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from actors.verifier.checks.dependencies import is_asked_for, is_of_parent, of_parent, of_source, urls_of
from actors.verifier.checks.requirements import environment_of
from actors.verifier.checks.truth import IndexTruth, Release
from actors.verifier.defences import Defence, Finding
from actors.verifier.image.image_files import Entry, FileTooLarge, ImageFiles
from actors.verifier.image.installed import PLUGIN_GROUP, Distribution, plugins
from actors.verifier.image.layout import CHECKOUT, VENV, Layout, layout_of
from events.work import FailureClass

__all__ = ["RUNNER_MODULES", "check_provenance", "placed"]

RUNNER = "pytest"
RUNNER_MODULES: Mapping[str, tuple[str, ...]] = {
    "pytest": ("pytest",),
    "_pytest": ("pytest",),
    "py": ("pytest", "py"),
    "attr": ("attrs",),
    "attrs": ("attrs",),
    **{
        name.replace("-", "_"): (name,)
        for name in (
            *("pluggy", "iniconfig", "packaging", "tomli", "exceptiongroup", "more-itertools", "atomicwrites", "six"),
            *("importlib-metadata", "zipp", "wcwidth", "pathlib2", "funcsigs", "toml", "pygments", "typing-extensions"),
        )
    },
}
"""Modules that some release of pytest imports, and the distributions that may bring them."""
WRITTEN_BY_INSTALLERS = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "WHEEL"})
CODE = (".py", ".so", ".pyc", ".pth")
NOT_ON_INDEX = "the index has no such version, and it does not come from the checkout"
GENERATED = re.compile(r"_?_editable_.*\.py|_.*_editable_loader\.py|.*\.pth|__pycache__")
"""What build backends leave for an editable install: code that runs at start-up, which is judged there."""
LOOK_UPS = 4
"""How many questions the index is asked at once."""
MAX_NAMED = 5
"""How many files of one distribution a finding names."""
SOURCE_FOLDERS = ("", "src/", "lib/", "python/")
NO_PACKAGES = (".dist-info", ".egg-info", ".data", ".libs")


def check_provenance(
    files: ImageFiles, installed: Sequence[Distribution], truth: IndexTruth, *, env_payload: str = ""
) -> list[Finding]:
    """Compares every distribution with what the index serves.

    Args:
        files: the image.
        installed: its distributions (``read_installed``).
        truth: the index.
        env_payload: the pull request's requirements; what they name by a URL is taken as it is.

    Returns:
        A finding per distribution that differs, and one per module of the runner's that nothing accounts for. Whether
        pytest is installed at all is not asked.

    Raises:
        ImageRefused: the parent has no virtual environment.
        InfraError: the index cannot be reached.
    """
    check = _Provenance(files, layout_of(files), installed, truth)
    check.look_up(urls_of(env_payload))
    return [
        Finding(
            defence=Defence.PROVENANCE,
            message=message,
            failure_class=FailureClass.RECIPE if NOT_ON_INDEX in message else FailureClass.TAMPER,
        )
        for message in check.messages()
    ]


def placed(release: Release, layout: Layout) -> dict[str, str]:
    """SHA-256 of each file of a wheel by where pip puts it; scripts, whose first line it writes anew, are left out."""
    found = {}
    for path, digest in release.files.items():
        data = re.match(r"[^/]+\.data/(\w+)/(.*)", path)
        if data is None or data[1] in {"purelib", "platlib"}:
            found[f"{layout.site}/{path if data is None else data[2]}"] = digest
        elif data[1] == "data":
            found[f"{VENV}/{data[2]}"] = digest
    return found


class _Compared(msgspec.Struct, frozen=True):
    """What is wrong with one distribution, and the names in site-packages that it accounts for."""

    problems: list[str]
    tops: set[str]


class _Provenance:
    def __init__(self, files: ImageFiles, layout: Layout, installed: Sequence[Distribution], truth: IndexTruth) -> None:
        self._files, self._layout, self._installed, self._truth = files, layout, installed, truth
        self._prefix = f"{layout.site}/"
        self._top_level = files.children(layout.site)
        self._compared: dict[str, _Compared] = {}
        self._taken: list[Distribution] = []

    def look_up(self, urls: Mapping[str, str]) -> None:
        """Asks the index for all that is compared, some at once; ``urls``: see ``dependencies.urls_of``."""
        self._taken = [item for item in self._installed if item.of_checkout or is_asked_for(item, urls)]
        asked = [item for item in self._installed if item not in self._taken and not is_of_parent(item, self._files)]
        with ThreadPoolExecutor(LOOK_UPS, thread_name_prefix="index") as pool:
            for found in [pool.submit(self._release, item) for item in asked]:
                found.result()

    def messages(self) -> Iterator[str]:
        concerned = self._concerned()
        for entry in self._top_level:
            if _is_importable(entry):
                names = RUNNER_MODULES.get(_module(entry.path), ())
                concerned += [item for item in self._installed if item.name in names and item not in concerned]
        for item in concerned:
            yield from _told(item, [*self._compare(item).problems, *self._foreign_plugins(item)])
        for item in self._installed:
            if item not in concerned and item not in self._taken:
                yield from _told(item, self._other(item))
        for entry in self._top_level:
            names = RUNNER_MODULES.get(_module(entry.path), ())
            if names and _is_importable(entry) and basename(entry.path) not in self._tops_of(names):
                yield f"/{entry.path} would be imported by pytest and is not part of {' or '.join(names)}; remove it"

    def _other(self, item: Distribution) -> list[str]:
        """What is wrong with a distribution that is neither the runner's nor a plug-in."""
        if is_of_parent(item, self._files):
            changed = [path for path in of_parent(item, self._files) if not self._is_of_another(path, item)]
            return [f"/{path} is not what the parent image has" for path in changed]
        release = self._release(item)
        if release is None:
            return [NOT_ON_INDEX]
        if release.is_wheel and item.location == self._layout.site and item.record is not None:
            return self._of_wheel(item, release).problems
        known = _by_ending(release)
        return of_source(item, self._files, known=known, compiles=release.compiles, digest=self._digest)

    def _tops_of(self, names: Iterable[str]) -> set[str]:
        """The names in site-packages that the distributions of these names account for."""
        return {top for item in self._installed if item.name in names for top in self._compare(item).tops}

    def _foreign_plugins(self, item: Distribution) -> list[str]:
        """Plug-ins of something not from the index that lie in site-packages among other distributions' files."""
        release = None if item.of_checkout else self._release(item)
        if release is not None and release.is_wheel:
            return []
        own = {_module(top) for top in self._tops_of([item.name])}
        there = {_module(entry.path) for entry in self._top_level if _is_importable(entry)}
        return [
            f"its plug-in {plugin.name!r} is {plugin.module}, which is not its own"
            for plugin in plugins([item])
            if (top := plugin.module.partition(".")[0]) in there and top not in own
        ]

    def _concerned(self) -> list[Distribution]:
        """The runner, what it requires, directly or not, and the plug-ins; each installed copy of them."""
        by_name: dict[str, list[Distribution]] = {}
        for item in self._installed:
            by_name.setdefault(item.name, []).append(item)
        left, seen = [RUNNER], {item.name for item in self._installed if PLUGIN_GROUP in item.entry_points}
        visited: set[str] = set()
        while left:
            name = left.pop()
            if name in by_name and name not in visited:
                visited.add(name)
                left += [required for item in by_name[name] for required in self._required(item)]
        return [item for name in sorted(seen | visited) for item in by_name[name]]

    def _required(self, item: Distribution) -> list[str]:
        release = None if item.of_checkout else self._release(item)
        environment = environment_of(self._layout.version)
        names = []
        for line in item.requires if release is None else release.requires:
            try:
                wanted = Requirement(line)
            except InvalidRequirement:
                continue
            if wanted.marker is None or wanted.marker.evaluate(environment):
                names.append(str(canonicalize_name(wanted.name)))
        return names

    def _release(self, item: Distribution) -> Release | None:
        return self._truth.release(item.name, item.version, tags=item.tags)

    def _compare(self, item: Distribution) -> _Compared:
        if item.metadata not in self._compared:
            self._compared[item.metadata] = self._compare_now(item)
        return self._compared[item.metadata]

    def _compare_now(self, item: Distribution) -> _Compared:
        if item.of_checkout:
            return self._of_checkout(item)
        release = self._release(item)
        if release is None:
            return _Compared([NOT_ON_INDEX], set())
        return self._of_wheel(item, release) if release.is_wheel else self._of_sdist(item, release)

    def _of_wheel(self, item: Distribution, release: Release) -> _Compared:
        expected = placed(release, self._layout)
        folders = (dirname(path) for path in expected if path.endswith(".dist-info/METADATA"))
        metadata = next((path for path in folders if dirname(path) == self._layout.site), "")  # not a vendored one
        entry_points = f"{metadata}/entry_points.txt"
        problems = []
        if item.metadata != metadata:
            problems.append(f"/{item.metadata} is not where its wheel has its metadata")
        for path, digest in expected.items():
            # Metadata of the same wheel, built elsewhere, may differ in wording; entry points may not.
            if path.startswith(f"{metadata}/") and path != entry_points:
                continue
            actual = self._digest(path)
            if actual != digest:
                problems.append(f"/{path} is {'missing' if actual is None else 'not what the index serves'}")
        if entry_points not in expected and self._files.entry(entry_points) is not None:
            problems.append(f"/{entry_points} is not part of it")
        tops = self._tops(expected)
        strangers = (
            path
            for path in self._strangers(expected, tops)
            if self._is_new(path) and not self._is_of_another(path, item)
        )
        return _Compared([*problems, *(f"/{path} is not part of it" for path in strangers)], tops)

    def _tops(self, paths: Iterable[str]) -> set[str]:
        """The names directly in site-packages, but for metadata, that these paths begin with."""
        inner = (path.removeprefix(self._prefix) for path in paths if path.startswith(self._prefix))
        return {top for path in inner if not (top := path.partition("/")[0]).endswith(NO_PACKAGES)}

    def _strangers(self, expected: Mapping[str, str], tops: set[str]) -> Iterator[str]:
        """Code in the distribution's own packages, or beside its modules, that it does not have."""
        folders = {folder for path in expected for folder in _folders(path)}
        modules = {_module(top) for top in tops}
        for entry in self._top_level:
            if basename(entry.path) in tops:
                if entry.kind == "folder":
                    yield from self._strangers_in(entry.path, expected, folders)
            elif _module(entry.path) in modules and _is_importable(entry):
                yield entry.path

    def _strangers_in(self, folder: str, expected: Mapping[str, str], folders: set[str]) -> Iterator[str]:
        owned = f"{folder}/__init__.py" in expected
        for entry in self._files.children(folder):
            if entry.kind == "folder" and entry.path in folders:
                yield from self._strangers_in(entry.path, expected, folders)
            elif entry.kind == "folder" and owned:
                cache = basename(entry.path) == "__pycache__"
                inside = (found.path for found in self._files.walk(entry.path) if found.path.endswith(CODE))
                yield from (path for path in inside if not (cache and path.endswith(".pyc")))
            elif owned and entry.path not in expected and (entry.kind != "file" or entry.path.endswith(CODE)):
                yield entry.path

    def _is_new(self, path: str) -> bool:
        """Whether the parent image has not the same there, or below."""
        return any(changed == path or changed.startswith(f"{path}/") for changed in self._files.changed())

    def _is_of_another(self, path: str, item: Distribution) -> bool:
        """Whether another distribution claims this file, or all of this folder, and its release has it so."""
        for other in self._installed:
            claimed = [entry for entry in other.record or () if entry == path or entry.startswith(f"{path}/")]
            if claimed and other.metadata != item.metadata and not other.of_checkout:
                release = self._release(other)
                theirs = placed(release, self._layout) if release is not None and release.is_wheel else {}
                present = {entry.path for entry in self._files.walk(path) if entry.path.endswith(CODE)} or {path}
                code = [entry for entry in present if "/__pycache__/" not in entry]
                if all(entry in theirs and self._digest(entry) == theirs[entry] for entry in code):
                    return True
        return False

    def _of_sdist(self, item: Distribution, release: Release) -> _Compared:
        """Of what has to be built from source: its modules are the source's, byte for byte."""
        known = _by_ending(release)
        return self._built(
            item,
            right=lambda path, digest: digest in known.get(path, ()),
            compiles=release.compiles,
            origin="its sdist",
        )

    def _of_checkout(self, item: Distribution) -> _Compared:
        """Whatever it has in site-packages is in the checkout too; extension modules are allowed to be built there,
        unless they would be the runner's."""
        source = "" if item.source is None else f"{item.source}/"
        folders = [f"{base}{folder}" for base in (source, f"{CHECKOUT}/") if base for folder in SOURCE_FOLDERS]
        return self._built(
            item,
            right=lambda path, digest: any(self._digest(folder + path) == digest for folder in folders),
            compiles=all(item.name not in names for names in RUNNER_MODULES.values()),
            origin="the checkout",
        )

    def _built(
        self, item: Distribution, *, right: Callable[[str, str], bool], compiles: bool, origin: str
    ) -> _Compared:
        recorded = {path for path in item.record or () if path.startswith(self._prefix)}
        tops = {top for top in self._tops(recorded) if not GENERATED.fullmatch(top)}
        problems = []
        for path in sorted(path for top in tops for path in self._code_below(top)):
            inner = path.removeprefix(self._prefix)
            if path.endswith(".py"):
                if not right(inner, self._digest(path) or ""):
                    problems.append(f"/{path} is not what {origin} has")
            elif not (compiles and path in recorded and path.endswith(".so")):
                problems.append(f"/{path} is nothing that {origin} would give")
        return _Compared(problems, tops)

    def _code_below(self, top: str) -> Iterator[str]:
        """The code at or below a name in site-packages; compiled code that is not read is left out."""
        path = self._prefix + top
        entries = [entry for entry in self._top_level if entry.path == path]
        for entry in [*entries, *self._files.walk(path)]:
            is_code = entry.kind == "link" or (entry.kind == "file" and entry.path.endswith(CODE))
            if is_code and not ("/__pycache__/" in entry.path and entry.path.endswith(".pyc")):
                yield entry.path

    def _digest(self, path: str) -> str | None:
        """SHA-256 of a regular file of the image; ``None`` if there is none, empty if it is too large to be read."""
        try:
            return hashlib.sha256(self._files.read(path)).hexdigest()
        except FileNotFoundError:
            return None
        except FileTooLarge:
            return ""


def _told(item: Distribution, problems: list[str]) -> Iterator[str]:
    """One message of all that is wrong with a distribution."""
    if problems:
        more = f" and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
        yield f"{item.name} {item.version}: {'; '.join(problems[:MAX_NAMED])}{more}; install what the index serves"


def _by_ending(release: Release) -> dict[str, set[str]]:
    """SHA-256 of a source distribution's files by every ending of their paths."""
    known: dict[str, set[str]] = {}
    for path, digest in release.files.items():
        parts = path.split("/")
        for place in range(len(parts)):
            known.setdefault("/".join(parts[place:]), set()).add(digest)
    return known


def _module(path: str) -> str:
    """What an entry of site-packages would be imported as."""
    return basename(path).partition(".")[0]


def _is_importable(entry: Entry) -> bool:
    name = basename(entry.path)
    if entry.kind == "file":
        return entry.path.endswith(CODE) and not entry.path.endswith(".pth")
    return "." not in name or entry.kind == "link"


def _folders(path: str) -> Iterator[str]:
    while path := dirname(path):
        yield path
