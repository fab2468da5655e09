"""Restarts of workers that died, with exponential backoff.

granian replaces a worker that died, but ends the whole service if the replacement dies within
5.5 seconds; no option changes that. So one worker that dies again and again would take the healthy
ones with it. Here, granian learns of a death only when the replacement is due: of the first one at
once, of the next ones after a delay that doubles, until a worker has lived for a minute.

If a worker dies before any worker was ready, the start has failed, and the service ends.
"""

import logging
import threading
import time
from collections.abc import Callable

from granian.server import MPServer

MIN_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 30.0
# A worker that lived for longer is replaced at once.
HEALTHY_SECONDS = 60.0

logger = logging.getLogger(__name__)


class Backoff:
    """The delays before the restarts of one worker."""

    def __init__(self) -> None:
        self._next_delay = 0.0
        self._restart_at = 0.0

    def schedule(self) -> float:
        """Return the delay before the restart of the worker, which has just died."""
        now = time.monotonic()
        if now - self._restart_at > HEALTHY_SECONDS:
            self._next_delay = 0.0
        delay = self._next_delay
        self._next_delay = min(max(2 * delay, MIN_DELAY_SECONDS), MAX_DELAY_SECONDS)
        self._restart_at = now + delay
        return delay

    @property
    def remaining(self) -> float:
        """The seconds until the restart."""
        return max(0.0, self._restart_at - time.monotonic())


class RestartSchedule(threading.Event):
    """The event for which a granian server waits: a signal to end, or workers to replace."""

    def __init__(self, server: MPServer, is_started: Callable[[], bool]) -> None:
        """Schedule the restarts of a server; `is_started` tells if any worker was ready."""
        super().__init__()
        self._server = server
        self._is_started = is_started
        self._backoffs = [Backoff() for _ in range(server.workers)]
        self._dead: set[int] = set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the server has to end, or has workers to replace now."""
        while not self._server.interrupt_signal:
            pending = [self._backoffs[worker].remaining for worker in self._dead]
            # granian clears the event after it has read the list, so a death may be in the list
            # although the event is not set.
            if not self._server.interrupt_children:
                super().wait(min(pending, default=timeout))
            self.clear()
            if self._server.interrupt_children and not self._is_started():
                logger.error("A worker died before it was ready: the start has failed.")
                self._server.interrupt_signal = True  # exit code 1, since a worker has died
            elif self._hand_over():
                break
        return True

    def _hand_over(self) -> bool:
        """Take in what granian knows of deaths, and give back those that are due, if any."""
        died = self._server.interrupt_children
        while died:
            worker = died.pop()
            self._dead.add(worker)
            delay = self._backoffs[worker].schedule()
            if delay:
                logger.warning("Worker %d died again; its restart is in %g s.", worker + 1, delay)
        due = {worker for worker in self._dead if not self._backoffs[worker].remaining}
        self._dead -= due
        self._server.respawned_wrks.clear()  # by which granian would recognize a crash loop
        died.extend(due)
        return bool(due)
