"""Workers that hang: found by their silence, and killed, so that they are replaced.

A worker that dies is replaced at once. One that is stopped, or stuck in a library that never
returns, keeps its share of the connections and answers none. So each worker moves the time of a
file of its own, and their parent looks at these files.
"""

import fcntl
import logging
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

BEAT_SECONDS = 0.25
# Counted in looks of the parent and not by a clock: where the whole machine was suspended, the
# parent was, too.
MOST_SILENT_LOOKS = 40
# Where it uses no processor either, it is certainly not just busy, on a machine that is.
MOST_STILL_LOOKS = 8

logger = logging.getLogger(__name__)


def beat(folder: Path) -> None:
    """Show that this process lives, as long as it does; the lock on its file dies with it."""
    draft = folder / f"{os.getpid()}.born"
    with draft.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        draft.rename(draft.with_suffix(".alive"))
        while True:
            os.utime(file.fileno())
            time.sleep(BEAT_SECONDS)


class _Worker:
    """What was seen of a worker: for how many looks it has been silent, and for how many still."""

    def __init__(self) -> None:
        self.silent = self.still = 0
        self._beat_at = 0
        self._seconds = 0.0

    def look(self, beat_at: int, seconds: float) -> None:
        """Note when it last beat, and how long it has used the processor."""
        self.silent = self.silent + 1 if beat_at == self._beat_at else 0
        self.still = self.still + 1 if self.silent and seconds == self._seconds else 0
        self._beat_at, self._seconds = beat_at, seconds


class Listener:
    """Hears who beats in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, _Worker] = {}
        self._has_heard = False

    def has_heard(self) -> bool:
        """Return whether any worker has ever sent a heartbeat."""
        self._has_heard = self._has_heard or any(self._folder.glob("*.alive"))
        return self._has_heard

    def listen(self) -> None:
        """Kill whoever is silent, again and again."""
        while True:
            time.sleep(BEAT_SECONDS)
            self.has_heard()
            self._look()

    def _look(self) -> None:
        for path in self._folder.glob("*.alive"):
            worker = self._known.setdefault(path, _Worker())
            worker.look(path.stat().st_mtime_ns, _processor_seconds(int(path.stem)))
            if worker.silent >= MOST_SILENT_LOOKS or worker.still >= MOST_STILL_LOOKS:
                self._end(path)

    def _end(self, path: Path) -> None:
        if not _is_free(path):
            logger.error("Worker %s hangs, and is killed.", path.stem)
            with suppress(ProcessLookupError):
                os.kill(int(path.stem), signal.SIGKILL)
        del self._known[path]
        path.unlink()


def _is_free(path: Path) -> bool:
    """Return whether nobody holds the file: its process has ended, and the number may be reused."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _processor_seconds(pid: int) -> float:
    """Return how long a process has used the processor, or 0 where the system does not tell."""
    try:
        # As clock_getcpuclockid() of Linux' C library makes the number of a process's clock.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0
