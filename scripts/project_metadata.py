"""What a project needs, read off its files at one commit: to run, to be built, to be tested.

Guarantees: nothing of the project is executed. Each question is answered by the first file that says something:
``pyproject.toml``, then what a source distribution carries of its own build (``PKG-INFO``, the egg-info's
``requires.txt``), ``setup.cfg``, ``setup.py`` as far as it can be read. Test requirements are brought together from all
of them, from requirement files and from ``tox.ini``. The project itself is never among its requirements.
"""

from __future__ import annotations

import configparser
import email
import re
from collections.abc import Collection, Iterable, Mapping

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.pyproject import Declared, build_requirements, load_pyproject, pyproject_declares
from scripts.requirement_files import (
    Reader,
    requirements,
    requirements_file,
    requires_txt,
    tox_requirements,
    with_marker,
)
from scripts.setup_py import COMPUTED, setup_arguments

__all__ = ["ProjectNeeds", "read_needs"]

TEST_EXTRAS = ("test", "tests", "testing", "unittest", "pytest")
DEVELOPMENT_EXTRAS = ("dev", "develop", "development")
"""Asked only when nothing is said under a name for tests: these also carry linters and documentation tools."""
TEST_FILES = re.compile(
    r"(requirements[-_.]?(tests?|testing)[^/]*|(tests?|testing)[-_.]requirements|"
    r"(requirements|reqs|tests?)/((requirements[-_])?(tests?|testing)[^/]*|requirements))\.(txt|in)"
)
DEVELOPMENT_FILES = re.compile(r"(requirements[-_.]?dev[^/]*|dev[-_.]requirements|requirements/dev[^/]*)\.(txt|in)")
EXTRA_MARKER = re.compile(r"""\(?\s*extra\s*==\s*['"](?P<extra>[^'"]+)['"]\s*\)?""")


class ProjectNeeds(msgspec.Struct, frozen=True, kw_only=True):
    """PEP 508 requirements by purpose; ``notes`` tells what could not be read."""

    name: str
    requires_python: str | None
    classifiers: list[str]
    run: list[str]
    build: list[str]
    test: list[str]
    notes: list[str]


def read_needs(read: Reader, *, files: Collection[str], fallback_name: str) -> ProjectNeeds:
    """Reads a project at one commit.

    Args:
        read: gives a file's text by its path below the project's root.
        files: all paths below that root.
        fallback_name: the project's name should its files not tell it.
    """
    pyproject = load_pyproject(read("pyproject.toml"))
    says = [
        *([pyproject_declares(pyproject, read)] if pyproject is not None else []),
        _pkg_info(read("PKG-INFO")),
        _egg_info(read, files),
        _setup_cfg(read("setup.cfg"), read),
        _setup_py(read("setup.py")),
    ]
    name = next((one.name for one in says if one.name), fallback_name)
    extras: dict[str, list[str]] = {}
    for one in says:
        for extra, entries in one.extras.items():
            extras.setdefault(canonicalize_name(extra), entries)
    own = {canonicalize_name(name), canonicalize_name(fallback_name)}
    run = next((one.dependencies for one in says if one.dependencies is not None), [])
    tests = _test_requirements(says, extras, read=read, files=files, name=name)
    return ProjectNeeds(
        name=name,
        requires_python=next((one.requires_python for one in says if one.requires_python), None),
        classifiers=next((one.classifiers for one in says if one.classifiers), []),
        run=_without_itself(run, extras, own=own),
        build=_without_itself(
            build_requirements(pyproject) + [entry for one in says for entry in one.build], {}, own=own
        ),
        test=_without_itself([*tests, "pytest"], extras, own=own),
        notes=[note for one in says for note in one.notes],
    )


def _test_requirements(
    says: Iterable[Declared],
    extras: Mapping[str, list[str]],
    *,
    read: Reader,
    files: Collection[str],
    name: str,
) -> list[str]:
    def under(names: Iterable[str], pattern: re.Pattern[str]) -> list[str]:
        listed = [entry for extra in names for entry in extras.get(extra, [])]
        for path in sorted(filter(pattern.fullmatch, files)):
            listed += requirements_file(read, path, project=name)
        return listed

    found = [entry for one in says for entry in one.tests] + under(TEST_EXTRAS, TEST_FILES)
    for path in ("tox.ini", "setup.cfg"):
        found += tox_requirements(read, path, project=name)
    return found or under(DEVELOPMENT_EXTRAS, DEVELOPMENT_FILES)


def _without_itself(entries: Iterable[str], extras: Mapping[str, list[str]], *, own: Collection[str]) -> list[str]:
    """The entries once each; ``project[extra]`` is replaced by what the extra holds."""
    found: dict[str, None] = {}
    pending, expanded = list(entries), set[str]()
    while pending:
        entry = pending.pop(0)
        requirement = Requirement(entry)
        if canonicalize_name(requirement.name) not in own:
            found.setdefault(entry)
            continue
        wanted = {canonicalize_name(extra) for extra in requirement.extras} - expanded
        expanded |= wanted
        pending += [line for extra in sorted(wanted) for line in extras.get(extra, [])]
    return list(found)


def _pkg_info(text: str | None) -> Declared:
    if text is None:
        return Declared()
    message = email.message_from_string(text)
    found = Declared(
        name=_header(message["Name"]),
        requires_python=_header(message["Requires-Python"]),
        classifiers=[str(entry) for entry in message.get_all("Classifier", [])],
    )
    lines = requirements(str(entry) for entry in message.get_all("Requires-Dist", []))
    if lines:
        found.dependencies = []
    for line in lines:
        name, _, marker = line.partition(";")
        wanted = [match["extra"] for match in EXTRA_MARKER.finditer(marker)]
        rest = re.sub(r"^\s*(and|or)\b|\b(and|or)\s*$", "", EXTRA_MARKER.sub("", marker)).strip()
        if not wanted:
            found.dependencies = [*(found.dependencies or []), line]
        for extra in wanted:
            entry = with_marker(name.strip(), rest)
            found.extras.setdefault(extra, []).extend(requirements([entry]) or [name.strip()])
    return found


def _header(value: object) -> str | None:
    text = str(value).strip() if value is not None else ""
    return text if text and text != "UNKNOWN" else None


def _egg_info(read: Reader, files: Collection[str]) -> Declared:
    """An egg-info without ``requires.txt`` says that nothing is required."""
    sources = sorted(path for path in files if re.fullmatch(r"(src/|lib/)?[^/]+\.egg-info/SOURCES\.txt", path))
    if not sources:
        return Declared()
    text = read(sources[0].replace("SOURCES.txt", "requires.txt"))
    dependencies, extras = requires_txt(text or "")
    return Declared(dependencies=dependencies, extras=extras)


def _setup_cfg(text: str | None, read: Reader) -> Declared:
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text or "")
    except configparser.Error:
        return Declared(notes=["setup.cfg cannot be parsed"])

    def listed(section: str, option: str) -> list[str] | None:
        value = parser.get(section, option, fallback=None)
        if value is None:
            return None
        if value.strip().startswith("file:"):
            paths = re.split(r"[,\s]+", value.strip().removeprefix("file:").strip())
            return [entry for path in paths for entry in requirements_file(read, path, project="")]
        return requirements(value.splitlines() if "\n" in value else value.split(";"))

    classifiers = parser.get("metadata", "classifiers", fallback=parser.get("metadata", "classifier", fallback=""))
    extras = parser["options.extras_require"] if parser.has_section("options.extras_require") else {}
    return Declared(
        name=parser.get("metadata", "name", fallback=None),
        requires_python=parser.get("options", "python_requires", fallback=None),
        dependencies=listed("options", "install_requires"),
        tests=listed("options", "tests_require") or [],
        build=listed("options", "setup_requires") or [],
        extras={extra: listed("options.extras_require", extra) or [] for extra in extras},
        classifiers=[line.strip() for line in classifiers.splitlines() if line.strip()],
    )


def _setup_py(text: str | None) -> Declared:
    given = setup_arguments(text) if text is not None else {}
    computed = [name for name in ("install_requires", "extras_require", "tests_require") if given.get(name) is COMPUTED]
    found = Declared(
        name=_string(given.get("name")),
        requires_python=_string(given.get("python_requires")),
        tests=_entries(given.get("tests_require")) or [],
        build=_entries(given.get("setup_requires")) or [],
        classifiers=[entry for entry in _list(given.get("classifiers")) if isinstance(entry, str)],
        notes=[f"setup.py computes {name}, which was not read" for name in computed],
    )
    if "install_requires" not in computed and given:
        found.dependencies = _entries(given.get("install_requires"))
    extras = given.get("extras_require")
    for key, value in extras.items() if isinstance(extras, dict) else []:
        extra, _, marker = str(key).partition(":")
        entries = requirements(with_marker(entry, marker) for entry in _entries(value) or [])
        if extra:
            found.extras.setdefault(extra, []).extend(entries)
        elif found.dependencies is not None:
            found.dependencies += entries
    return found


def _entries(value: object) -> list[str] | None:
    if isinstance(value, str):
        return requirements(value.splitlines())
    return requirements(entry for entry in value if isinstance(entry, str)) if isinstance(value, list) else None


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None
