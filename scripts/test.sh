#!/usr/bin/env bash
# Checks everything: style, types, tests. Installs what is missing first, and stops what it started.
#
#   scripts/test.sh [--fast | --no-agents] [PYTEST ARGUMENT…]
#   --fast       only the tests that need no Docker engine, no Ray and no agents, and are quick; no daemon is started
#   --no-agents  all but those that run the real coding agents, which are installed from npm (a gigabyte) on first use
#
# All phases run even if one fails. The exit code is 0 when all passed, 1 when one failed, 3 when the machine could
# not be made ready. The last line is pytest's own. What is kept between runs: the caches in $HEADRACE_TEST_CACHE
# (~/.cache/headrace-tests) and the images in the daemon's data folder.
set -euo pipefail
# shellcheck source=SCRIPTDIR/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$ROOT"
fast=
agents=yes
declare -a arguments=() summary=()
for argument in "$@"; do
    case "$argument" in
        --fast) fast=yes ;;
        --no-agents) agents= ;;
        -h | --help)
            sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *) arguments+=("$argument") ;;
    esac
done
if [[ -n "$fast" ]]; then
    agents=
    arguments=(-m "not engine and not ray and not slow and not agents" "${arguments[@]}")
elif [[ -z "$agents" ]]; then
    arguments=(-m "not agents" "${arguments[@]}")
fi

pytest_log=$(mktemp)
cleanup() {
    rm -f "$pytest_log"
    engine_release
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

milliseconds() { printf '%s' "$((${EPOCHREALTIME/[.,]/} / 1000))"; }

failed=0
began=$(milliseconds)

# phase NAME COMMAND…: runs the command and notes how it ended and how long it took.
phase() {
    local name=$1 start took verdict=passed
    shift
    start=$(milliseconds)
    say "--- $name"
    if ! "$@"; then
        verdict=FAILED
        failed=1
    fi
    took=$(($(milliseconds) - start))
    summary+=("$(printf '%-12s %-7s %5d.%d s' "$name" "$verdict" "$((took / 1000))" "$((took % 1000 / 100))")")
}

run_pytest() {
    "$VENV/bin/python" -m pytest "${arguments[@]}" 2>&1 | tee "$pytest_log"
    return "${PIPESTATUS[0]}"
}

phase setup bash scripts/setup.sh --dev --no-engine
((failed == 0)) || die "the machine could not be made ready; nothing was tested"
export HEADRACE_TEST_CACHE="${HEADRACE_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/headrace-tests}"
mkdir -p "$HEADRACE_TEST_CACHE"
[[ -z "$agents" ]] || phase agents bash scripts/install_agents.sh
((failed == 0)) || die "the coding agents could not be installed; --no-agents leaves their tests out"
[[ -n "$fast" ]] || phase engine engine_acquire

phase "ruff check" "$VENV/bin/ruff" check .
phase "ruff format" "$VENV/bin/ruff" format --check .
phase mypy "$VENV/bin/mypy"
phase pytest run_pytest

took=$(($(milliseconds) - began))
printf '\n'
say "summary"
printf '    %s\n' "${summary[@]}"
printf '    %-20s %5d.%d s\n' total "$((took / 1000))" "$((took % 1000 / 100))"
engine_release
grep -E '^=+ .* in [0-9.]+s|^no tests ran|^[0-9]+ (passed|failed|error)' "$pytest_log" | tail -n 1 ||
    say "pytest ended without its closing line"
exit "$failed"
