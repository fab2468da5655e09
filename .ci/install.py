"""Install the lock files with old pips, although every locked package has a newer release.

    python .ci/install.py

For each supported Python that this machine has, `sh run.sh` starts the service in a copy of this
folder, with the pip that the first release of that Python brings. The pip of Debian 12 and the
newest pip install the production lock. Each has to install exactly the locked versions. The newer
releases are empty wheels of version 9999, which pip finds by PIP_FIND_LINKS.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parent.parent
# The pip of the first release of each supported Python.
OLDEST_PIPS = {"3.11": "22.3", "3.12": "23.2.1", "3.13": "24.2", "3.14": "25.2"}
DEBIAN_12 = ("3.11", "23.0.1")
START_SECONDS = 240


def locked(file: str) -> set[tuple[str, str]]:
    """Return the packages in a lock file, each with its version; some differ by Python."""
    text = (ROOT / file).read_text()
    return set(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE))


def write_newer_releases(folder: Path) -> None:
    """Write an empty wheel of version 9999 for each locked package."""
    folder.mkdir()
    for package in {name for name, _ in locked("requirements.txt")}:
        name = package.replace("-", "_")
        files = {
            "METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 9999\n",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }
        with ZipFile(folder / f"{name}-9999-py3-none-any.whl", "w") as wheel:
            for file, text in files.items():
                wheel.writestr(f"{name}-9999.dist-info/{file}", text)


def find_python(version: str) -> str | None:
    """Return the command of a Python in the PATH or of pyenv, or None."""
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for command in (f"python{version}", "python3", *map(str, pyenv)):
        with suppress(OSError, subprocess.CalledProcessError):
            if f"Python {version}." in run([command, "--version"]):
                return command
    return None


def run(command: list[str | Path], **options: object) -> str:
    """Run a command to its end and return its output; raise CalledProcessError if it fails."""
    done = subprocess.run(
        command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    )
    return done.stdout


def make_venv(python: str, folder: Path, pip: str | None) -> Path:
    """Make a virtual environment with a version of pip, or the newest; return its Python."""
    run([python, "-m", "venv", folder])
    wanted = f"pip=={pip}" if pip else "pip"
    run([folder / "bin/python", "-m", "pip", "install", "-q", "--upgrade", wanted])
    return folder / "bin/python"


def check_versions(python: Path, file: str) -> None:
    """Raise AssertionError unless the lock, and nothing else, is installed."""
    freeze = run([python, "-m", "pip", "--disable-pip-version-check", "list", "--format=freeze"])
    pairs = [line.split("==") for line in freeze.splitlines()]
    installed = {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in pairs}
    others = {one for one in installed - locked(file) if one[0] not in ("pip", "setuptools")}
    if others:
        raise AssertionError(f"Installed, but not locked: {sorted(others)}")
    run([python, "-c", "import manage"], cwd=ROOT)


def serve(python: str, pip: str, folder: Path, environment: dict[str, str]) -> None:
    """Start a copy of the project by run.sh, with this pip in its .venv, until it is ready."""
    for name in ("project", "migrations", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run.sh", "manage.py", "requirements.txt"):
        shutil.copy(ROOT / name, folder / name)
    installed = make_venv(python, folder / ".venv", pip)
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            ["sh", folder / "run.sh"],
            env=environment | {"PORT": str(port)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not is_ready(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((folder / "log").read_text())
            time.sleep(0.2)
    finally:
        server.terminate()
        code = server.wait()
    if code != 0:
        raise AssertionError(f"The service ended with {code}.")
    check_versions(installed, "requirements.txt")


def is_ready(port: int) -> bool:
    """Return whether the service answers /ready with 200."""
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
        return True
    return False


def install(python: str, pip: str | None, folder: Path, environment: dict[str, str]) -> None:
    """Install the production lock with this pip."""
    file = "requirements-production.txt"
    installed = make_venv(python, folder, pip)
    run(["sh", "scripts/install.sh", file, installed], cwd=ROOT, env=environment)
    check_versions(installed, file)


def main() -> int:
    """Try everything that this machine has the Pythons for; return the exit code."""
    pythons = {version: find_python(version) for version in OLDEST_PIPS}
    newest = max((version for version in pythons if pythons[version]), default=None)
    if newest is None:
        sys.exit(f"No Python of {', '.join(pythons)} was found.")
    trials = [(serve, version, pip) for version, pip in OLDEST_PIPS.items()]
    trials += [(install, *DEBIAN_12), (install, newest, None)]
    ours = {"APP_SETTINGS", "DATABASE_URL", "SECRET_KEY"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        work = Path(name)
        work.chmod(0o711)  # so that the user of PostgreSQL can pass
        write_newer_releases(work / "newer")
        found_before = environment.get("PIP_FIND_LINKS", "")
        environment["PIP_FIND_LINKS"] = f"{work / 'newer'} {found_before}"

        def attempt(number: int) -> bool:
            trial, version, pip = trials[number]
            title = f"Python {version}, pip {pip or '(newest)'}: {trial.__name__}"
            if (python := pythons[version]) is None:
                print(f"NOT TRIED: {title}; there is no Python {version}", flush=True)
                return True
            folder = work / f"trial {number}"
            folder.mkdir()
            began = time.monotonic()
            try:
                trial(python, pip, folder, environment)
            except (AssertionError, subprocess.CalledProcessError) as error:
                print(f"FAILED: {title}\n{error}\n{getattr(error, 'output', '')}", flush=True)
                return False
            print(f"ok: {title}, {time.monotonic() - began:.0f} s", flush=True)
            return True

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return 0 if all(list(pool.map(attempt, range(len(trials))))) else 1


if __name__ == "__main__":
    sys.exit(main())
