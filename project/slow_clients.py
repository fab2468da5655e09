"""Bulkhead for request bodies: limits how many are read at a time, and ends slow reads.

granian gives a request to a thread once its head is there. The thread then reads the body as fast
as the client sends it, and granian sets no limit. So only some threads read bodies at a time, each
client address has at most half of these slots, and a read that is slower than `MIN_RATE` is ended
by closing its connection.

WSGI does not tell which connection a request came by. A thread closes the connections from the
address of the read on which the service has sent nothing for a while: every request is answered
sooner, so these are idle or slow. The kernel's statistics can miss the connection, for example if
an earlier response is still being sent, and only Linux has them. So if the read goes on, all
connections from its address are closed.
"""

import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from threading import Semaphore, Thread
from typing import Any

from project.places import NoPlace, Places

TICK_SECONDS = 0.5
# How long a read may take, plus the time for what it has received at the minimum rate (bytes per
# second): in general, if all slots that its client may have are taken, and at most.
BODY_SECONDS = 10.0
BODY_SECONDS_WHEN_FULL = 4.0
MAX_BODY_SECONDS = 60.0
MIN_RATE = 16 * 1024
PIECE_BYTES = 16 * 1024
# Large bodies have fewer slots: parsed, a body takes up to 20 times its bytes.
LARGE_BODY_BYTES = 64 * 1024
LARGE_WAIT_SECONDS = 0.1
# Of so many clients the shares are known; those that sent no body for longest are forgotten.
MAX_CLIENTS = 1024
# On a connection that is idle or slow, the service has sent nothing for so long.
SILENT_SECONDS = 4.0
# If a read is overdue for so long, all connections from its address are closed.
CLOSE_ALL_AFTER_SECONDS = 3.0
# If every read is overdue for so long, closing connections has not helped.
STUCK_AFTER_SECONDS = 10.0

# Offset in Linux' struct tcp_info of the milliseconds since data were last sent.
LAST_SENT = struct.Struct("=I")
LAST_SENT_OFFSET = 44


class BodyRead:
    """One body that is being read: from which client, since when, and how much has arrived."""

    def __init__(self, client: str, peer: str) -> None:
        self.client, self.peer = client, peer
        self.started = 0.0
        self.received = 0


class MeasuredInput:
    """`wsgi.input` that counts what arrives, in pieces small enough to measure the rate."""

    def __init__(self, stream: Any, read: BodyRead) -> None:
        self._stream, self._read = stream, read

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes; fewer do not mean the end."""
        piece: bytes = self._stream.read(min(size, PIECE_BYTES) if size >= 0 else PIECE_BYTES)
        self._read.received += len(piece)
        return piece


class _Share:
    """The slots that one client may have at a time."""

    def __init__(self, slots: int, large: int) -> None:
        self.slots = Places(slots)
        self.large = Semaphore(large)


@contextmanager
def _acquired(semaphore: Semaphore) -> Iterator[None]:
    if not semaphore.acquire(timeout=LARGE_WAIT_SECONDS):
        raise NoPlace("too many large bodies")
    try:
        yield
    finally:
        semaphore.release()


class BodySlots:
    """Slots for reading and parsing bodies: few for large ones, and half of all for one client."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._slots = Places(count)
        self._share_size = max(1, count // 2)
        large = max(1, count // 4)
        self._large = Semaphore(large)
        self._large_share_size = max(1, large // 2)
        self._share = lru_cache(MAX_CLIENTS)(
            lambda _client: _Share(self._share_size, self._large_share_size)
        )
        self._reads: set[BodyRead] = set()

    @contextmanager
    def slot(self, client: str, peer: str, *, large: bool) -> Iterator[BodyRead]:
        """Hold a slot for the block; raise NoPlace if none becomes free soon.

        `client` is the address that shares are counted by, `peer` that of the connection.
        """
        share, read = self._share(client), BodyRead(client, peer)
        few = self._slot_for_large(share) if large else nullcontext()
        with few, share.slots.taken(), self._slots.taken():
            read.started = time.monotonic()
            self._reads.add(read)
            try:
                yield read
            finally:
                self._reads.discard(read)

    @contextmanager
    def _slot_for_large(self, share: _Share) -> Iterator[None]:
        with _acquired(share.large), _acquired(self._large):
            yield

    def is_stuck(self) -> bool:
        """Return whether every slot is held by a read that could not be ended."""
        reads = self._reads.copy()
        return len(reads) >= self._count and all(
            self._overdue_seconds(read, reads) > STUCK_AFTER_SECONDS for read in reads
        )

    def _overdue_seconds(self, read: BodyRead, reads: set[BodyRead]) -> float:
        of_client = sum(other.client == read.client for other in reads)
        is_full = len(reads) >= self._count or of_client >= self._share_size
        seconds = BODY_SECONDS_WHEN_FULL if is_full else BODY_SECONDS
        allowed = min(seconds + read.received / MIN_RATE, MAX_BODY_SECONDS)
        return time.monotonic() - read.started - allowed

    def start(self, port: int) -> None:
        """End slow reads from now on, in a thread; the service listens on `port`."""
        Thread(target=self._watch, args=(port,), name="slow-clients", daemon=True).start()

    def _watch(self, port: int) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            reads = self._reads.copy()
            overdue: dict[str, float] = {}
            for read in reads:
                seconds = self._overdue_seconds(read, reads)
                if seconds > 0:
                    overdue[read.peer] = max(seconds, overdue.get(read.peer, 0))
            if overdue:
                _close_connections(port, overdue)


def _close_connections(port: int, overdue: dict[str, float]) -> None:
    """Close the idle and slow connections from the addresses, or all after a while."""
    for number in os.listdir("/dev/fd"):
        with suppress(OSError):  # closed meanwhile, or no connection
            # A copy, because the number may be reused for another file meanwhile.
            descriptor = os.dup(int(number))
            try:
                _close_if_overdue(descriptor, port, overdue)
            finally:
                os.close(descriptor)


def _close_if_overdue(descriptor: int, port: int, overdue: dict[str, float]) -> None:
    connection = socket.socket(fileno=descriptor)
    try:
        if connection.family not in {socket.AF_INET, socket.AF_INET6}:
            return
        seconds = overdue.get(connection.getpeername()[0])  # which fails if it only listens
        if seconds is None or connection.getsockname()[1] != port:
            return
        if seconds > CLOSE_ALL_AFTER_SECONDS or _is_silent(connection):
            connection.shutdown(socket.SHUT_RDWR)
    finally:
        connection.detach()


def _is_silent(connection: socket.socket) -> bool:
    """Return whether the service has sent nothing for a while, if the system can tell."""
    if sys.platform != "linux":
        return False
    size = LAST_SENT_OFFSET + LAST_SENT.size
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, size)
    [milliseconds] = LAST_SENT.unpack_from(info, LAST_SENT_OFFSET)
    return bool(milliseconds > SILENT_SECONDS * 1000)
