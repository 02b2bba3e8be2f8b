"""Runs the repository's own tests with pytest, under options that are the same for every repository.

Usage: ``run_tests.py REQUEST_FILE`` in the folder whose tests are to run; the file is JSON, see ``_Request`` in
``actors/verifier/session.py``.

This process becomes what ``python -m pytest`` would be, so that its exit code is pytest's. The repository's own
configuration says which tests there are and how they are imported. Fixed from here: what is reported goes to the file
that the request names, through ``headrace_reporter.py``; the run does not stop early; a module that cannot be collected
counts as an error beside the others' results; plug-ins that the request does not allow are not loaded; and no result
cache of an earlier run is read or left in the checkout.

Exit codes that pytest does not use: 95 the package could not be built again, 96 the image has no pytest.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
from importlib import metadata
from pathlib import Path

NOT_BUILT = 95
NO_PYTEST = 96
REPORTER = "headrace_reporter"


def canonical(name: str) -> str:
    """A distribution's name as the packaging standards compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def blocked_plugins(allowed: set[str]) -> list[str]:
    """Names of the installed plug-ins whose distribution is not allowed."""
    names = set()
    for dist in metadata.distributions():
        for entry in dist.entry_points:
            if entry.group == "pytest11" and canonical(dist.metadata["Name"] or "") not in allowed:
                names.add(entry.name)
    return sorted(names)


def arguments(blocked: list[str], traceback: str) -> list[str]:
    """Pytest's arguments, beside those that the repository's configuration adds."""
    fixed = [
        "-p",
        REPORTER,
        "--override-ini=cache_dir=/tmp/headrace-pytest-cache",
        "--continue-on-collection-errors",
        "--maxfail=0",
        "--color=no",
        "--tb=" + traceback,
    ]
    for name in blocked:
        fixed += ["-p", "no:" + name]
    return fixed


def main(request_file: str) -> None:
    """Becomes pytest."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    for command in request["prepare"]:
        if subprocess.run(command, check=False).returncode != 0:
            sys.stderr.write(f"headrace: {' '.join(command)} failed\n")
            sys.exit(NOT_BUILT)
    sys.path[0] = os.getcwd()  # noqa: PTH109 - as `python -m` does
    if importlib.util.find_spec("pytest") is None:
        sys.stderr.write(f"headrace: pytest is not installed for {sys.executable}; the recipe has to install it\n")
        sys.exit(NO_PYTEST)
    blocked = blocked_plugins(set(request["plugins"]))
    sys.path.append(str(Path(__file__).parent))  # where pytest, and the workers of pytest-xdist, find the reporter
    importlib.import_module(REPORTER).begin(request_file, request)
    sys.argv = ["pytest", *arguments(blocked, request["traceback"])]
    runpy.run_module("pytest", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1])
