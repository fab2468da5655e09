#!/bin/sh
# Installs exactly the packages that a lock file lists: sh scripts/install.sh FILE [PYTHON]
#
# PYTHON is .venv/bin/python by default. The lock is complete and has hashes, so pip resolves
# nothing: pip 23.0 to 23.2 look for the newest release of name[extra], even if name is locked.
# `pip check` then finds a lock that is not complete. PIP_… variables work as usual.
set -eu
file=$1
python=${2:-.venv/bin/python}

if output=$("$python" -m pip install -q --disable-pip-version-check --no-deps --require-hashes \
    -r "$file" 2>&1); then
    exec "$python" -m pip check -q --no-cache-dir --disable-pip-version-check
fi
case $output in
    *'connection broken by'* | *ConnectionPool* | *'timed out'*)
        # Such as [Errno 111] Connection refused, or [SSL: CERTIFICATE_VERIFY_FAILED] …
        reason=$(printf '%s\n' "$output" | sed -n "s/.*broken by .*\(\[[^]]*\] [^'\")]*\).*/ (\1)/p" | sed 1q)
        output="Could not download the packages of ${file##*/}$reason: check the network, and set \
HTTPS_PROXY if this machine needs a proxy."
        ;;
esac
printf '%s\n' "$output" | sed '/^WARNING: /d' >&2
exit 1
