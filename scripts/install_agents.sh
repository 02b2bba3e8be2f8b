#!/usr/bin/env bash
# Installs the coding agents that the tests run, at pinned versions, into $HEADRACE_TEST_CACHE/agents.
#
#   scripts/install_agents.sh
#
# One folder a program, NAME-VERSION, with npm's node_modules in it; `bin/` holds links to the programs and to their
# Node. Running it again changes nothing and takes no time; a folder that was interrupted is made anew. Nothing else on
# the machine is touched, except that npm itself is installed (apt-get, as root) where it is missing. The registry and
# certificates are those that npm is set up with.
# Exit code 3: something is missing that this script may not or cannot install; the message names it.
set -euo pipefail
# shellcheck source=SCRIPTDIR/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# NAME PACKAGE VERSION PROGRAM. Node first: the others are installed and run with it.
AGENTS='
node node 22.23.3 node
claude @anthropic-ai/claude-code 2.1.330 claude
codex @openai/codex 0.169.0 codex
gemini @google/gemini-cli 0.61.0 gemini
qwen @qwen-code/qwen-code 0.24.4 qwen
'

case "${1:-}" in
    '') ;;
    -h | --help)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *)
        printf 'install_agents.sh: unknown option %s; see install_agents.sh --help\n' "$1" >&2
        exit 2
        ;;
esac

target="${HEADRACE_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/headrace-tests}/agents"
mkdir -p "$target/bin" || die "cannot make $target; set HEADRACE_TEST_CACHE to a folder that can be written"
exec 6>>"$target/install.lock"
flock -n 6 || {
    say "waiting for another run of install_agents.sh"
    flock 6
}

need_npm() {
    ! have npm || return 0
    have apt-get || die "npm is missing and this machine has no apt-get; install Node.js with npm by its own means"
    ((EUID == 0)) || die "npm is missing; run as root: apt-get install --no-install-recommends npm"
    say "installing the missing system package npm"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null || die "apt-get update failed; mend the machine's package sources"
    apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 npm </dev/null ||
        die "apt-get could not install npm; its reason is in the lines above"
}

# install NAME PACKAGE VERSION PROGRAM
install() {
    local folder="$target/$1-$3" start=$SECONDS
    if [[ ! -e "$folder/complete" ]]; then
        need_npm
        say "installing $2@$3"
        rm -rf "$folder"
        mkdir -p "$folder"
        # A package.json of its own, so that npm does not look for a project in the folders above.
        printf '{"private": true}\n' >"$folder/package.json"
        # Scripts must run: without its postinstall, claude is a stub. Update notices and audits go to the network.
        (cd "$folder" && PATH="$target/bin:$PATH" npm install --no-audit --no-fund --no-update-notifier \
            --loglevel=error --ignore-scripts=false "$2@$3" </dev/null) ||
            die "npm could not install $2@$3; its reason is in the lines above"
        [[ -x "$folder/node_modules/.bin/$4" ]] || die "$2@$3 has no program $4"
        touch "$folder/complete"
        say "$1 $3: installed in $((SECONDS - start)) s"
    else
        say "$1 $3: up to date"
    fi
    ln -sfn "../$1-$3/node_modules/.bin/$4" "$target/bin/$4"
}

while read -r name package version program; do
    [[ -z "$name" ]] || install "$name" "$package" "$version" "$program"
done <<<"$AGENTS"
say "the agents are in $target/bin"
