"""Runs the repository's own tests with pytest, under options that are the same for every repository.

Usage: ``run_tests.py JUNIT_FILE`` in the folder whose tests are to run.

This process becomes ``python -m pytest``, so that its exit code is pytest's. The repository's own configuration says
which tests there are and how they are imported. Fixed from here: the report goes to ``JUNIT_FILE``, the run does not
stop early, a module that cannot be collected counts as an error beside the others' results, and no result cache of an
earlier run is read or left in the checkout.

Exit code 96, which pytest does not use: the image has no pytest.
"""

from __future__ import annotations

import importlib.util
import os
import sys

NO_PYTEST = 96


def command(junit_file: str) -> list[str]:
    """The interpreter's arguments for one run that reports to ``junit_file``."""
    return [
        sys.executable,
        "-m",
        "pytest",
        "--junitxml=" + junit_file,
        "--override-ini=junit_logging=no",
        "--override-ini=cache_dir=/tmp/headrace-pytest-cache",
        "--continue-on-collection-errors",
        "--maxfail=0",
        "--color=no",
    ]


if __name__ == "__main__":
    if importlib.util.find_spec("pytest") is None:
        sys.stderr.write(f"headrace: pytest is not installed for {sys.executable}; the recipe has to install it\n")
        sys.exit(NO_PYTEST)
    arguments = command(sys.argv[1])
    os.execv(arguments[0], arguments)  # noqa: S606 - no shell is wanted
