#!/bin/bash
# Builds the package from the checkout, in the way that its own metadata asks for. The ways are tried in this order:
#   1. editable, with the build requirements of the pinned environment (those of the pull request's date)
#   2. setup.py develop, where that environment's setuptools predates editable installs by the standard
#   3. editable, with build requirements as pip picks them
#   4. a regular install, likewise
# Dependencies are the business of docker_build_env.sh. Each way starts with a heading "==> …", and its output is kept
# whole: when all fail, Headrace reads the errors from there.
set -uo pipefail

fail() { echo "headrace: error: $*" >&2; exit 1; }

root=$(python -c 'import json; print(json.load(open("/opt/headrace/pull_request.json"))["primary_root"])') || exit 1
cd "/workspace/repo/$root" || fail "primary_root '$root' is no folder of this commit"
[ -f pyproject.toml ] || [ -f setup.py ] || fail "neither pyproject.toml nor setup.py in '${root:-.}'; set primary_root"

way() {
    echo "==> $1"
    shift
    "$@" && exit 0
}

old_setuptools() {
    [ -f setup.py ] && python -c '
import sys
try:
    import setuptools
except ImportError:
    sys.exit(1)
sys.exit(int(setuptools.__version__.split(".")[0]) >= 64)'
}

# A release of this very package may be in the environment, because something that the tests need depends on it: unlike
# pip, setup.py would leave it there, and it would be imported instead of the checkout.
develop() {
    local name
    name=$(python setup.py --name 2>/dev/null | tail -n 1)
    [ -z "$name" ] || python -m pip uninstall --yes --quiet "$name"
    python setup.py develop --no-deps
}

pip_install() { python -m pip install --no-deps "$@" .; }

way "editable, build requirements of the environment" pip_install --no-build-isolation --editable
if old_setuptools; then
    way "setup.py develop" develop
fi
way "editable, build requirements of its own" pip_install --editable
way "regular, build requirements of its own" pip_install
exit 1
