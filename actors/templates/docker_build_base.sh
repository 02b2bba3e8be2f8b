#!/bin/bash
# Base tier, once per Python version: git, a C and C++ compiler, Python's headers, and the environment /opt/venv.
# What the image has already is left alone.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

fail() { echo "headrace: error: $*" >&2; exit 1; }

python=$(PATH=${PATH#/opt/venv/bin:} command -v python3) || fail "the base image has no python3"

has_headers() { "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))'; }
has_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }

wanted=()
command -v git >/dev/null || wanted+=(git)
command -v gcc >/dev/null && command -v g++ >/dev/null && command -v make >/dev/null || wanted+=(build-essential)
[ -e /etc/ssl/certs/ca-certificates.crt ] || wanted+=(ca-certificates)
has_headers || wanted+=(python3-dev)
has_venv || wanted+=(python3-venv)

if [ ${#wanted[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || fail "the base image lacks ${wanted[*]} and has no apt-get to install them with"
    apt-get update
    apt-get install --yes --no-install-recommends "${wanted[@]}"
    rm -rf /var/lib/apt/lists/*
fi

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
asked=$(echo "${HEADRACE_PYTHON_VERSION:-$version}" | cut -d. -f1,2)
[ "$version" = "$asked" ] || fail "the base image has Python $version and the pull request asks for $asked"
has_headers || fail "Python.h of Python $version is not to be had"

[ -x /opt/venv/bin/python ] || "$python" -m venv /opt/venv
# Editable installs by the standard (PEP 660) and readable build errors need a pip of 2023 or later.
if ! /opt/venv/bin/python -c 'import pip, sys; sys.exit(int(pip.__version__.split(".")[0]) < 24)'; then
    /opt/venv/bin/python -m pip install --quiet --upgrade pip
fi
# Which setuptools a project gets is a matter of its own environment, so the base brings none.
/opt/venv/bin/python -m pip uninstall --quiet --yes setuptools wheel 2>/dev/null || true
/opt/venv/bin/python -m pip --version
git --version
