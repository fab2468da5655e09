#!/bin/sh
# From a fresh machine to a tested project. `sh test.sh --help` says more.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/scripts/venv.sh"

# Set $compose to Docker Compose, version 2 or docker-compose 1.29.
find_compose() {
    for compose in "docker compose" docker-compose; do
        if $compose version >/dev/null 2>&1; then
            return
        fi
    done
    stop "This needs Docker with Compose (docker compose, or docker-compose 1.29), and found none."
}

case "${1:-}" in
    -h | --help)
        cat <<'END'
Usage: sh test.sh [--docker] [-v] [-f] [-k PATTERN] [-j N] [PLACE…]

Runs all tests, or those in the given places: folders or files, as seen from the root of the
project, or dotted names. -v names each test, -f stops at the first failure, -k runs only tests
whose name matches, -j sets the number of processes (by default, one for each CPU). The exit code
is 0 if all tests passed.

  sh test.sh
  sh test.sh project/tests/scores
  sh test.sh project/tests/test_users.py
  sh test.sh -v project.tests.test_users
  sh test.sh --docker

Needs Python 3.11 or newer, and the internet the first time: makes .venv as run.sh does. The
tests start a PostgreSQL of their own and throw it away; with DATABASE_TEST_URL they use that one
instead, in one process, and EMPTY it.
PYTHON names the Python to make .venv with; by default that is the newest one found.

With --docker it needs Docker and nothing else: the tests run in the containers of
docker-compose.yml, on the database eval_test of eval-db.
END
        exit 0
        ;;
    --docker)
        shift
        cd "$here"
        find_compose
        $compose build eval-service eval-db
        exec $compose run --rm eval-service python manage.py test "$@"
        ;;
esac

make_venv
cd "$here"
exec "$python" manage.py test "$@"
