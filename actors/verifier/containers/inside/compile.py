"""Compiles Python files to byte code that is loaded without looking at their sources again.

Usage: ``compile.py RESULT_TAR REQUEST_FILE``. The request is a JSON list of absolute paths. Nothing that is compiled is
run. Members of the archive are named as the interpreter looks for them below its ``pycache_prefix``. What does not
compile is left out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import sys
import tarfile
import tempfile


def main(result: str, request: str) -> None:
    """Compiles, as the usage says."""
    with open(request, encoding="utf-8") as file:  # noqa: PTH123
        paths = json.load(file)
    handle, compiled = tempfile.mkstemp()
    os.close(handle)
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    sys.pycache_prefix = "/"
    with tarfile.open(result, "w") as tar:
        for path in paths:
            try:
                py_compile.compile(path, cfile=compiled, dfile=path, doraise=True, invalidation_mode=mode)
            except (py_compile.PyCompileError, OSError, ValueError):
                continue
            tar.add(compiled, arcname=importlib.util.cache_from_source(path).lstrip("/"))


if __name__ == "__main__":
    main(*sys.argv[1:])
