"""Requirements as text files hold them: requirement files, ``requires.txt`` of egg-infos, ``tox.ini``.

Guarantees: what is returned are PEP 508 requirements. What is something else (options, paths, addresses without a name,
substitutions) is left out; it is never fetched or run.
"""

from __future__ import annotations

import configparser
import posixpath
import re
from collections.abc import Callable, Iterable

from packaging.requirements import InvalidRequirement, Requirement

__all__ = ["Reader", "requirements", "requirements_file", "requires_txt", "tox_requirements", "with_marker"]

Reader = Callable[[str], str | None]
"""A file's text by its path in the repository; ``None``: there is none."""

INCLUDE = re.compile(r"(?:-r|--requirement)[ =]?\s*(\S+)")
OWN_EXTRAS = re.compile(r"(?:-e|--editable)?[ =]?\s*\.(?:/)?\[([^\]]+)\]")
HASHES = re.compile(r"\s--(hash|config-settings?|global-option)[ =]\S+")
COMMENT = re.compile(r"(^|\s)#.*$")
FACTORS = re.compile(r"[\w{},!.-]+:\s+(?=\S)")


def requirements(lines: Iterable[str]) -> list[str]:
    """Those of the lines that are PEP 508 requirements."""
    found = []
    for line in lines:
        text = HASHES.sub("", COMMENT.sub("", line)).strip()
        if text and _is_requirement(text):
            found.append(text)
    return found


def requirements_file(read: Reader, path: str, *, project: str, seen: frozenset[str] = frozenset()) -> list[str]:
    """The requirements of a requirement file and of those that it includes.

    An entry ``.[extra]`` becomes ``project[extra]``, for whoever knows the project's extras.
    """
    text = read(path)
    if text is None or path in seen:
        return []
    found: list[str] = []
    for line in text.replace("\\\n", " ").splitlines():
        entry = COMMENT.sub("", line).strip()
        include, own = INCLUDE.match(entry), OWN_EXTRAS.match(entry)
        if include:
            other = posixpath.normpath(posixpath.join(posixpath.dirname(path), include[1]))
            found += requirements_file(read, other, project=project, seen=seen | {path})
        elif own:
            found.append(f"{project}[{own[1]}]")
        else:
            found += requirements([entry])
    return found


def requires_txt(text: str) -> tuple[list[str], dict[str, list[str]]]:
    """Dependencies and extras of setuptools' ``requires.txt``, whose sections are ``[extra:marker]``."""
    dependencies: list[str] = []
    extras: dict[str, list[str]] = {}
    extra, marker = "", ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            extra, _, marker = line[1:-1].partition(":")
            if extra:
                extras.setdefault(extra, [])
        elif line:
            (extras[extra] if extra else dependencies).extend(requirements([with_marker(line, marker)]))
    return dependencies, extras


def with_marker(requirement: str, marker: str) -> str:
    """The requirement under one marker more."""
    if not marker.strip():
        return requirement
    name, semicolon, own = requirement.partition(";")
    return f"{name.strip()} ; ({own.strip()}) and ({marker})" if semicolon else f"{name.strip()} ; {marker}"


def tox_requirements(read: Reader, path: str, *, project: str) -> list[str]:
    """The ``deps`` of ``[testenv]`` that hold for every environment: lines under a factor are left out."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(read(path) or "")
    except configparser.Error:
        return []
    found: list[str] = []
    extras = re.split(r"[\s,]+", parser.get("testenv", "extras", fallback="").strip())
    found += [f"{project}[{extra}]" for extra in extras if re.fullmatch(r"[A-Za-z0-9._-]+", extra)]
    for line in parser.get("testenv", "deps", fallback="").splitlines():
        include = INCLUDE.match(line.strip())
        if include:
            inside = posixpath.normpath(include[1].replace("{toxinidir}", "."))
            found += requirements_file(read, inside, project=project)
        elif not FACTORS.match(line.strip()):
            found += requirements([line])
    return found


def _is_requirement(text: str) -> bool:
    try:
        return Requirement(text).url is None
    except InvalidRequirement:
        return False
