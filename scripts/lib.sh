# Shell functions that setup.sh, test.sh and demo.sh share. Sourced, never run.
#
# The Docker engine, as these scripts treat it:
#   * An engine that answers on DOCKER_HOST, or else on Docker's default socket, is used and never stopped.
#   * Otherwise a daemon of Headrace's own serves, with its data, socket, pid file and log in $ENGINE_DIR.
#   * A script takes it with engine_acquire and gives it back with engine_release (in an EXIT trap). The last one to
#     give back stops the daemon, unless somebody asked for it by hand (engine_keep, that is `setup.sh`).
#   * $ENGINE_DIR/start.lock serialises starting and stopping. $ENGINE_DIR/users.lock is held, shared, by every script
#     that uses the daemon; the kernel drops it when a script is killed, so nothing has to be cleaned up after a crash.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV="$ROOT/.venv"
STATE_DIR="$ROOT/.headrace"
ENV_FILE="$STATE_DIR/env"
ENGINE_DIR="${HEADRACE_DOCKER_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}/headrace/docker}"
ENGINE_SOCKET="$ENGINE_DIR/docker.sock"
ENGINE_START_S=90
ENGINE_STOP_S=60
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf '%s: %s\n' "${0##*/}" "$*"; }

# Exit code 3 is Headrace's "environment not ready".
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 3
}

have() { command -v "$1" >/dev/null 2>&1; }

# engine_answers HOST: does a Docker engine answer there? A socket is asked with any Python; other addresses (with their
# TLS files) need the docker package, so they only answer once the virtual environment is made.
engine_answers() {
    local host=$1 python="$VENV/bin/python"
    case "$host" in
        unix://*)
            [[ -S "${host#unix://}" ]] || return 1
            [[ -x "$python" ]] || python=python3
            "$python" -I - "${host#unix://}" <<'PYTHON' 2>/dev/null
import http.client, socket, sys

connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.settimeout(5)
connection.sock.connect(sys.argv[1])
connection.request("GET", "/_ping")
sys.exit(connection.getresponse().status != 200)
PYTHON
            ;;
        *)
            [[ -x "$python" ]] || return 1
            DOCKER_HOST="$host" "$python" -c 'import docker; docker.from_env(timeout=10).ping()' 2>/dev/null
            ;;
    esac
}

# Prints the address of an engine that answers; fails when none does.
engine_find() {
    local host
    for host in "${DOCKER_HOST:-unix:///var/run/docker.sock}" "unix://$ENGINE_SOCKET"; do
        if engine_answers "$host"; then
            printf '%s\n' "$host"
            return 0
        fi
    done
    return 1
}

# Prints the pid of our own daemon; fails when it does not run. A pid file may outlive a reboot, so the process is
# looked at too.
engine_pid() {
    local pid
    pid=$(cat "$ENGINE_DIR/pid" 2>/dev/null) || return 1
    [[ "$pid" =~ ^[0-9]+$ ]] || return 1
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "--data-root $ENGINE_DIR/data " || return 1
    printf '%s\n' "$pid"
}

_engine_lock() {
    # The sockets that dockerd makes below its exec root have longer names than its own, and 107 bytes are the limit.
    ((${#ENGINE_DIR} <= 68)) || die "$ENGINE_DIR is too long a path for sockets; set HEADRACE_DOCKER_DIR to a shorter one"
    mkdir -p "$ENGINE_DIR" || die "cannot make $ENGINE_DIR; set HEADRACE_DOCKER_DIR to a folder that can be written"
    exec 9>>"$ENGINE_DIR/start.lock"
    flock -w 180 9 || die "another run has been starting or stopping the daemon in $ENGINE_DIR for 3 minutes; see $ENGINE_DIR/log"
}

_engine_unlock() { exec 9>&-; }

_engine_clear_stale() {
    local name pid_file="$ENGINE_DIR/exec/containerd/containerd.pid"
    rm -f "$ENGINE_DIR/pid"
    if [[ -f "$pid_file" ]]; then
        name=$(cat "/proc/$(cat "$pid_file")/comm" 2>/dev/null) || name=
        [[ "$name" == containerd ]] || rm -f "$pid_file"
    fi
}

# Starts our own daemon and waits until it answers. The caller holds start.lock.
_engine_start() {
    local where pid deadline
    where=${DOCKER_HOST:-the default socket of Docker}
    have dockerd || die "no Docker engine answers on $where and dockerd is not installed; start the engine, correct DOCKER_HOST, or unset it and run scripts/setup.sh"
    ((EUID == 0)) || die "no Docker engine answers on $where and only root can start one; start it, or join the group of its socket"
    if pid=$(engine_pid); then
        die "the daemon in $ENGINE_DIR runs (pid $pid) but does not answer; see $ENGINE_DIR/log, or stop it: scripts/setup.sh --stop"
    fi
    _engine_clear_stale
    say "starting a Docker daemon in $ENGINE_DIR"
    [[ ! -f "$ENGINE_DIR/log" ]] || mv -f "$ENGINE_DIR/log" "$ENGINE_DIR/log.1"
    # shellcheck disable=SC2086  # HEADRACE_DOCKER_ARGS is a list of words
    setsid dockerd --data-root "$ENGINE_DIR/data" --exec-root "$ENGINE_DIR/exec" -H "unix://$ENGINE_SOCKET" \
        --pidfile "$ENGINE_DIR/pid" ${HEADRACE_DOCKER_ARGS:-} </dev/null >"$ENGINE_DIR/log" 2>&1 8>&- 9>&- &
    pid=$!
    deadline=$((SECONDS + ENGINE_START_S))
    until engine_answers "unix://$ENGINE_SOCKET"; do
        if ! kill -0 "$pid" 2>/dev/null || ((SECONDS >= deadline)); then
            kill "$pid" 2>/dev/null || true
            printf '%s\n' "--- the end of $ENGINE_DIR/log" >&2
            tail -n 20 "$ENGINE_DIR/log" >&2
            die "the Docker daemon did not start; the reason is in the lines above"
        fi
        sleep 0.2
    done
    say "the daemon answers on unix://$ENGINE_SOCKET"
}

# Ends our own daemon and waits until it is gone. The caller holds start.lock.
_engine_end() {
    local pid deadline
    pid=$(engine_pid) || return 0
    say "stopping the Docker daemon in $ENGINE_DIR (pid $pid)"
    kill "$pid" 2>/dev/null || true
    deadline=$((SECONDS + ENGINE_STOP_S))
    while engine_pid >/dev/null; do
        if ((SECONDS >= deadline)); then
            say "it has not ended within $ENGINE_STOP_S s and is killed"
            kill -9 "$pid" 2>/dev/null || true
            deadline=$((SECONDS + 10))
        fi
        sleep 0.1
    done
    rm -f "$ENGINE_DIR/on-demand" "$ENGINE_SOCKET"
}

# Makes an engine answer for as long as this script runs, and exports DOCKER_HOST.
engine_acquire() {
    local host
    _engine_lock
    if host=$(engine_find); then
        say "using the Docker engine on $host"
    else
        host="unix://$ENGINE_SOCKET"
        _engine_start
        touch "$ENGINE_DIR/on-demand"
    fi
    if [[ "$host" == "unix://$ENGINE_SOCKET" ]]; then
        exec 8>>"$ENGINE_DIR/users.lock"
        flock -s 8
    fi
    export DOCKER_HOST="$host"
    _engine_unlock
}

# Gives back what engine_acquire took: the last user of a daemon that was started on demand stops it.
engine_release() {
    { true >&8; } 2>/dev/null || return 0
    exec 8>&-
    _engine_lock
    if [[ -e "$ENGINE_DIR/on-demand" ]] && flock -n "$ENGINE_DIR/users.lock" true; then
        _engine_end
    fi
    _engine_unlock
}

# Makes an engine answer from now on, until `setup.sh --stop`. Exports DOCKER_HOST and writes $ENV_FILE.
engine_keep() {
    local host
    _engine_lock
    if host=$(engine_find); then
        say "a Docker engine answers on $host"
    else
        host="unix://$ENGINE_SOCKET"
        _engine_start
    fi
    export DOCKER_HOST="$host"
    mkdir -p "$STATE_DIR"
    printf 'export DOCKER_HOST=%q\n' "$host" >"$ENV_FILE"
    if [[ "$host" == "unix://$ENGINE_SOCKET" ]]; then
        rm -f "$ENGINE_DIR/on-demand"
        say "this daemon runs until: bash scripts/setup.sh --stop"
    fi
    _engine_unlock
    say "tell your shell about the engine: export DOCKER_HOST=$host"
}

# Stops the daemon that engine_keep started, unless a running script uses it.
engine_stop() {
    local pid
    _engine_lock
    if ! pid=$(engine_pid); then
        say "no daemon of Headrace's own runs in $ENGINE_DIR"
    elif ! flock -n "$ENGINE_DIR/users.lock" true; then
        die "the daemon in $ENGINE_DIR (pid $pid) is in use by a running script; let that end first"
    else
        _engine_end
        rm -f "$ENV_FILE"
    fi
    _engine_unlock
}
