#!/bin/sh
# Writes the three requirements*.txt anew from pyproject.toml: every package, its version and its
# hashes, for every Python and platform. Versions that are locked stay; `sh scripts/lock.sh
# --upgrade` takes the newest that pyproject.toml allows. Needs uv, which requirements-dev.txt has.
set -eu
cd "$(dirname -- "$0")/.."
if [ -x .venv/bin/uv ]; then
    PATH=$PWD/.venv/bin:$PATH
fi

lock() {
    uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
        --no-annotate --quiet "$@" >/dev/null
}

lock "$@" --extra otel -o requirements-production.txt
lock "$@" --group local -o requirements.txt
lock "$@" --group dev --extra otel -o requirements-dev.txt
