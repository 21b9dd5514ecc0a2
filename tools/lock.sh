#!/usr/bin/env bash
# Resolves pyproject.toml into requirements.txt and requirements-dev.txt, and tests/node likewise.
# What is pinned stays unless it no longer fits; --upgrade takes the newest.
# The locks name packages and hashes, never the address of an index.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

.venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
    echo "The locks are resolved on Python 3.11, the oldest we support; .venv has another." >&2
    echo "Type:  make clean && make lock PYTHON=python3.11" >&2
    exit 1
}
export CUSTOM_COMPILE_COMMAND="make lock"
# Extras stay named: the pip of Debian 12 takes `name[extra]` for another package than the pinned
# `name`, and refuses the whole lock as soon as a newer release of it is out.
compile() {
    .venv/bin/python -m piptools compile --quiet --no-strip-extras --allow-unsafe --generate-hashes \
        --no-emit-index-url --no-emit-trusted-host --no-emit-find-links "$@" pyproject.toml </dev/null
}
compile --output-file=requirements.txt "$@"
mkdir -p build && sed 's/^\([a-z0-9._-]*\)\[[^]]*\]==/\1==/' requirements.txt >build/constraints.txt # they take no extras
compile --output-file=requirements-dev.txt --extra=dev --constraint=build/constraints.txt "$@"
sed -i "s|-c build/constraints.txt|-c requirements.txt|" requirements-dev.txt
if command -v npm >/dev/null; then
    (cd tests/node && npm install --package-lock-only --omit-lockfile-registry-resolved --loglevel=error)
    .venv/bin/python - tests/node/package-lock.json <<'PY' # whom to fund is an address, too
import json, pathlib, sys
lock = pathlib.Path(sys.argv[1])
data = json.loads(lock.read_text())
for package in data["packages"].values():
    package.pop("funding", None)
lock.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
PY
else
    echo "tests/node/package-lock.json was left alone: there is no npm on this machine." >&2
fi
