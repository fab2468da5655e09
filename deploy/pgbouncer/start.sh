#!/bin/sh
# Writes down who may connect, and becomes PgBouncer, which is then process 1.
set -eu
umask 077
printf '"%s" "%s"\n' "${POSTGRES_USER:-postgres}" "$POSTGRES_PASSWORD" >/run/pgbouncer/userlist.txt
exec pgbouncer /etc/pgbouncer/pgbouncer.ini
