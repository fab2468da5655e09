"""What ends the waiting for a PostgreSQL that does not answer.

A server that is gone says so: connections break, and new ones are refused. One that hangs (a
stopped process, a disk that has died, a network that swallows everything) says nothing, and
whoever has asked it waits, since its own timeouts hang with it. So each process has a thread
that looks after the connections that are out:

- Where one has been out for a while, it asks PostgreSQL itself, over a new connection. Without an
  answer PostgreSQL hangs: every connection that is out is cut, so that all who wait are free, and
  nobody is given one until PostgreSQL answers again.
- Where it does answer, only those are cut that have been out for longer than any request may.

To cut is to shut the socket down: who waits in a read of it is woken with an error, as if the
server had closed it. It costs a request nothing but to note when it was given its connection.
"""

import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Lock, Thread
from typing import Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ
from sqlalchemy import Engine, event

TICK_SECONDS = 0.1
SUSPICIOUS_SECONDS = 0.5
ANSWER_SECONDS = 1.0


class Watchdog:
    """Looks after the connections of one process."""

    def __init__(self, connect: Callable[[], Any], longest_seconds: float) -> None:
        """Ask over what `connect` opens, without waiting; cut what is out for `longest_seconds`."""
        self._connect = connect
        self._longest_seconds = longest_seconds
        # Since when each connection is out.
        self._out: dict[Any, float] = {}
        # A second descriptor of each socket: the number of the first may be another file's by the
        # time that it is shut down. The lock keeps the same from happening to the second.
        self._sockets: dict[Any, socket.socket] = {}
        self._lock = Lock()
        self.hangs = False

    def guard(self, engine: Engine) -> None:
        """Look after the connections of an engine."""

        @event.listens_for(engine, "connect")
        def note_socket(connection: Any, record: Any) -> None:
            self._sockets[record] = socket.socket(fileno=os.dup(connection.fileno()))

        @event.listens_for(engine, "close")
        def forget_socket(_connection: Any, record: Any) -> None:
            with self._lock:
                self._out.pop(record, None)
                if record in self._sockets:
                    self._sockets.pop(record).close()

        @event.listens_for(engine, "checkout")
        def note_time(_connection: Any, record: Any, _proxy: Any) -> None:
            self._out[record] = time.monotonic()

        @event.listens_for(engine, "checkin")
        def forget_time(_connection: Any, record: Any) -> None:
            self._out.pop(record, None)

    def refuse_while_it_hangs(self) -> None:
        """Raise OperationalError where PostgreSQL is known not to answer."""
        if self.hangs:
            raise psycopg2.OperationalError("it does not answer")

    def start(self) -> None:
        """Begin to watch, in a thread that lives as long as the process."""
        Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            if self._out_for(SUSPICIOUS_SECONDS):
                self._look()

    def _look(self) -> None:
        """Find out why connections are out for so long, and stay until PostgreSQL answers."""
        while not self._answers():
            self.hangs = True
            self._cut(self._out_for(0))
            time.sleep(TICK_SECONDS)
        self.hangs = False
        self._cut(self._out_for(self._longest_seconds))

    def _out_for(self, seconds: float) -> list[Any]:
        latest = time.monotonic() - seconds
        return [record for record, since in self._out.copy().items() if since <= latest]

    def _cut(self, records: list[Any]) -> None:
        with self._lock:
            for record in records:
                if record in self._out and record in self._sockets:
                    with suppress(OSError):  # it is broken already
                        self._sockets[record].shutdown(socket.SHUT_RDWR)

    def _answers(self) -> bool:
        """Return whether PostgreSQL answers in time, be it with a refusal."""
        deadline = time.monotonic() + ANSWER_SECONDS
        connection = None
        try:
            connection = self._connect()
            if not _comes_to_rest(connection, deadline):
                return False
            connection.cursor().execute("SELECT 1")
            return _comes_to_rest(connection, deadline)
        except psycopg2.Error:  # it is down, or full: whoever asks is told so at once
            return True
        finally:
            if connection is not None:
                connection.close()


def _comes_to_rest(connection: Any, deadline: float) -> bool:
    """Return whether what is under way on a connection ends before the deadline."""
    while (state := connection.poll()) != POLL_OK:
        ready = select.poll()
        ready.register(connection, select.POLLIN if state == POLL_READ else select.POLLOUT)
        milliseconds = max(0, deadline - time.monotonic()) * 1000
        if not ready.poll(milliseconds):
            return False
    return True
