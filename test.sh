#!/bin/sh
# From a fresh machine to a tested project. `sh test.sh --help` says more.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/scripts/venv.sh"

case "${1:-}" in
    -h | --help)
        cat <<'END'
Usage: sh test.sh [-v] [-j N] [PLACE…]

Runs the tests, all of them or those in the places named: folders or files, as seen from the root
of the project, or dotted names. -v names each test. -j, or --jobs, says in how many processes;
without it they are as many as there are CPUs. Exits with 0 when all of them passed.

  sh test.sh
  sh test.sh project/tests/scores
  sh test.sh project/tests/test_users.py
  sh test.sh -v project.tests.test_users

Needs Python 3.11 or newer, and the internet the first time: makes .venv as run.sh does. The
tests start a PostgreSQL of their own and throw it away; with DATABASE_TEST_URL they use that one
instead, in one process, and EMPTY it.
PYTHON names the Python to make .venv with, where the newest one found is not the one wanted.
END
        exit 0
        ;;
esac

make_venv
cd "$here"
exec "$python" manage.py test "$@"
