# Sourced by run.sh and test.sh with $here set to the folder they are in: finds a Python, makes
# .venv, and installs what requirements.txt locks where that is not there yet. POSIX sh.

venv=$here/.venv
python=$venv/bin/python
# Says which requirements are installed, and by which Python.
installed=$venv/installed
# There while .venv is being made or changed, with the process that does it; when that died
# half-way, nobody knows what .venv is worth.
unfinished=$venv/unfinished

say() {
    printf '%s\n' "$*"
}

stop() {
    printf '%s\n' "$*" >&2
    exit 1
}

# Exits with 0 if a Python can make .venv, 3 if it is too old, 4 if it has no venv module.
FITNESS='
import sys
if sys.version_info < (3, 11):
    sys.exit(3)
try:
    import ensurepip, venv
except ImportError:
    sys.exit(4)
'

# Set $found to $PYTHON if that is set, or to the newest Python that can make .venv.
find_python() {
    without_venv=
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null ||
            stop "PYTHON is $PYTHON, which was not found. Set it to a Python 3.11 or newer," \
                "like PYTHON=python3.13."
        set -- "$PYTHON"
    else
        set -- python3.14 python3.13 python3.12 python3.11 python3 python
    fi
    for found in "$@"; do
        fitness=0
        "$found" -c "$FITNESS" >/dev/null 2>&1 || fitness=$?
        case $fitness in
            0) return ;;
            4) without_venv=${without_venv:-$found} ;;
        esac
    done
    if [ -n "$without_venv" ]; then
        stop "$without_venv is new enough, but cannot make virtual environments." \
            "Install its venv module (on Debian and Ubuntu: apt install python3-venv)" \
            "and run this again."
    fi
    if [ -n "${PYTHON:-}" ]; then
        stop "PYTHON is $PYTHON, which is not a Python 3.11 or newer."
    fi
    stop "This needs Python 3.11 or newer, and found none. Install one" \
        "(on Debian and Ubuntu: apt install python3 python3-venv; elsewhere: python.org)" \
        "and run this again."
}

what_should_be_installed() {
    "$python" -V 2>&1
    cksum <"$here/requirements.txt"
}

is_up_to_date() {
    [ -e "$installed" ] && [ ! -e "$unfinished" ] &&
        [ "$(what_should_be_installed)" = "$(cat "$installed")" ]
}

# run.sh and test.sh may be started at once in a fresh clone.
wait_for_another() {
    waited=0
    while another=$(cat "$unfinished" 2>/dev/null) && kill -0 "$another" 2>/dev/null; do
        if [ "$waited" -eq 0 ]; then
            say "Waiting for process $another, which is making .venv …"
        fi
        if [ "$waited" -ge 600 ]; then
            stop "It is still not done. If nothing is being installed, remove .venv and try again."
        fi
        sleep 1
        waited=$((waited + 1))
    done
}

# Install in .venv what requirements.txt locks, unless that was done before.
make_venv() {
    wait_for_another
    if is_up_to_date; then
        return
    fi
    for folder in "$here" "$venv"; do
        if [ -e "$folder" ] && ! [ -w "$folder" ]; then
            stop "Cannot write to $folder, where the packages are to be installed: make it" \
                "writable for this user, or use a clone in another folder."
        fi
    done
    if [ -e "$unfinished" ] || ! "$python" -c 'import pip' >/dev/null 2>&1; then
        find_python
        say "Making .venv with $("$found" -V) …"
        rm -rf "$venv"
        mkdir "$venv"
        echo $$ >"$unfinished"
        "$found" -m venv "$venv" || stop "Could not make .venv, for the reason above."
    fi
    echo $$ >"$unfinished"
    say "Installing what requirements.txt lists (the first time, this takes a minute) …"
    sh "$here/scripts/install.sh" "$here/requirements.txt" "$python"
    what_should_be_installed >"$installed"
    rm "$unfinished"
}
