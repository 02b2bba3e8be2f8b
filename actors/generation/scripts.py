"""Reads the three scripts that an agent may edit, from a folder in which the agent may have put anything.

What is returned is the text of three regular files, each with one name only, at most :data:`MAX_SCRIPT_BYTES` large,
in UTF-8. The folder is the one that was opened before the session began, whatever stands under its path by now. No link
is followed, and nothing that blocks or has side effects is opened for more than a look at what it is.
"""

from __future__ import annotations

import os
import stat

import msgspec

from actors.verifier.checks.template import EDITABLE
from store.docker_context import FILE_NAMES, DockerContext

__all__ = ["MAX_SCRIPT_BYTES", "ScriptsUnusable", "read_scripts", "with_scripts"]

MAX_SCRIPT_BYTES = 256 * 1024
ATTRIBUTE = {name: attribute for attribute, name in FILE_NAMES.items()}


class ScriptsUnusable(Exception):
    """What stands in the workspace is not three scripts; ``message`` names the file and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def read_scripts(folder_fd: int) -> dict[str, str]:
    """The texts of the three scripts, by file name.

    Args:
        folder_fd: the workspace, opened before the agent was started.

    Raises:
        ScriptsUnusable: one is missing, or is not a plain text file.
    """
    return {name: _read(folder_fd, name) for name in sorted(EDITABLE)}


def with_scripts(base: DockerContext, scripts: dict[str, str]) -> DockerContext:
    """A context with these scripts, and the six other files of ``base``."""
    return msgspec.structs.replace(base, **{ATTRIBUTE[name]: text for name, text in scripts.items()})


def _read(folder_fd: int, name: str) -> str:
    try:
        # Without O_NONBLOCK a named pipe would hold us up for ever.
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder_fd)
    except FileNotFoundError:
        raise ScriptsUnusable(f"{name} is missing; put the script back") from None
    except OSError as exc:
        raise ScriptsUnusable(f"{name} is not a regular file ({exc.strerror}); make it a plain text file") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ScriptsUnusable(f"{name} is not a regular file; make it a plain text file")
        if found.st_nlink != 1:
            raise ScriptsUnusable(f"{name} has {found.st_nlink} names (hard links); make it a file of its own")
        data = b""
        while len(data) <= MAX_SCRIPT_BYTES and (piece := os.read(fd, MAX_SCRIPT_BYTES + 1 - len(data))):
            data += piece
    finally:
        os.close(fd)
    if len(data) > MAX_SCRIPT_BYTES:
        raise ScriptsUnusable(f"{name} is larger than {MAX_SCRIPT_BYTES} bytes; make it shorter")
    if b"\0" in data:
        raise ScriptsUnusable(f"{name} holds a NUL byte; make it a plain text file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise ScriptsUnusable(f"{name} is not UTF-8 (byte {exc.start}); save it as UTF-8") from None
