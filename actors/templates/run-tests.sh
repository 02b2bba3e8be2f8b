#!/bin/bash
# Runs the project's tests as a person would. Verdicts do not come from here: Headrace collects and runs the tests itself.
set -euo pipefail

. /opt/headrace/profile.sh
cd /workspace/repo
cd "$(python -c 'import json; print(json.load(open("/opt/headrace/pull_request.json"))["primary_root"] or ".")')"
exec python -m pytest "$@"
