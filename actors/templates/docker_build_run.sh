#!/bin/bash
# Makes sure that the tests can run: pytest, unless the environment has it, without moving any pinned version.
set -euo pipefail

if ! python -c 'import pytest' 2>/dev/null; then
    pins=/tmp/headrace-pins.txt
    python -m pip freeze --exclude-editable | grep -E '^[A-Za-z0-9._-]+==' >"$pins" || true
    python -m pip install --constraint "$pins" pytest
    rm -f "$pins"
fi
python -m pytest --version
