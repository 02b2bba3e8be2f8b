#!/usr/bin/env bash
# Long runs of the deterministic simulation: real actor classes, virtual clock, seeded scheduler, faults and deaths.
#
#   scripts/dst.sh --seeds A:B [--jobs N] [--keep-going]    the seeds from A up to but not including B
#   scripts/dst.sh --seed N                                 replays one seed, step by step
#
# A seed that fails is printed with what broke. The exit code is 1 when one failed.
set -euo pipefail
# shellcheck source=SCRIPTDIR/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$ROOT"
[[ -x "$VENV/bin/python" ]] || die "no $VENV; run scripts/setup.sh --dev"
exec "$VENV/bin/python" -m tests.dst "$@"
