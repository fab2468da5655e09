"""How many requests may do what at a time in one process, so that threads are left for others.

Places: most requests ask PostgreSQL, and where it is slow they all wait. Some threads are kept
from that, for requests that ask nobody (/health says that the process lives), and to tell the
others at once to come again, instead of letting them queue for what they will not get.

A request that waits for users-service takes a place of a smaller number as well, so that most
places are left for requests that do not need it.

Seats: granian gives a request to a thread once its head is there, and the thread reads the body as
fast as the client sends it, which may be never. So only some of the threads may read at a time, and
who has held a seat for too long is hung up on. The server does not tell which socket a request
came by. But every request is answered within a few seconds: so where one has been silent for longer
than that, its client is either idle, and finds a closed connection as it may after any pause, or
has not sent all that it promised.
"""

import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Thread

TICK_SECONDS = 0.5
# For how long a place is held where its holder is stuck, and others need not wait for it.
STUCK_SECONDS = 0.5
# How long a body may take where seats are scarce, and at all.
SCARCE_SECONDS = 4.0
LONGEST_SECONDS = 60.0

# Where Linux' struct tcp_info says how many milliseconds ago data were last sent.
LAST_SENT = struct.Struct("=I")
LAST_SENT_OFFSET = 44


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


class Seats(Places):
    """Places for those who read a body, and since when each has done so."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self._since: dict[object, float] = {}

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have a seat for as long as the block lasts; raise NoPlace where none becomes free."""
        with super().taken():
            reader = object()
            self._since[reader] = time.monotonic()
            try:
                yield
            finally:
                del self._since[reader]

    def start(self, port: int) -> None:
        """Begin to hang up on those who are slow to send to that port of this process.

        Only Linux tells for how long a connection has been silent; elsewhere nothing is begun.
        """
        if sys.platform == "linux":
            Thread(target=self._watch, args=(port,), name="seats", daemon=True).start()

    def _watch(self, port: int) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            since = list(self._since.copy().values())
            longest = SCARCE_SECONDS if len(since) >= self._count else LONGEST_SECONDS
            if since and time.monotonic() - min(since) > longest:
                _hang_up_on_silent(port, SCARCE_SECONDS)


def _hang_up_on_silent(port: int, seconds: float) -> None:
    """Shut down the connections to a port of this process on which nothing was sent for so long."""
    for number in os.listdir("/dev/fd"):
        with suppress(OSError):  # closed meanwhile, or no connection
            # A descriptor of our own, which nobody closes and reuses meanwhile.
            own = os.dup(int(number))
            try:
                _hang_up_if_silent(own, port, seconds)
            finally:
                os.close(own)


def _hang_up_if_silent(descriptor: int, port: int, seconds: float) -> None:
    line = socket.socket(fileno=descriptor)
    try:
        line.getpeername()  # which fails for a socket that listens
        is_of_client = line.family != socket.AF_UNIX and line.getsockname()[1] == port
        if is_of_client and _silent_seconds(line) > seconds:
            line.shutdown(socket.SHUT_RDWR)
    finally:
        line.detach()


def _silent_seconds(line: socket.socket) -> float:
    said = line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_SENT_OFFSET + LAST_SENT.size)
    [milliseconds] = LAST_SENT.unpack_from(said, LAST_SENT_OFFSET)
    return float(milliseconds / 1000)
