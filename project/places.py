"""How many requests may do what at a time in one process, so that threads are left for others.

Places: most requests ask PostgreSQL, and where it is slow they all wait. Some threads are kept
from that, for requests that ask nobody (/health says that the process lives), and to tell the
others at once to come again, instead of letting them queue for what they will not get.

A request that waits for users-service takes a place of a smaller number as well, so that most
places are left for requests that do not need it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

# For how long a place is held where its holder is stuck, and others need not wait for it.
STUCK_SECONDS = 0.5


class NoPlace(Exception):
    """Too many do the same in this process; this one was not begun."""


class Places:
    """Bulkhead: limits how many callers do the same at a time."""

    def __init__(self, count: int, stuck_seconds: float = STUCK_SECONDS) -> None:
        """Allow `count` callers at a time; they are stuck if none leaves for `stuck_seconds`."""
        self._count = count
        self._stuck_seconds = stuck_seconds
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(count):
            self._free.put(None)
        # When a place was last left soon after it was taken, or taken while there were others; the
        # only one, whenever it was taken.
        self._moved_at = 0.0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have a place for as long as the block lasts; raise NoPlace where all are stuck.

        As long as others come and go, one waits.
        """
        try:
            self._free.get_nowait()
        except Empty:
            self._wait()
        began = time.monotonic()
        if self._count == 1 or not self._free.empty():
            self._moved_at = began
        try:
            yield
        finally:
            ended = time.monotonic()
            if ended - began < self._stuck_seconds:
                self._moved_at = ended
            self._free.put(None)

    def _wait(self) -> None:
        while (seconds := self._moved_at + self._stuck_seconds - time.monotonic()) > 0:
            with suppress(Empty):
                return self._free.get(timeout=seconds)
        raise NoPlace("none of them comes to an end")
