#!/bin/sh
# From a fresh machine to a service that answers. `sh run.sh --help` says more.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/scripts/venv.sh"

case "${1:-}" in
    -h | --help)
        cat <<'END'
Usage: sh run.sh

Serves eval-service on this machine. Needs Python 3.11 or newer, and the internet the first time:

  1. makes a virtual environment in .venv and installs what requirements.txt locks;
  2. starts a PostgreSQL of its own, with its data in instance/, and brings its schema up to date
     (set DATABASE_URL to use another PostgreSQL);
  3. serves, and prints the address, the docs, a token and a curl line to try.

Ctrl-C stops all of it; the data stay. The next start takes a few seconds.

Settings come from the environment, like  PORT=8000 sh run.sh ; README.md lists them.
PYTHON names the Python to make .venv with; by default that is the newest one found.
END
        exit 0
        ;;
    ?*)
        stop "run.sh does not take $1. Set PORT, HOST or another setting in the environment," \
            "like PORT=8000 sh run.sh"
        ;;
esac

make_venv
cd "$here"
exec "$python" manage.py serve
