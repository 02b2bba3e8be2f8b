"""Whether what an image has installed comes from the checkout, told from its files: nothing is imported.

At least one distribution has to say that it was installed from the checkout, and then it is held to its word. An
editable one has to lead into folders of the commit, and nothing that is imported earlier may have its modules' names.
The files of a regular one have to be the commit's, byte for byte, or what its build writes, judged as in the checkout.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec

from actors.verifier.checks.declared import CODE_SUFFIXES, Declared, below, canonical, is_extension
from actors.verifier.checks.generated import is_literal, reaches
from actors.verifier.checks.ignored import ignored_by
from actors.verifier.checks.tree import CHECKOUT
from actors.verifier.checks.untracked import Untracked
from actors.verifier.containers.inside.smoke import BESIDES, module_names
from actors.verifier.defences import Defence, Finding
from actors.verifier.image.image_files import Entry, FileTooLarge, ImageFiles
from actors.verifier.image.site_packages import Installed, SitePackages
from actors.verifier.suite.commit import CommitTree
from events.work import FailureClass

__all__ = ["CodeFile", "OriginReport", "OwnDistribution", "OwnModule", "check_origin"]

MAX_DEPTH = 3
"""How deep below a folder of the path modules are looked for, as ``inside/smoke.py`` does."""
COMMON_NAME = 50
"""Of a name that more files than this have, only whole paths are compared."""
VERSION_LINE = re.compile(rb"""__version__\s*(:\s*str\s*)?=\s*(['"])[^'"\\]*\2\s*""")
COMPILED = (".so", ".pyd")
COPIED = re.compile(r"[^/]+\.(dist-info|egg-info|data)/.*|(.*/)?__pycache__/.*|__editable__.*")


class CodeFile(msgspec.Struct, frozen=True):
    """A code file of an own module: its path in the image, and the path in the checkout that it corresponds to."""

    path: str
    checkout_path: str


class OwnModule(msgspec.Struct, frozen=True, kw_only=True):
    """A module or package that the checkout installs, with all its code files: the installed and the checkout's."""

    name: str
    files: tuple[CodeFile, ...]


class OwnDistribution(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution that was installed from the checkout; ``metadata`` is the folder of its metadata in the image."""

    name: str
    version: str
    editable: bool
    metadata: str


class OriginReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was found; ``distributions`` and ``modules`` also when there are findings."""

    findings: list[Finding]
    distributions: list[OwnDistribution]
    modules: list[OwnModule]


def check_origin(files: ImageFiles, tree: CommitTree, *, primary_root: str) -> OriginReport:
    """Whether the installed distribution and its modules come from the checkout.

    Args:
        files: the built image.
        tree: the commit that its checkout claims to hold.
        primary_root: the project's folder, relative to the checkout; empty or ``.`` for the whole.

    Returns:
        The report. Findings are of class ``recipe`` when nothing is installed from the checkout or an index's release
        is in the way, and ``tamper`` when what claims to come from the checkout does not.

    Raises:
        InfraError: git failed on the host.
    """
    origin = _Origin(files, tree, root=posixpath.normpath(posixpath.join(CHECKOUT, primary_root or ".")))
    origin.examine()
    return OriginReport(
        findings=origin.findings,
        distributions=[
            OwnDistribution(name=dist.name, version=dist.version, editable=dist.editable, metadata=dist.metadata)
            for dist in origin.own
        ],
        modules=[
            OwnModule(name=name, files=tuple(CodeFile(*pair) for pair in sorted(found.items())))
            for name, found in sorted(origin.modules.items())
        ],
    )


class _Origin:
    def __init__(self, files: ImageFiles, tree: CommitTree, *, root: str) -> None:
        self._files, self._tree, self._root = files, tree, root
        self._declared = Declared(tree)
        self._site = SitePackages(files, checkout=CHECKOUT)
        self._checkout = {entry.path: entry for entry in files.walk(CHECKOUT) if entry.kind != "folder"}
        self.findings: list[Finding] = []
        self.modules: dict[str, dict[str, str]] = {}
        self._importable: set[str] = set()
        installed = self._site.distributions
        self.own = [dist for dist in installed if dist.source is not None and below(dist.source, root)]
        self._others = [dist for dist in installed if dist not in self.own]

    def examine(self) -> None:
        if not below(self._root, CHECKOUT) or not self.own:
            self._refuse(self._why_none(), FailureClass.RECIPE)
        for dist in self.own:
            missing = self._declared.plugins_not_declared(dist.entry_points)
            if missing:
                self._refuse(
                    f"{dist.metadata} registers a pytest plug-in that the commit does not declare: {missing[0]}"
                )
            twins = [other for other in self._others if canonical(other.name) == canonical(dist.name)]
            if twins:
                self._refuse(f"{dist.name} is installed twice: also as {twins[0].metadata}", FailureClass.RECIPE)
            loaders = self._site.loaders(dist) if dist.editable else []
            recorded = [p for p in dist.files if p not in loaders and not COPIED.fullmatch(p[len(dist.site) + 1 :])]
            if code := self._chosen(module_names([p.removeprefix(f"{dist.site}/") for p in recorded]), dist):
                self._regular(dist, code, recorded)
            if dist.editable:
                self._editable(dist, judged=recorded if code else [])
        for name in sorted({canonical(dist.name) for dist in self.own} - self._importable):
            self._refuse(f"{name} installs no module that can be imported", FailureClass.RECIPE)

    def _refuse(self, message: str, whose: FailureClass = FailureClass.TAMPER) -> None:
        finding = Finding(defence=Defence.ORIGIN, message=message, failure_class=whose)
        if finding not in self.findings:
            self.findings.append(finding)

    def _why_none(self) -> str:
        for dist in self._others:
            if canonical(dist.name) in self._declared.names:
                where = f"/{dist.source}" if dist.source else "an index"
                return f"{dist.name} {dist.version} is installed, but from {where} and not from /{self._root}"
        where = f"/{self._root}"
        return f"no installed distribution comes from {where}; the recipe has to install the package from its checkout"

    @staticmethod
    def _chosen(names: Iterable[str], dist: Installed) -> list[str]:
        """Of module names, those that are not a repository's other folders, as ``inside/smoke.py`` chooses."""
        known = list(dict.fromkeys(names))
        likely = canonical(dist.name).replace("-", "_")
        chosen = [name for name in known if name.split(".")[0].lower() not in BESIDES]
        return chosen or [name for name in known if name.lower() == likely]

    # Editable installations

    def _editable(self, dist: Installed, *, judged: Collection[str]) -> None:
        """``judged``: the files that it has beside the checkout, which are judged as those of a regular one."""
        mapped = self._site.mappings(dist)
        names = set(mapped.names)
        for name, target in mapped.places.items():
            names.add(name)
            if target in judged:
                continue
            module = posixpath.relpath(f"{target}.py", CHECKOUT)
            place = f"{target}.py" if module in self._tree.files and self._files.entry(target) is None else target
            if self._leads_home(dist, name, place):
                self._add(dist, name, self._code_at(place))
        for file, folder in self._site.path_lines:
            if file not in dist.files and (dist.files or folder != dist.source):
                continue
            if self._leads_home(dist, posixpath.basename(file), folder):
                found = module_names(list(self._sources(folder)))
                told = [name for name in found if name.split(".")[0] in dist.top_level]
                for name in self._chosen(told or found, dist):
                    names.add(name)
                    self._add(dist, name, self._code_of(folder, name))
        built = {p: p for p in self._checkout if p.endswith(COMPILED) and any(below(p, b) for b in mapped.builds)}
        for name in mapped.names:
            self._add(dist, name, self._found_by_name(name) | built)
        for name in sorted(names):
            self._shadows(name)

    def _leads_home(self, dist: Installed, what: str, place: str) -> bool:
        """Whether an editable installation's target is a folder or file of the commit."""
        path = posixpath.relpath(place, CHECKOUT) if below(place, CHECKOUT) else None
        path = "" if path == "." else path
        if path is None:
            self._refuse(f"the editable installation of {dist.name} leads {what} to /{place}, outside of the checkout")
            return False
        entry = self._files.entry(place)
        known = path in self._tree.folders or path in self._tree.files
        compiled = entry is not None and is_extension(posixpath.basename(path)) is not None and self._declared.is_native
        if entry is None or entry.kind == "link" or not (known or compiled):
            self._refuse(f"the editable installation of {dist.name} leads {what} to /{place}, which the commit has not")
            return False
        return True

    def _shadows(self, name: str) -> None:
        """Files that are imported before the checkout's: in site-packages, or in other folders of the path."""
        inner = name.replace(".", "/")
        mine = {path for dist in self.own for path in dist.files}
        for folder in self._site.folders:
            for path in self._site.entries:
                if self._is_code_of(path, f"{folder}/{inner}") and path not in mine:
                    owner = next((other for other in self._others if path in other.files), None)
                    if owner is not None:
                        message = (
                            f"{owner.name} {owner.version} has {name} too, and it is imported before the checkout's"
                        )
                        self._refuse(message, FailureClass.RECIPE)
                    else:
                        self._refuse(f"/{path} is imported in place of the checkout's {name}")
                    return
        for file, folder in self._site.path_lines:
            if not below(folder, CHECKOUT):
                places = (f"{folder}/{inner}", f"{folder}/{inner}.py")
                if any(self._files.entry(place) is not None for place in places):
                    self._refuse(f"/{file} leads {name} to /{folder}, outside of the checkout")

    # Regular installations

    def _regular(self, dist: Installed, names: list[str], recorded: list[str]) -> None:
        inner = [f"{dist.site}/{name.replace('.', '/')}" for name in names]
        present = [p for p in self._site.entries if any(below(p, i) or self._is_code_of(p, i) for i in inner)]
        paths = [p for p in dict.fromkeys([*recorded, *present]) if self._is_judged(p)]
        contents = {path: self._content(path) for path in paths}
        ids = {path: self._tree.blob_id(content) for path, content in contents.items()}
        places = {p: self._corresponding(p.removeprefix(f"{dist.site}/"), ids[p]) for p in paths}
        tops = {path: path.removeprefix(f"{dist.site}/").split("/")[0] for path in paths}
        best = _vote(tops, places)
        mapped = {p: _apply(best.get(tops[p]), p.removeprefix(f"{dist.site}/")) for p in paths}
        ignored = ignored_by(self._tree, mapped.values())
        rules = Untracked(self._tree, declared=self._declared, ignored=ignored)
        for path in paths:
            why = self._differs(self._site.entries[path], mapped[path], contents[path], ids[path], rules)
            if why is not None:
                self._refuse(f"/{path}, which {dist.name} claims to have from the checkout, {why}")
        for name, place in zip(names, inner, strict=True):
            code = {p: self._at(mapped[p]) for p in paths if self._is_code_of(p, place)}
            for target in {posixpath.dirname(where) for where in code.values()}:
                code |= {p: p for p in self._checkout if posixpath.dirname(p) == target and p.endswith(CODE_SUFFIXES)}
            self._add(dist, name, code)
            for other in self._others:
                if any(self._is_code_of(p, place) for p in other.files):
                    self._refuse(f"{other.name} {other.version} has {name} too", FailureClass.RECIPE)

    def _is_judged(self, path: str) -> bool:
        entry = self._site.entries.get(path)
        return (
            entry is not None and entry.kind != "folder" and "/__pycache__/" not in path and not path.endswith(".pth")
        )

    def _content(self, path: str) -> bytes:
        try:
            return self._files.read(path)
        except (FileNotFoundError, FileTooLarge):
            return b""

    def _corresponding(self, path: str, blob: str) -> list[tuple[str, str, bool]]:
        """Ways to get from an installed path to one of the commit: prefix to take off, prefix to put on, same content.

        Packages lie in the checkout under the name that they are imported by, below some folder, or (``package_dir``)
        in a folder of another name: what two paths have in common at their ends tells.
        """
        found = []
        candidates = self._tree.by_name.get(posixpath.basename(path), [])
        if len(candidates) > COMMON_NAME:
            candidates = [name for name in candidates if f"/{name}".endswith(f"/{path}")]
        for candidate in candidates:
            mine, theirs = path.split("/"), candidate.split("/")
            while mine and theirs and mine[-1] == theirs[-1]:
                mine.pop()
                theirs.pop()
            found.append(("/".join(mine), "/".join(theirs), self._tree.files[candidate].blob == blob))
        return found

    def _differs(self, entry: Entry, path: str, content: bytes, blob: str, rules: Untracked) -> str | None:
        """Why an installed file that corresponds to ``path`` of the checkout is refused."""
        if entry.kind != "file":
            return f"is a {entry.kind}"
        known = self._tree.files.get(path)
        if known is not None and known.blob == blob:
            return None
        here = self._checkout.get(self._at(path))
        if (
            here is not None
            and here.kind == "file"
            and here.size == len(content)
            and self._content(here.path) == content
        ):
            return None
        if known is None:
            name = posixpath.basename(path)
            same_name = self._tree.by_name.get(name, [])
            if any(self._tree.files[other].blob == blob for other in same_name):
                return None
            return rules.judge(entry, path, lambda: content)
        return None if self._is_rewritten(path, content) else "differs from the commit"

    def _is_rewritten(self, path: str, content: bytes) -> bool:
        """Whether a build wrote a version into its copy of a file of the commit, and nothing else."""
        original = self._tree.read(path)
        if path in self._declared.version_files and is_literal(content):
            return True
        if b"versioneer" in original.lower():
            return reaches(content) is None
        mine, theirs = content.splitlines(), original.splitlines()
        return len(mine) == len(theirs) and all(
            a == b or (VERSION_LINE.fullmatch(a) and VERSION_LINE.fullmatch(b))
            for a, b in zip(mine, theirs, strict=True)
        )

    # Modules and their files

    def _add(self, dist: Installed, name: str, code: Mapping[str, str]) -> None:
        if code:
            self._importable.add(canonical(dist.name))
            found = self.modules.setdefault(name, {})
            found |= {path: posixpath.relpath(place, CHECKOUT) for path, place in code.items()}

    def _code_at(self, place: str) -> dict[str, str]:
        return {path: path for path in self._checkout if below(path, place) and path.endswith(CODE_SUFFIXES)}

    def _code_of(self, folder: str, name: str) -> dict[str, str]:
        place = f"{folder}/{name.replace('.', '/')}"
        return {path: path for path in self._checkout if self._is_code_of(path, place)}

    def _found_by_name(self, name: str) -> dict[str, str]:
        """Code of a module that a loader names without a place, wherever the commit has its folder or file."""
        tail = f"/{name.replace('.', '/')}"
        places = sorted((f for f in self._tree.folders if f"/{f}".endswith(tail)), key=len)
        places += sorted((f for f in self._tree.files if f"/{f}".endswith(f"{tail}.py")), key=len)
        return self._code_at(self._at(places[0])) if places else {}

    @staticmethod
    def _is_code_of(path: str, place: str) -> bool:
        """Whether a path is code of the module or package at ``place`` (a path without suffix)."""
        if not path.endswith(CODE_SUFFIXES) or "/__pycache__/" in path:
            return False
        if path.startswith(f"{place}/"):
            return True
        folder, name = posixpath.split(path)
        return folder == posixpath.dirname(place) and name.split(".")[0] == posixpath.basename(place)

    def _sources(self, folder: str) -> Iterator[str]:
        """Files below a folder of the checkout, relative to it, as deep as modules are looked for."""
        for path in self._checkout:
            if not path.startswith(f"{folder}/"):
                continue
            inner = path.removeprefix(f"{folder}/")
            parents = inner.split("/")[:-1]
            if len(parents) < MAX_DEPTH and all(part.isidentifier() and part not in BESIDES for part in parents):
                yield inner

    @staticmethod
    def _at(path: str) -> str:
        return posixpath.join(CHECKOUT, path)


def _vote(tops: Mapping[str, str], places: Mapping[str, list[tuple[str, str, bool]]]) -> dict[str, tuple[str, str]]:
    """For each top-level name, the way to the commit's files that most of its files take."""
    votes: dict[str, Counter[tuple[str, str]]] = {}
    for path, ways in places.items():
        for off, on, same in ways:
            votes.setdefault(tops[path], Counter())[off, on] += 2 if same else 1
    return {
        top: min(count.items(), key=lambda item: (-item[1], len(item[0][0]) + len(item[0][1]), item[0]))[0]
        for top, count in votes.items()
    }


def _apply(way: tuple[str, str] | None, path: str) -> str:
    off, on = way or ("", "")
    if off and not path.startswith(f"{off}/"):
        return path
    return posixpath.join(on, path.removeprefix(f"{off}/") if off else path)
