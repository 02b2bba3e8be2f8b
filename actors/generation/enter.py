"""Puts itself into control groups, sets limits, and becomes the program it is given.

A program of its own, because a threaded process must not run Python between fork and exec; standard library only.
Usage: ``enter.py LIMITS COMMAND…``, where LIMITS is JSON: ``{"groups": [FILE…], "file_bytes": N, "open_files": N}``.
"""

from __future__ import annotations

import json
import os
import resource
import sys


def main(arguments: list[str]) -> None:
    """Entry point; returns only by an exception."""
    limits = json.loads(arguments[0])
    for group in limits["groups"]:
        with open(group, "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib doubles the start-up time
            file.write(str(os.getpid()))
    for kind, wanted in ((resource.RLIMIT_FSIZE, "file_bytes"), (resource.RLIMIT_NOFILE, "open_files")):
        _, hard = resource.getrlimit(kind)
        value = limits[wanted] if hard == resource.RLIM_INFINITY else min(limits[wanted], hard)
        resource.setrlimit(kind, (value, value))
    os.execvp(arguments[1], arguments[1:])  # noqa: S606 - no shell is what is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
