#!/usr/bin/env bash
# What the Makefile needs on a machine: `tools/setup.sh runtime|dev|node|curl`.
#
# runtime, dev  a virtual environment in .venv with the packages of the lock, and `sellapi` in it
# node          the Node SDKs for tests, in tests/node/node_modules
# curl          the command itself
#
# Two calls at once wait for each other; a call with nothing to do returns at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USER=0 PIP_ROOT_USER_ACTION=ignore

say() { printf '%s\n' "$*" >&2; }
die() { say "$@"; exit 1; }

can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# apt PACKAGE... : installs them when we may, else says what to type.
apt() {
    if ! can_apt; then
        die "Missing on this machine: $*" \
            $'\n'"On Debian or Ubuntu type:  sudo apt-get install $*" \
            $'\n'"then run the same make command again."
    fi
    say "Installing $* with apt-get"
    export DEBIAN_FRONTEND=noninteractive
    local log
    log="$(mktemp)"
    apt-get update -qq >"$log" 2>&1 9>&- || true # the lists at hand may do
    if ! apt-get install -y -qq --no-install-recommends "$@" >>"$log" 2>&1 </dev/null 9>&-; then
        cat "$log" >&2
        die "apt-get could not install $*: its message stands above."
    fi
    rm -f "$log"
}

fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Prints the Python to use. The locks were resolved on 3.11, so that one is preferred.
find_python() {
    local name
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON: there is no such program."
        fits "$PYTHON" || die "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1): sellapi needs 3.11 or newer."
        printf '%s\n' "$PYTHON"
        return
    fi
    for name in python3.11 python3.12 python3.13 python3.14 python3 python; do
        if command -v "$name" >/dev/null && fits "$name"; then
            printf '%s\n' "$name"
            return
        fi
    done
    name="$(python3 --version 2>/dev/null || echo 'no python3')"
    die "sellapi needs Python 3.11 or newer; this machine has $name." \
        $'\n'"On Debian 12 type:  sudo apt-get install python3 python3-venv" \
        $'\n'"If it is installed elsewhere, name it:  make run PYTHON=/path/to/python3.11"
}

make_venv() {
    if [ -x .venv/bin/python ] && fits .venv/bin/python \
        && .venv/bin/python -m pip --version >/dev/null 2>&1; then
        return
    fi
    local python version
    python="$(find_python)"
    version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    # Debian ships Python without ensurepip; the package python3.X-venv brings it.
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || apt "python$version-venv"
    say "Making .venv with Python $version"
    "$python" -m venv --clear .venv || die "Python $version could not make .venv: its message stands above."
}

# packages STAMP LOCK: the lock's packages and the project itself, unless the stamp is younger.
packages() {
    local stamp=.venv/$1 lock=$2
    if [ "$stamp" -nt "$lock" ] && [ "$stamp" -nt pyproject.toml ]; then
        return
    fi
    make_venv
    if ! [ "$stamp" -nt "$lock" ]; then
        say "Installing the packages of $lock into .venv (once)"
        .venv/bin/python -m pip install --quiet --require-hashes -r "$lock" \
            || die "The packages of $lock could not be installed: pip's message stands above." \
                $'\n'"They come from the package index that pip is set up to use: is it reachable from here?"
    fi
    # setuptools comes with the lock, so nothing unpinned is fetched to build with.
    PYTHONWARNINGS=ignore .venv/bin/python -m pip install --quiet --no-deps --no-build-isolation \
        --editable . || die "sellapi could not be installed into .venv: pip's message stands above."
    touch "$stamp"
}

node_packages() {
    local stamp=tests/node/node_modules/.installed
    if [ "$stamp" -nt tests/node/package.json ] && [ "$stamp" -nt tests/node/package-lock.json ]; then
        return
    fi
    command -v node >/dev/null && command -v npm >/dev/null || apt nodejs npm
    say "Installing the Node packages of tests/node (once)"
    # Warnings about the age of this machine's node are no news: the lock brings a newer one along.
    (cd tests/node && npm ci --loglevel=error >&2 </dev/null) \
        || die "The Node packages could not be installed: npm's message stands above."
    touch "$stamp"
}

# One set-up at a time, where the machine has flock. (What apt starts must not keep the lock.)
if command -v flock >/dev/null; then
    exec 9>.venv.lock
    flock 9
fi
case "${1:-}" in
    runtime) packages .runtime requirements.txt ;;
    dev) packages .dev requirements-dev.txt ;;
    node) node_packages ;;
    curl) command -v curl >/dev/null || apt curl ;;
    *) die "usage: tools/setup.sh runtime|dev|node|curl" ;;
esac
