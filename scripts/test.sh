#!/usr/bin/env bash
# Checks everything: style, types, tests. Installs what is missing first, and stops what it started.
#
#   scripts/test.sh [--fast | --no-agents] [PYTEST ARGUMENT…]
#   --fast       only the tests that need no Docker engine, no Ray and no agents, and are quick; no daemon is started
#   --no-agents  all but those that run the real coding agents, which are installed from npm (a gigabyte) on first use
#
# Without arguments for pytest, the tests that need the engine and the others run side by side, and the others' output
# comes after that of the first. All phases run even if one fails. The exit code is 0 when all passed, 1 when one failed,
# 3 when the machine could not be made ready. The last lines are pytest's own. What is kept between runs: the caches in
# $HEADRACE_TEST_CACHE (~/.cache/headrace-tests) and the images in the daemon's data folder.
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
engine="engine or agents" others="not engine and not agents"
if [[ -n "$fast" ]]; then
    agents=
    arguments=(-m "not engine and not ray and not slow and not agents" "${arguments[@]}")
elif [[ -z "$agents" ]]; then
    engine="engine and not agents"
    ((${#arguments[@]} == 0)) || arguments=(-m "not agents" "${arguments[@]}")
fi

logs=$(mktemp -d)
beside=
cleanup() {
    if [[ -n "$beside" ]] && kill -INT "$beside" 2>/dev/null; then
        wait "$beside" || true
    fi
    rm -rf "$logs"
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
    "$VENV/bin/python" -m pytest "$@" 2>&1 | tee "$logs/pytest"
    return "${PIPESTATUS[0]}"
}

# The tests that need the engine wait for it half of the time, so those that do not need it run beside them.
begin_others() {
    set -m # without job control, bash has a command in the background ignore Ctrl-C, and some tests are about that
    "$VENV/bin/python" -m pytest -m "$others" -p no:cacheprovider >"$logs/others" 2>&1 </dev/null &
    beside=$!
    set +m
}

end_others() {
    local code=0
    wait "$beside" || code=$?
    beside=
    cat "$logs/others"
    return "$code"
}

closing_line() {
    grep -E '^=+ .* in [0-9.]+s|^no tests ran|^[0-9]+ (passed|failed|error)' "$1" | tail -n 1 ||
        say "pytest ended without its closing line"
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
if [[ -n "$fast" ]] || ((${#arguments[@]} > 0)); then
    phase pytest run_pytest "${arguments[@]}"
else
    begin_others
    phase "engine tests" run_pytest -m "$engine"
    phase "other tests" end_others
fi

took=$(($(milliseconds) - began))
printf '\n'
say "summary"
printf '    %s\n' "${summary[@]}"
printf '    %-20s %5d.%d s\n' total "$((took / 1000))" "$((took % 1000 / 100))"
engine_release
[[ ! -e "$logs/others" ]] || closing_line "$logs/others"
closing_line "$logs/pytest"
exit "$failed"
