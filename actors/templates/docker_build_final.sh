#!/bin/bash
# Leaves the image tidy, and a list of what it holds in /opt/headrace/freeze.txt.
set -euo pipefail

python -m pip freeze >/opt/headrace/freeze.txt
ln -sf /opt/headrace/profile.sh /etc/profile.d/headrace.sh
rm -rf /root/.cache /tmp/headrace-*
