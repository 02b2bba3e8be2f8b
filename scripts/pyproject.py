"""What a ``pyproject.toml`` declares: PEP 621, dependency groups (PEP 735), and the tables of Poetry, Flit and PDM.

Guarantees: nothing is fetched or run; entries of an unexpected shape are passed over. Poetry's own version notations
become those of PEP 440.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import cast

import msgspec

from scripts.requirement_files import Reader, requirements, requirements_file, with_marker

__all__ = ["Declared", "build_requirements", "load_pyproject", "poetry_specifier", "pyproject_declares"]

Table = Mapping[str, object]
BACKENDS_NEED: Mapping[str, list[str]] = {
    "mesonpy": ["ninja"],
    "scikit_build_core.build": ["cmake", "ninja"],
    "scikit_build_core.setuptools.build_meta": ["cmake", "ninja"],
}
"""What these backends ask for only when they run; without build isolation it must be there before."""


class Declared(msgspec.Struct, kw_only=True):
    """What one file says of a project. ``None``: it says nothing about this."""

    name: str | None = None
    requires_python: str | None = None
    dependencies: list[str] | None = None
    extras: dict[str, list[str]] = msgspec.field(default_factory=dict)
    tests: list[str] = msgspec.field(default_factory=list)
    build: list[str] = msgspec.field(default_factory=list)
    classifiers: list[str] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)


def load_pyproject(text: str | None) -> Table | None:
    """The parsed file; ``None``: there is none, or it is no TOML."""
    try:
        return None if text is None else tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def build_requirements(pyproject: Table | None) -> list[str]:
    """``[build-system] requires`` (PEP 518), setuptools and wheel where it is absent, and what backends need beside."""
    system = _table(pyproject or {}, "build-system")
    if "requires" not in system:
        return ["setuptools", "wheel"]
    found = requirements(_strings(system["requires"]))
    if any(re.match(r"setuptools\b(?![-_.])", entry, re.IGNORECASE) for entry in found):
        found.append("wheel")
    return found + BACKENDS_NEED.get(str(system.get("build-backend")), [])


def pyproject_declares(pyproject: Table, read: Reader) -> Declared:
    """What the project table, or else that of its tool, declares."""
    tool = _table(pyproject, "tool")
    groups = {
        name: _group(_table(pyproject, "dependency-groups"), name, ())
        for name in _table(pyproject, "dependency-groups")
    }
    if "project" in pyproject:
        found = _standard(_table(pyproject, "project"), _table(_table(tool, "setuptools"), "dynamic"), read)
    elif "poetry" in tool:
        found = _poetry(_table(tool, "poetry"))
    elif "flit" in tool:
        found = _flit(_table(_table(tool, "flit"), "metadata"))
    else:
        found = Declared()
    if "project" in pyproject and "poetry" in tool:
        groups |= _poetry(_table(tool, "poetry")).extras
    for name, entries in _table(_table(tool, "pdm"), "dev-dependencies").items():
        groups.setdefault(name, requirements(_strings(entries)))
    for name, group in groups.items():
        found.extras[name] = found.extras.get(name, []) + group
    return found


def poetry_specifier(constraint: str) -> str:
    """PEP 440's form of a constraint in Poetry's notation; of alternatives (``||``) the last."""
    last = constraint.rpartition("||")[2].strip()
    parts = [part for part in re.split(r"\s*,\s*|(?<=[\w*])\s+(?=[<>=!~^])", last) if part]
    return ",".join(filter(None, map(_poetry_part, parts)))


def _poetry_part(part: str) -> str:
    part = part.replace(" ", "")
    caret = re.fullmatch(r"(\^|~(?!=))v?(\d+(?:\.\d+)*)(.*)", part)
    if caret:
        sign, numbers, rest = caret[1], [int(number) for number in caret[2].split(".")], caret[3]
        if sign == "~":
            place = min(1, len(numbers) - 1)
        else:
            place = next((place for place, number in enumerate(numbers) if number), len(numbers) - 1)
        upper = ".".join(str(number) for number in [*numbers[:place], numbers[place] + 1])
        return f">={caret[2]}{rest},<{upper}"
    if part == "*":
        return ""
    if re.match(r"\d", part):
        return f"=={part}"
    return part


def _standard(project: Table, dynamic: Table, read: Reader) -> Declared:
    name = _text(project.get("name"))
    says = _strings(project.get("dynamic", []))
    found = Declared(
        name=name,
        requires_python=_text(project.get("requires-python")),
        classifiers=_strings(project.get("classifiers", [])),
        extras={
            extra: requirements(_strings(entries))
            for extra, entries in _table(project, "optional-dependencies").items()
        },
    )
    if "dependencies" not in says:
        found.dependencies = requirements(_strings(project.get("dependencies", [])))
    elif "dependencies" in dynamic:
        found.dependencies = _from_files(dynamic["dependencies"], read, name)
    for extra, source in _table(dynamic, "optional-dependencies").items():
        found.extras[extra] = _from_files(source, read, name)
    return found


def _from_files(source: object, read: Reader, name: str | None) -> list[str]:
    files = source.get("file", []) if isinstance(source, Mapping) else []
    paths = [files] if isinstance(files, str) else _strings(files)
    return [entry for path in paths for entry in requirements_file(read, path, project=name or "")]


def _group(groups: Table, name: str, within: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    entries = groups.get(name)
    for entry in entries if isinstance(entries, list) and name not in within else []:
        if isinstance(entry, str):
            found += requirements([entry])
        elif isinstance(entry, Mapping) and isinstance(entry.get("include-group"), str):
            found += _group(groups, entry["include-group"], (*within, name))
    return found


def _poetry(poetry: Table) -> Declared:
    main = _table(poetry, "dependencies")
    python = _text(main.get("python"))
    optional = {name for name, spec in main.items() if isinstance(spec, Mapping) and spec.get("optional")}
    found = Declared(
        name=_text(poetry.get("name")),
        requires_python=poetry_specifier(python) if python else None,
        dependencies=[line for name in main if name not in optional for line in _poetry_lines(name, main[name])],
        classifiers=_strings(poetry.get("classifiers", [])),
    )
    for extra, names in _table(poetry, "extras").items():
        found.extras[extra] = [line for name in _strings(names) for line in _poetry_lines(name, main.get(name, "*"))]
    groups = {name: _table(_table(_table(poetry, "group"), name), "dependencies") for name in _table(poetry, "group")}
    for group, entries in {"dev": _table(poetry, "dev-dependencies"), **groups}.items():
        lines = [line for name, spec in entries.items() for line in _poetry_lines(name, spec)]
        if lines:
            found.extras[group] = found.extras.get(group, []) + lines
    return found


def _poetry_lines(name: str, spec: object) -> list[str]:
    if name == "python":
        return []
    if isinstance(spec, list):
        return [line for one in spec for line in _poetry_lines(name, one)]
    table: Table = spec if isinstance(spec, Mapping) else {"version": spec}
    if not isinstance(table.get("version"), str):
        return []
    extras = _strings(table.get("extras", []))
    line = f"{name}{'[' + ','.join(extras) + ']' if extras else ''}{poetry_specifier(str(table['version']))}"
    line = with_marker(line, _text(table.get("markers")) or "")
    python = poetry_specifier(_text(table.get("python")) or "*")
    pythons = [re.fullmatch(r"([<>=!~]+)(.+)", part) for part in python.split(",") if part]
    line = with_marker(line, " and ".join(f"python_version {part[1]} '{part[2]}'" for part in pythons if part))
    return requirements([line])


def _flit(metadata: Table) -> Declared:
    extras = {extra: requirements(_strings(entries)) for extra, entries in _table(metadata, "requires-extra").items()}
    if "dev-requires" in metadata:
        extras.setdefault("dev", requirements(_strings(metadata["dev-requires"])))
    return Declared(
        name=_text(metadata.get("dist-name")) or _text(metadata.get("module")),
        requires_python=_text(metadata.get("requires-python")),
        dependencies=requirements(_strings(metadata.get("requires", []))),
        classifiers=_strings(metadata.get("classifiers", [])),
        extras=extras,
    )


def _table(table: Table, name: str) -> Table:
    value = table.get(name)
    return cast("Table", value) if isinstance(value, Mapping) else {}


def _strings(value: object) -> list[str]:
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list | tuple) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
