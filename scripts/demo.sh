#!/usr/bin/env bash
# A real sweep, from nothing: real releases of real packages, built and tested in Docker, with the log to look at.
#
#   scripts/demo.sh [--provider auto|registry|debootstrap]
#
# Everything it makes lies in $HEADRACE_DEMO_DIR (.headrace/demo). Running it again goes on where it was, and does
# nothing twice. A release that fails is shown with its reason; the demo has succeeded (exit code 0) when the sweep
# finished and at least one image is verified. Interrupted: 130, run it again or resume as it says.
#   HEADRACE_DEMO_PACKAGES   packages of the index (with tests in their source distributions)
#   HEADRACE_DEMO_SINCE      first upload date; HEADRACE_DEMO_RELEASES: releases of each, spread over the time since
#   HEADRACE_SWEEP_ARGS      further options of `headrace sweep`
#   HEADRACE_DOCKER_DIR      data folder of the Docker daemon, if one has to be started
set -euo pipefail
# shellcheck source=SCRIPTDIR/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PACKAGES=${HEADRACE_DEMO_PACKAGES:-tabulate markupsafe toolz iniconfig}
SINCE=${HEADRACE_DEMO_SINCE:-2019-06-01}
RELEASES=${HEADRACE_DEMO_RELEASES:-6}
SWEEP=demo

provider=auto
while (($#)); do
    case "$1" in
        --provider=*) provider=${1#--provider=} ;;
        --provider)
            provider=${2:-}
            [[ $# -lt 2 ]] || shift
            ;;
        -h | --help)
            sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *)
            printf 'demo.sh: unknown option %s; see demo.sh --help\n' "$1" >&2
            exit 2
            ;;
    esac
    shift
done
case "$provider" in
    auto | registry | debootstrap) ;;
    *)
        printf 'demo.sh: --provider %s is refused; it must be auto, registry or debootstrap\n' "$provider" >&2
        exit 2
        ;;
esac

given_host=${DOCKER_HOST:-}
trap engine_release EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

began=$SECONDS
bash "$ROOT/scripts/setup.sh" --no-engine
engine_acquire

HEADRACE="$VENV/bin/headrace"
mkdir -p "${HEADRACE_DEMO_DIR:-$STATE_DIR/demo}"
DEMO=$(cd "${HEADRACE_DEMO_DIR:-$STATE_DIR/demo}" && pwd -P)
CONFIG="$DEMO/headrace.toml"
STORE="sqlite:///$DEMO/headrace.db"
cd "$DEMO"

# Prints "STATUS<tab>what was seen" of doctor's look at the registry; it asks for the image without pulling it.
registry_check() {
    { HEADRACE_BUILD_PROVIDER=registry "$HEADRACE" doctor --json || true; } | "$VENV/bin/python" -I -c '
import json, sys

for check in json.load(sys.stdin)["checks"]:
    if check["name"] == "base image":
        print(check["status"], " ".join(check["seen"].split()), sep="\t")
'
}

# The settings of the demo: how base images are had, and what builds need of this machine to reach the index.
write_settings() {
    local why='asked for' status seen name upper value
    if [[ "$provider" == auto ]]; then
        IFS=$'\t' read -r status seen < <(registry_check) || die "headrace doctor could not look for an image registry"
        provider=registry
        [[ "$status" == ok ]] || provider=debootstrap
        why=$seen
    fi
    say "base images by $provider: $why"
    {
        printf '# Written by scripts/demo.sh. Base images by %s: %s\n[build]\nprovider = "%s"\n' "$provider" "$why" "$provider"
        [[ ! -r "${SSL_CERT_FILE:-}" ]] || printf 'ca_bundle = "%s"\n' "$SSL_CERT_FILE"
        for name in http_proxy https_proxy no_proxy; do
            upper=${name^^}
            value=${!name:-${!upper:-}}
            [[ -z "$value" ]] || printf '%s = "%s"\n' "$name" "$value"
        done
    } | install -m 600 /dev/stdin "$CONFIG"
}

selection="$PACKAGES since $SINCE, $RELEASES each"
if [[ -f selection && "$(cat selection)" != "$selection" ]]; then
    say "$DEMO holds a demo of: $(cat selection); this is: $selection; set HEADRACE_DEMO_DIR to another folder" >&2
    exit 2
fi
printf '%s\n' "$selection" >selection

if [[ -f "$CONFIG" ]]; then
    say "settings are in $CONFIG"
else
    write_settings
fi

if [[ ! -f releases.jsonl ]]; then
    say "taking releases from the package index: $selection"
    # shellcheck disable=SC2086  # a list of names
    "$HEADRACE" ingest pypi $PACKAGES --since "$SINCE" --max "$RELEASES" --spread \
        --config "$CONFIG" --into "$DEMO/repositories" --out releases.jsonl
fi
if [[ ! -f prs.jsonl ]]; then
    say "resolving what each release needed on its date"
    code=0
    "$HEADRACE" resolve releases.jsonl --config "$CONFIG" --out prs.jsonl || code=$?
    if ((code > 1)) || [[ ! -f prs.jsonl ]]; then # 1: some could not be resolved; the sweep goes on with the others
        exit "$code"
    fi
fi

say "sweeping; the log is $DEMO/headrace.db"
code=0
# shellcheck disable=SC2086  # a list of options
"$HEADRACE" sweep prs.jsonl --name "$SWEEP" --store "$STORE" --config "$CONFIG" --skip-unresolved \
    ${HEADRACE_SWEEP_ARGS:-} || code=$?
if ((code > 1)); then
    say "the sweep ended with exit code $code; go on with: bash scripts/demo.sh" >&2
    exit "$code"
fi

verified=$("$HEADRACE" events --store "$STORE" --json | "$VENV/bin/python" -I -c '
import json, sys

events = map(json.loads, sys.stdin)
print(len({(e["stream"], e["data"]["issue_number"]) for e in events if e["type"] == "AttemptSucceeded"}))
')

"$HEADRACE" status "$SWEEP" --store "$STORE"
cat <<END

$verified of $(wc -l <prs.jsonl) releases have a verified image, after $((SECONDS - began)) s. The log is $DEMO/headrace.db.
To look further:
END
if [[ -e "$ENGINE_DIR/on-demand" && "$DOCKER_HOST" == "unix://$ENGINE_SOCKET" ]]; then
    cat <<END
  bash $ROOT/scripts/setup.sh && . $ENV_FILE
      starts the Docker daemon again, with all images; the demo stops the one that it started
END
elif [[ "$DOCKER_HOST" != "$given_host" ]]; then
    printf '  export DOCKER_HOST=%s\n' "$DOCKER_HOST"
fi
cat <<END
  $HEADRACE status $SWEEP --store $STORE
  $HEADRACE events --store $STORE
  docker images --filter label=headrace.sweep=$SWEEP --filter label=headrace.tier=pr
  sqlite3 $DEMO/headrace.db
END
((verified > 0)) || die "no release could be verified; the reasons are above"
