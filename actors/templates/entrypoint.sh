#!/bin/bash
# Runs what it is given in the build's environment.
. /opt/headrace/profile.sh
exec "$@"
