#!/usr/bin/env bash
# Makes this clone ready to run: .venv with `headrace` in it, what is missing on the machine, a Docker engine.
#
#   scripts/setup.sh [--dev]   everything; a daemon started here runs until --stop
#   --dev                      also what the tests need
#   --no-engine                install only; do not start a Docker daemon
#   --stop                     stop the daemon that an earlier run started, and nothing else
#
# Running it again changes nothing and takes seconds. Nothing is installed outside .venv but Debian packages, and those
# only when they are missing. Package sources, indexes and certificates are those that pip, uv and apt are set up with.
# Exit code 3: something is missing that this script may not or cannot install; the message names it.
set -euo pipefail
# shellcheck source=SCRIPTDIR/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

extras=
engine=yes
for argument in "$@"; do
    case "$argument" in
        --dev) extras=dev ;;
        --no-engine) engine= ;;
        --stop)
            engine_stop
            exit 0
            ;;
        -h | --help)
            sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *)
            printf 'setup.sh: unknown option %s; see setup.sh --help\n' "$argument" >&2
            exit 2
            ;;
    esac
done

# Ray has wheels for these versions of Python.
PYTHON_CHECK='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.11 python3.12 python3.13 /usr/bin/python3; do
        if "$candidate" -I -c "$PYTHON_CHECK" >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    return 1
}

install_packages() {
    local -a missing=()
    local answering=
    ! engine_find >/dev/null || answering=yes
    venv_works || find_python >/dev/null || missing+=(python3 python3-venv)
    have git || missing+=(git)
    if [[ -z "$answering" || -n "$extras" ]]; then # the tests stop and start daemons of their own
        have dockerd || missing+=(docker.io)
        have iptables || missing+=(iptables)
    fi
    [[ -z "$extras" ]] || have ip || missing+=(iproute2)
    [[ -z "$extras" ]] || have bwrap || missing+=(bubblewrap)
    [[ -z "$extras" ]] || have_postgres || missing+=(postgresql) # the tests start servers of their own
    if ! have debootstrap; then
        if [[ -n "$answering" ]] && ((EUID != 0)); then
            say "debootstrap is missing; it is needed only where no image registry can be reached"
        else
            missing+=(debootstrap)
        fi
    fi
    if ((${#missing[@]} == 0)); then
        say "system packages: nothing is missing"
        return
    fi
    have apt-get || die "missing: ${missing[*]}; this machine has no apt-get, install them by its own means"
    ((EUID == 0)) || die "missing: ${missing[*]}; run as root: apt-get install --no-install-recommends ${missing[*]}"
    say "installing missing system packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null || die "apt-get update failed; mend the machine's package sources"
    apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" </dev/null ||
        die "apt-get could not install ${missing[*]}; its reason is in the lines above"
}

# Debian keeps the server's programs off the PATH.
have_postgres() { have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

venv_works() { "$VENV/bin/python" -I -c "$PYTHON_CHECK" >/dev/null 2>&1; }

# pip_setting NAME: the value that pip would use, from its environment variable or its configuration files.
pip_setting() {
    local variable=PIP_${1^^}
    variable=${variable//-/_}
    if [[ -n "${!variable:-}" ]]; then
        printf '%s' "${!variable}"
    else
        "$VENV/bin/python" -m pip config get "install.$1" 2>/dev/null ||
            "$VENV/bin/python" -m pip config get "global.$1" 2>/dev/null || true
    fi | tr -s '[:space:]' ' ' | sed 's/ $//'
}

# uv does not read pip's configuration. Where uv has none of its own, it gets pip's.
configure_uv() {
    local value configured
    for configured in "${XDG_CONFIG_HOME:-$HOME/.config}/uv/uv.toml" /etc/xdg/uv/uv.toml /etc/uv/uv.toml; do
        [[ ! -f "$configured" ]] || return 0
    done
    if [[ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}${UV_INDEX:-}${UV_EXTRA_INDEX_URL:-}" ]]; then
        value=$(pip_setting index-url)
        [[ -z "$value" ]] || export UV_DEFAULT_INDEX="$value"
        value=$(pip_setting extra-index-url)
        # pip takes the best version of all its indexes.
        [[ -z "$value" ]] || export UV_INDEX="$value" UV_INDEX_STRATEGY="${UV_INDEX_STRATEGY:-unsafe-best-match}"
    fi
    if [[ -z "${UV_FIND_LINKS:-}" ]]; then
        value=$(pip_setting find-links)
        [[ -z "$value" ]] || export UV_FIND_LINKS="${value// /,}"
    fi
    if [[ -z "${SSL_CERT_FILE:-}" ]]; then
        value=$(pip_setting cert)
        [[ -z "$value" ]] || export SSL_CERT_FILE="$value"
    fi
}

install_project() {
    local stamp="$VENV/.headrace-stamp" wanted made python project="$ROOT" uv_requirement
    if ! venv_works; then
        python=$(find_python) || die "no usable Python 3.11 to 3.13 (with its venv module); install one, or name it in PYTHON"
        say "making .venv with $("$python" --version)"
        "$python" -m venv --clear "$VENV"
    fi
    [[ -z "$extras" ]] || project="${ROOT}[$extras]"
    wanted="$(sha256sum <"$ROOT/pyproject.toml") $ROOT"
    made=$(cat "$stamp" 2>/dev/null) || made=
    if [[ -x "$VENV/bin/headrace" && ("$made" == "$wanted dev" || "$made" == "$wanted ${extras:-plain}") ]]; then
        say ".venv: up to date"
        return
    fi
    rm -f "$stamp"
    uv_requirement=$("$VENV/bin/python" -I - "$ROOT/pyproject.toml" <<'PYTHON'
import sys, tomllib

with open(sys.argv[1], "rb") as file:
    print(next(line for line in tomllib.load(file)["project"]["dependencies"] if line.startswith("uv")))
PYTHON
    )
    say ".venv: installing uv"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$uv_requirement" ||
        die "pip could not install $uv_requirement; its reason is in the lines above"
    configure_uv
    say ".venv: installing headrace${extras:+ with what its tests need}"
    # Compiled now: Ray starts a dozen processes, and each would compile again where Python may not write bytecode.
    "$VENV/bin/uv" pip install --quiet --compile-bytecode --python "$VENV/bin/python" -e "$project" ||
        die "uv could not install headrace; its reason is in the lines above"
    printf '%s %s\n' "$wanted" "${extras:-plain}" >"$stamp"
}

began=$SECONDS
mkdir -p "$STATE_DIR"
exec 7>>"$STATE_DIR/setup.lock"
flock -n 7 || {
    say "waiting for another run of setup.sh in this clone"
    flock 7
}
install_packages
install_project
exec 7>&-
[[ -z "$engine" ]] || engine_keep
say "ready after $((SECONDS - began)) s; headrace is $VENV/bin/headrace"
