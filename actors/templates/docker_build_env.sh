#!/bin/bash
# Installs the pinned dependencies of the pull request's date: env_payload.json, an object with "dependencies" or a list.
set -euo pipefail

payload=/opt/headrace/env_payload.json
requirements=/tmp/headrace-requirements.txt

python - "$payload" "$requirements" <<'PYTHON'
import json
import sys

source, target = sys.argv[1:]
try:
    with open(source, encoding="utf-8") as file:
        payload = json.load(file)
except ValueError as exc:
    sys.exit("headrace: error: env_payload is not JSON: %s" % exc)
dependencies = payload.get("dependencies") if isinstance(payload, dict) else payload
if not isinstance(dependencies, list) or not all(isinstance(entry, str) for entry in dependencies):
    sys.exit("headrace: error: env_payload must be a list of requirements, or an object with one under 'dependencies'")
with open(target, "w", encoding="utf-8") as file:
    file.writelines(entry + "\n" for entry in dependencies)
PYTHON

if [ -s "$requirements" ]; then
    python -m pip install --requirement "$requirements"
fi
rm -f "$requirements"
