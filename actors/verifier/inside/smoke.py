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


def editable_names(dist: metadata.Distribution, own: list[str]) -> list[str]:
    """Names that an editable installation maps to source folders, by a finder module or by path files."""
    names: list[str] = []
    for file in own:
        place = str(dist.locate_file(file))
        if re.fullmatch(r"__editable__\w*_finder\.py", file):
            for line in Path(place).read_text(encoding="utf-8").splitlines():
                if line.startswith("MAPPING"):
                    names += sorted(ast.literal_eval(line.split("=", 1)[1].strip()))
        elif file.endswith(".pth") and "/" not in file:
            for line in Path(place).read_text(encoding="utf-8").splitlines():
                if line.strip() and Path(line.strip()).is_dir():
                    names += module_names(files_below(line.strip()))
    return names


def modules_of(dist: metadata.Distribution) -> list[str]:
    """Top-level names that a distribution is imported by.

    The files of a ``setup.py develop`` installation are its sources, ``src/`` and all, and say nothing about names.
    """
    own = [file.as_posix() for file in dist.files or []] if dist.read_text("RECORD") is not None else []
    plain = [f for f in own if not f.startswith(("../", "/", "__editable__")) and "/__pycache__/" not in f"/{f}"]
    names = module_names([f for f in plain if not re.match(r"[^/]+\.(dist-info|egg-info|data)/", f)])
    if not names:
        names = editable_names(dist, own)
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
