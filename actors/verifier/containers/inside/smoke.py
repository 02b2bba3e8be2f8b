"""Imports what the checkout installed and writes down where it came from.

Usage: ``smoke.py CHECKOUT PRIMARY_ROOT REPORT_FILE``

At least one installed distribution has to come from the checkout (its folder ``PRIMARY_ROOT``, ``.`` for the whole):
by its ``direct_url.json``, or by metadata that lie in the checkout. Each top-level module of such a distribution has
to import, from the checkout or from the files that the distribution installed. The report is one JSON object:
``distributions``, ``modules``, and ``problems`` with the fields ``check`` (``origin`` or ``import``) and ``message``.

Exit code: 0 no problem, 1 problems (they are in the report).
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import sys
import traceback
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

BESIDES = frozenset(
    {"benchmark", "benchmarks", "build", "ci", "conf", "conftest", "dist", "doc", "docs", "example", "examples"}
    | {"ez_setup", "noxfile", "scripts", "setup", "tasks", "test", "testing", "tests", "tools", "versioneer"}
)
"""Names that lie beside a package in many repositories. They are not what the package is imported by."""
SITE_FOLDERS = frozenset(path for path in sys.path if Path(path).name in ("site-packages", "dist-packages"))
MODULE_SUFFIXES = (".py", ".so", ".pyd")
LOADER = re.compile(r"(__editable__|_)\w*(finder|editable|loader|impl)\w*\.py")
STARTED = re.compile(r"^import[ \t]+(\w+)", re.MULTILINE)
DECLARED_NAME = re.compile(r"""(?:^|[\s(,])['"]?[Nn]ame['"]?\s*[=:]\s*['"]?([A-Za-z0-9][A-Za-z0-9._-]*)""")


def canonical(name: str) -> str:
    """A distribution's name as the packaging standards compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def inside(path: str, folder: str) -> bool:
    """True when ``path`` is ``folder`` or lies below it, links resolved."""
    place, base = Path(path).resolve(), Path(folder).resolve()
    return place == base or base in place.parents


def source_of(dist: metadata.Distribution) -> str:
    """The folder or URL that a distribution was installed from; ``index`` when nothing tells."""
    text = dist.read_text("direct_url.json")
    if text is None:
        place = str(dist.locate_file(""))
        return "index" if place in SITE_FOLDERS else place
    try:
        url = str(json.loads(text)["url"])
    except (ValueError, KeyError, TypeError):
        return "an unreadable direct_url.json"
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return unquote(parts.path)
    return url if parts.scheme else f"a direct_url.json with {url!r}"


def own_distributions(folder: str) -> dict[str, list[metadata.Distribution]]:
    """Installed distributions that come from ``folder``, by canonical name."""
    found: dict[str, list[metadata.Distribution]] = {}
    for dist in metadata.distributions():
        name = dist.metadata["Name"]
        source = source_of(dist)
        if name and Path(source).is_absolute() and inside(source, folder):
            found.setdefault(canonical(name), []).append(dist)
    return found


def why_none(folder: str) -> str:
    """What to tell when nothing that is installed comes from ``folder``."""
    for file in ("PKG-INFO", "pyproject.toml", "setup.cfg", "setup.py"):
        try:
            text = Path(folder, file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for name in DECLARED_NAME.findall(text):
            try:
                dist = metadata.distribution(name)
            except metadata.PackageNotFoundError:
                continue
            return f"{name} {dist.version} is installed, but from {source_of(dist)} and not from {folder}"
    return f"no installed distribution comes from {folder}; the recipe has to install the package from its checkout"


def module_names(files: list[str]) -> list[str]:
    """Importable names that a list of relative paths provides: modules and packages, outermost first.

    A folder without ``__init__`` is a namespace: the packages and modules in it count, by their dotted names.
    """
    packages, modules = set(), set()
    for file in files:
        parts = file.split("/")
        stem = parts[-1].split(".")[0]
        folders = parts[:-1]
        if not parts[-1].endswith(MODULE_SUFFIXES) or not all(part.isidentifier() for part in [*folders, stem]):
            continue
        if stem == "__init__":
            packages.add(tuple(folders))
        else:
            modules.add((*folders, stem))
    packages.discard(())
    outermost = {name for name in packages | modules if not any(name[:cut] in packages for cut in range(1, len(name)))}
    return sorted(".".join(name) for name in outermost)


def files_below(folder: str) -> list[str]:
    """Module files of a source folder, relative to it, at most three levels deep."""
    found = []
    for place, folders, names in os.walk(folder):
        below = Path(place).relative_to(folder)
        folders[:] = sorted(f for f in folders if len(below.parts) < 2 and f.isidentifier() and f not in BESIDES)
        found += [(below / name).as_posix() for name in names]
    return found


def loaders_of(files: dict[str, str]) -> list[str]:
    """Of a distribution's files, the modules that its path files start so that an editable installation is found.

    ``files`` has the texts of its path files by path from site-packages; of other files the text does not matter.
    """
    started = {name for file, text in files.items() if is_path_file(file) for name in STARTED.findall(text)}
    return [file for file in files if LOADER.fullmatch(file) and file[: -len(".py")] in started]


def is_path_file(file: str) -> bool:
    """Whether the interpreter works through a file of site-packages when it starts."""
    return file.endswith(".pth") and "/" not in file


def read_loader(source: str) -> tuple[dict[str, str], list[str], list[str]]:
    """What a loader of an editable installation says in plain data: files or folders by module, modules that it finds
    by itself, and folders that it has compiled modules built in. Relative paths are below site-packages.

    Understands ``MAPPING`` of setuptools, ``map_module`` of the editables library, and the call at the end of what
    meson-python (names, folder) and scikit-build-core (files by name, twice, and a folder) write.
    """
    places: dict[str, str] = {}
    names: list[str] = []
    folders: list[str] = []
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError):
        return places, names, folders
    for told in (value for node in nodes for value in plain_values(node)):
        if isinstance(told, dict):
            places.update({str(key): str(place) for key, place in told.items()})
        elif isinstance(told, set):
            names += sorted(map(str, told))
        elif isinstance(told, str) and told.startswith("/"):
            folders.append(told)
    return places, names, folders


def plain_values(node: ast.AST) -> list[object]:
    """The literals in a statement or call by which a loader is told what it has to find."""
    values: list[ast.expr] = []
    if isinstance(node, ast.Call):
        called = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if called in ("install", "MesonpyMetaFinder"):
            values = node.args[:3]
        elif called == "map_module" and len(node.args) == 2:
            values = [ast.Dict(keys=[node.args[0]], values=[node.args[1]])]
    elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if [getattr(target, "id", "") for target in targets] == ["MAPPING"]:
            values = [node.value]
    found: list[object] = []
    for value in values:
        try:
            found.append(ast.literal_eval(value))
        except (ValueError, TypeError, RecursionError):
            continue
    return found


def path_file_names(files: dict[str, str]) -> list[str]:
    """Names in the folders that a distribution's path files add to the path."""
    lines = [line.strip() for file, text in files.items() if is_path_file(file) for line in text.splitlines()]
    return [name for line in lines if line and Path(line).is_dir() for name in module_names(files_below(line))]


def text_of(dist: metadata.Distribution, file: str) -> str:
    """The text of one of a distribution's files; empty when it is not there."""
    try:
        return Path(str(dist.locate_file(file))).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def modules_of(dist: metadata.Distribution) -> list[str]:
    """Top-level names that a distribution is imported by.

    The files of a ``setup.py develop`` installation are its sources, ``src/`` and all, and say nothing about names.
    """
    own = [file.as_posix() for file in dist.files or []] if dist.read_text("RECORD") is not None else []
    texts = {file: text_of(dist, file) if is_path_file(file) else "" for file in own}
    loaders = loaders_of(texts)
    plain = [f for f in own if not f.startswith(("../", "/", "__editable__")) and "/__pycache__/" not in f"/{f}"]
    plain = [f for f in plain if f not in loaders and not re.match(r"[^/]+\.(dist-info|egg-info|data)/", f)]
    names = module_names(plain)
    for loader in loaders:
        places, named, _ = read_loader(text_of(dist, loader))
        names += [*sorted(places), *named]
    if not names:
        names = path_file_names(texts)
    if not names:
        place = str(dist.locate_file(""))
        names = (dist.read_text("top_level.txt") or "").split()
        names = names or (module_names(files_below(place)) if place not in SITE_FOLDERS else [])
    likely = canonical(dist.metadata["Name"]).replace("-", "_")
    chosen = [name for name in dict.fromkeys(names) if name.split(".")[0].lower() not in BESIDES]
    return chosen or [name for name in names if name.lower() == likely]


def check_module(name: str, dist: metadata.Distribution, checkout: str) -> tuple[dict[str, str], dict[str, str] | None]:
    """Imports one module; what was found, and the problem if there is one."""
    try:
        module = importlib.import_module(name)
    except BaseException as exc:  # SystemExit too: a module may raise anything
        traceback.print_exc()
        return {"name": name, "file": ""}, {"check": "import", "message": f"{name}: {type(exc).__name__}: {exc}"}
    places = [module.__file__] if getattr(module, "__file__", None) else list(getattr(module, "__path__", []))
    installed = {Path(str(dist.locate_file(file))).resolve() for file in dist.files or []}
    for place in map(str, places):
        if inside(place, checkout) or Path(place).resolve() in installed:
            return {"name": name, "file": place}, None
    where = ", ".join(map(str, places)) or "no file"
    return {"name": name, "file": where}, {
        "check": "origin",
        "message": f"{name} was imported from {where}, which is neither in {checkout} nor installed from it",
    }


def examine(checkout: str, primary_root: str) -> dict[str, list[dict[str, str]]]:
    """The report on one image."""
    folder = str(Path(checkout, primary_root))
    report: dict[str, list[dict[str, str]]] = {"distributions": [], "modules": [], "problems": []}
    if not inside(folder, checkout) or not Path(folder).is_dir():
        report["problems"].append({"check": "origin", "message": f"the checkout has no folder {primary_root!r}"})
        return report
    own = own_distributions(folder)
    if not own:
        report["problems"].append({"check": "origin", "message": why_none(folder)})
    for name, dists in sorted(own.items()):
        dist = next((dist for dist in dists if dist.read_text("direct_url.json")), dists[0])
        report["distributions"].append({"name": name, "version": dist.version, "source": source_of(dist)})
        modules = modules_of(dist)
        if not modules:
            report["problems"].append({"check": "import", "message": f"{name} installs no module that can be imported"})
        for module in modules:
            seen, problem = check_module(module, dist, checkout)
            report["modules"].append(seen)
            if problem is not None:
                report["problems"].append(problem)
    return report


if __name__ == "__main__":
    result = examine(sys.argv[1], sys.argv[2])
    for problem in result["problems"]:
        sys.stderr.write(f"headrace: {problem['check']}: {problem['message']}\n")
    for module in result["modules"]:
        sys.stderr.write(f"headrace: {module['name']} is {module['file'] or 'not importable'}\n")
    with Path(sys.argv[3]).open("w", encoding="utf-8") as file:
        json.dump(result, file)
    sys.exit(1 if result["problems"] else 0)
