#!/bin/sh
# Tries for long what .ci/run tries for a minute: sh scripts/fuzz.sh [cases for each operation]
# With `sh run.sh` in another terminal, and what requirements-dev.txt has in .venv. Other cases
# each time; what fails is printed with a command that repeats it. ADDRESS and TOKEN may say
# where, and as whom.
set -eu
cd "$(dirname -- "$0")/.."
cases=${1:-500}
python=.venv/bin/python
address=${ADDRESS:-http://localhost:5002}
token=${TOKEN:-$($python manage.py issue_token --user-id 7 --admin)}
config=$(mktemp .ci/schemathesis.XXXXXX)
trap 'rm -f "$config"' EXIT
sed 's/^generation.deterministic = true/generation.deterministic = false/' .ci/schemathesis.toml >"$config"

try_the_api() {
    $python -m schemathesis.cli --config-file "$config" run "$address/openapi.json" \
        --max-examples "$cases" "$@"
}

try_the_api --header "Authorization: Bearer $token"
try_the_api
FUZZ_CASES=$((cases * 30)) $python manage.py test project/tests/security/test_fuzz.py
