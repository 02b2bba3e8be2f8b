"""Whether a file is an ordinary console script: the few lines that installers write to start an entry point."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["is_console_script"]

MAX_LINES = 40
HARMLESS = tuple(
    re.compile(pattern)
    for pattern in (
        r"#!/opt/venv/bin/python[\d.]*",
        r"# -\*- coding: utf-8 -\*-",
        r"# EASY-INSTALL-ENTRY-SCRIPT: '[^']*','console_scripts','[^']*'",
        r"__requires__ = '[^']*'",
        r"import (?:re|sys)",
        r"""if __name__ == ['"]__main__['"]:""",
        r"""\s+sys\.argv\[0\] = re\.sub\(r['"][^'"]*['"], ['"]{2}, sys\.argv\[0\]\)""",
        r"""\s+sys\.argv\[0\] = sys\.argv\[0\](?:\[:-\d+\]|\.removesuffix\(['"][^'"]*['"]\))""",
        r"""\s+(?:el)?if sys\.argv\[0\]\.endswith\(['"][^'"]*['"]\):""",
        r"\s+sys\.exit\(",
        r"\s+\)",
        r"",
    )
)
IMPORTED = re.compile(r"from (?P<module>[\w.]+) import (?P<name>\w+)")
CALLED = re.compile(r"\s+sys\.exit\((?P<name>\w+)\(\)\)")
LOADED = re.compile(r"\s+load_entry_point\('(?P<distribution>[\w.-]+)==[^']*', 'console_scripts', '[^']*'\)\(\)")


def is_console_script(content: bytes, *, modules: Sequence[str]) -> bool:
    """Whether a script consists of lines that pip, uv and setuptools write, and starts something of ``modules``.

    Args:
        content: of the file.
        modules: top-level packages, or names of distributions, whose entry points it may start.
    """
    try:
        lines = content.decode("utf-8").rstrip("\n").split("\n")
    except UnicodeDecodeError:
        return False
    if not HARMLESS[0].fullmatch(lines[0]) or len(lines) > MAX_LINES:
        return False
    imported: list[str] = []
    called: list[str] = []
    for line in lines:
        if found := IMPORTED.fullmatch(line):
            if found["module"] == "pkg_resources" and found["name"] == "load_entry_point":
                continue
            if found["module"].partition(".")[0] not in modules:
                return False
            imported.append(found["name"])
        elif found := CALLED.fullmatch(line):
            called.append(found["name"])
        elif found := LOADED.fullmatch(line):
            if found["distribution"].lower() not in modules:
                return False
            called.append("")
        elif not any(pattern.fullmatch(line) for pattern in HARMLESS):
            return False
    return (len(imported) == 1 and called == imported) or (not imported and called == [""])
