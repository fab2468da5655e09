"""What tests of real processes stand on: their environment, and patience that has an end."""

import os
import socket
import tempfile
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import urllib3

from project.config import Settings

ROOT = Path(__file__).parent.parent.parent
# How late anything may be on a machine that is busy with other things.
GRACE_SECONDS = 60
# How much later than promised an answer may come there, where seconds are promised.
LATENESS_SECONDS = 1.5


def wait_until(is_so, seconds=GRACE_SECONDS):
    """Wait until it is so and return what was; fail where that takes longer."""
    deadline = time.monotonic() + seconds
    while not (what := is_so()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not so after {seconds} seconds")
        time.sleep(0.01)
    return what


def is_alive(pid):
    """Return whether a process runs; one that nobody has buried does not."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def postmaster(folder):
    """Return the number of the server that runs in a folder, or None."""
    with suppress(FileNotFoundError, ValueError, IndexError):
        return int((folder / "postmaster.pid").read_text().splitlines()[0])
    return None


def answers(address):
    """Return whether a server answers there, and with 200."""
    with suppress(urllib3.exceptions.HTTPError):
        return urllib3.request("GET", address, retries=False, timeout=GRACE_SECONDS).status == 200
    return False


def free_port():
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return server.getsockname()[1]


@contextmanager
def house():
    """Give a folder with this code as its own, where it keeps its own database and secret."""
    with tempfile.TemporaryDirectory(prefix="house-", ignore_cleanup_errors=True) as folder:
        for name in ("project", "migrations", "manage.py"):
            (Path(folder) / name).symlink_to(ROOT / name)
        yield Path(folder)


def environment(**settings):
    """Return the environment of a command: nothing but the code is shared with this process."""
    names = {"APP_SETTINGS", *(name.upper() for name in Settings.model_fields)}
    ours = names | {f"{name}_FILE" for name in names}
    kept = {key: value for key, value in os.environ.items() if key not in ours}
    return kept | settings
