"""Client of users-service: token in, User or None out.

    users = UsersService("http://users-service:5000")
    users.who_is("abc")     # User(user_id=7), or None if users-service says no

Concurrent lookups of the same token share one request (single-flight). Every request has one
deadline and runs in a thread of its own, because a name lookup cannot be interrupted: a caller is
free at the deadline in any case.

A circuit breaker stops the lookups for a while after some failures in a row. A failure is a
missing answer: a connection error, a timeout, or a 5xx. Any other answer proves that users-service
works, whatever it says about the token.

What users-service answers means:

    200 with a user                     yes, or no if the user is not active
    4xx, except 408 and 429             no
    408, 429, 1xx, 3xx, other 2xx,      neither; this lookup is unavailable
    200 of any other shape
    5xx, or no answer in time           neither; this lookup is unavailable, and a failure

    UsersService    cache and pending lookups
    _Flight         one pending lookup and its result
    _Breaker        circuit breaker: closed, open, half-open
    _Line           connection pool
    _DeadlineReader a socket that is read until the deadline and no longer
    _read_user      status and body in, User or None out

Nothing here keeps, logs or raises a token.
"""

import http.client
import io
import logging
import math
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from threading import Event, Lock, Thread
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import orjson
from cachetools import TTLCache
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

logger = logging.getLogger(__name__)

LARGEST_ANSWER_BYTES = 64 * 1024
LARGEST_ID = 2**63 - 1

# What fits into a header: printable latin-1. Any other text is certainly no token.
_SENDABLE = re.compile(r"[\x20-\x7e\xa0-\xff]{1,8192}")
# How users-service fails to answer: connection errors, timeouts, broken HTTP.
_FAILURES = (OSError, http.client.HTTPException, HTTPError)
# Client errors that say nothing about the token: Request Timeout, Too Many Requests.
_TRY_LATER = frozenset({http.client.REQUEST_TIMEOUT, http.client.TOO_MANY_REQUESTS})
# How a kept connection ends that the server closed while it was idle.
_HUNG_UP = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


@dataclass(frozen=True, slots=True)
class User:
    """Who calls: the principal of a request."""

    user_id: int
    is_admin: bool = False
    is_service: bool = False


class UsersUnavailable(Exception):
    """users-service said neither yes nor no; try later."""

    def __init__(self, reason: str, retry_after_seconds: int = 1) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class _UnexpectedAnswer(Exception):
    """users-service answered, but neither yes nor no."""


class Observer:
    """Is told what the client does, to measure it; this one does not."""

    def remembered(self) -> None:
        """Hear that a token was in the cache."""

    def refused(self) -> None:
        """Note a lookup that was rejected by the circuit breaker."""

    def asked(self, answer: str, seconds: float) -> None:
        """Hear that a question was answered "yes", "no", or "none"."""

    def breaker(self, *, is_open: bool) -> None:
        """Hear that the breaker has opened or closed."""


class UsersService:
    """Looks tokens up in users-service, and caches each yes for a while."""

    def __init__(  # noqa: PLR0913 - all but the address have a default that serves
        self,
        url: str,
        *,
        timeout_seconds: float = 2.0,
        cache_seconds: float = 30.0,
        cache_size: int = 10_000,
        failures_to_open: int = 3,
        open_seconds: float = 1.0,
        pool_size: int = 32,
        observer: Observer | None = None,
    ) -> None:
        """Use the users-service at `url`; a lookup takes `timeout_seconds` at most."""
        self._observer = observer or Observer()
        self._timeout_seconds = timeout_seconds
        self._retry_after_seconds = max(1, math.ceil(open_seconds))
        self._line = _Line(url, pool_size)
        # The lock guards the three below; it is never held while anybody waits or asks.
        self._lock = Lock()
        self._cache: TTLCache[bytes, User] = TTLCache(cache_size, cache_seconds)
        self._flights: dict[bytes, _Flight] = {}
        self._breaker = _Breaker(failures_to_open, open_seconds, self._observer)

    def known(self, token: str) -> User | None:
        """Return whose token it is where users-service said so not long ago, or None."""
        key = sha256(token.encode("latin-1", "replace")).digest()
        with self._lock:
            user = self._cache.get(key)
        if user is not None:
            self._observer.remembered()
        return user

    def who_is(self, token: str, headers: Mapping[str, str] = MappingProxyType({})) -> User | None:
        """Return the user that the token belongs to, or None if users-service says no.

        `headers` are sent along if this call makes the request to users-service. Raises
        UsersUnavailable if it says neither within `timeout_seconds`, and immediately if the
        circuit breaker is open.
        """
        if not _SENDABLE.fullmatch(token):
            return None
        key = sha256(token.encode("latin-1")).digest()
        with self._lock:
            user = self._cache.get(key)
            if user is not None:
                return user
            # While the breaker is open no caller waits for a lookup that may well fail.
            flight = None if self.is_open else self._flights.get(key)
            leaves_now = flight is None
            if flight is None:
                flight = self._flights[key] = self._new_flight(key)
        if leaves_now:
            self._depart(flight, token, headers)
        return self._arrive(flight)

    @property
    def is_open(self) -> bool:
        """Whether the breaker is open: users-service is not asked, but for one trial at a time."""
        return self._breaker.is_open

    def close(self) -> None:
        """Close the idle connections; questions on their way close their own."""
        self._line.close()

    def _new_flight(self, key: bytes) -> "_Flight":
        """Return a flight that may leave, or raise at once where the breaker is open."""
        ticket = self._breaker.admit()
        if ticket is None:
            self._observer.refused()
            raise self._unavailable("users-service is away, so it was not asked")
        now = time.monotonic()
        return _Flight(key, ticket, now, now + self._timeout_seconds)

    def _depart(self, flight: "_Flight", token: str, headers: Mapping[str, str]) -> None:
        asking = (flight, token, headers)
        thread = Thread(target=self._ask, args=asking, name="users-service", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no thread left
            self._land(flight, failure=str(error))

    def _ask(self, flight: "_Flight", token: str, headers: Mapping[str, str]) -> None:
        """Ask users-service and finish the lookup, whatever happens."""
        try:
            status, body = self._line.ask(token, flight.deadline, headers)
            if status >= http.client.INTERNAL_SERVER_ERROR:
                self._land(flight, failure=f"status {status}")
            else:
                self._land(flight, _read_user(status, body))
        except _UnexpectedAnswer as error:
            logger.warning("users-service answered a token lookup with %s", error)
            self._land(flight, unexpected=str(error))
        except _FAILURES as error:
            self._land(flight, failure=f"{type(error).__name__}: {error}")
        finally:
            self._land(flight, failure="the lookup broke off")  # unless it has finished

    def _arrive(self, flight: "_Flight") -> User | None:
        """Wait for the lookup and return its result; raise a fresh exception if it has none."""
        flight.landed.wait(flight.deadline - time.monotonic())
        self._land(flight, failure="no answer in time")  # unless it has finished
        if flight.reason is not None:
            raise self._unavailable(f"users-service said neither yes nor no: {flight.reason}")
        return flight.user

    def _land(
        self,
        flight: "_Flight",
        user: User | None = None,
        *,
        failure: str | None = None,
        unexpected: str | None = None,
    ) -> None:
        """Finish the lookup, once: inform the breaker, the cache and the waiting callers.

        Of the two reasons for a lookup without a result only `failure` counts for the breaker.
        """
        with self._lock:
            if flight.landed.is_set():
                return
            flight.user, flight.reason = user, failure or unexpected
            self._observer.asked(*flight.told())
            self._breaker.report(flight.ticket, failure)
            if user is not None:
                self._cache[flight.key] = user
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
            flight.landed.set()

    def _unavailable(self, reason: str) -> UsersUnavailable:
        return UsersUnavailable(reason, self._retry_after_seconds)


@dataclass(eq=False, slots=True)
class _Flight:
    """A pending lookup, and its result once it has finished."""

    key: bytes
    ticket: int
    left_at: float
    deadline: float
    landed: Event = field(default_factory=Event)
    user: User | None = None
    # Why there is neither a yes nor a no.
    reason: str | None = None

    def told(self) -> tuple[str, float]:
        """Return how the lookup was answered, and in how many seconds."""
        answer = "none" if self.reason is not None else "yes" if self.user else "no"
        return answer, time.monotonic() - self.left_at


class _Breaker:
    """Whether to ask: not for a while after some failures in a row, and then one trial first.

    A ticket is the number of the round it was given in. A new round begins whenever the breaker
    opens or closes, and tickets of older rounds no longer count: what was asked before says nothing
    about now. Not thread-safe; the owner holds its lock.
    """

    def __init__(self, failures_to_open: int, open_seconds: float, observer: Observer) -> None:
        self._observer = observer
        self._failures_to_open = failures_to_open
        self._open_seconds = open_seconds
        self._failures = 0
        self._round = 0
        self._trial_at = 0.0

    @property
    def is_open(self) -> bool:
        return self._failures >= self._failures_to_open

    def admit(self) -> int | None:
        """Return a ticket to ask with, to be reported on later, or None: do not ask."""
        if self.is_open:
            if time.monotonic() < self._trial_at:
                return None
            self._trial_at = math.inf  # no second trial until this one is reported
        return self._round

    def report(self, ticket: int, failure: str | None) -> None:
        """Note how a lookup ended: `failure` is None if users-service answered at all."""
        if ticket != self._round:
            return
        was_open = self.is_open
        self._failures = 0 if failure is None else self._failures + 1
        self._trial_at = time.monotonic() + self._open_seconds
        if self.is_open == was_open:
            return
        self._round += 1
        self._observer.breaker(is_open=self.is_open)
        if self.is_open:
            logger.warning("users-service is away, breaker open: %s", failure)
        else:
            logger.info("users-service is back, breaker closed")


class _Line:
    """Connection pool: keep-alive connections to users-service, and requests over them."""

    def __init__(self, url: str, pool_size: int) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"users-service needs an http:// or https:// address, not {url!r}")
        self._path = f"{parts.path.rstrip('/')}/auth/status"
        address = (parts.hostname, parts.port)
        self._connect: Callable[[], HTTPConnection]
        if parts.scheme == "https":
            # One for all connections: it reads the system's certificates, which takes milliseconds.
            context = ssl.create_default_context()
            self._connect = partial(HTTPSConnection, *address, ssl_context=context)
        else:
            self._connect = partial(HTTPConnection, *address)
        self._places = pool_size
        self._lock = Lock()
        self._idle: list[HTTPConnection] = []

    def ask(self, token: str, deadline: float, others: Mapping[str, str]) -> tuple[int, bytes]:
        """Return status and body of users-service's answer; of a large body only its beginning."""
        headers = {**others, "Authorization": f"Bearer {token}", "Accept": "application/json"}
        idle = self._take()
        if idle is not None:
            try:
                return self._exchange(idle, headers, deadline)
            except _HUNG_UP:
                pass  # The server closed it while it was idle. Asking twice changes nothing.
        return self._exchange(self._connect(), headers, deadline)

    def close(self) -> None:
        """Close the idle connections and keep none from now on."""
        with self._lock:
            self._places = 0
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _exchange(
        self, connection: HTTPConnection, headers: dict[str, str], deadline: float
    ) -> tuple[int, bytes]:
        """Send the request over this connection, and keep it unless anything goes wrong."""

        def answer_in_time(sock: Any, **options: Any) -> http.client.HTTPResponse:
            reader: Any = _DeadlineReader(sock, deadline)
            return http.client.HTTPResponse(reader, **options)

        connection.response_class = answer_in_time  # type: ignore[assignment]
        connection.timeout = _seconds_until(deadline)  # for a connection that is to be opened
        try:
            connection.request("GET", self._path, headers=headers, preload_content=False)
            answer = connection.getresponse()
            try:
                body = answer.read(LARGEST_ANSWER_BYTES + 1, decode_content=False)
            finally:
                answer.close()
            if len(body) > LARGEST_ANSWER_BYTES:
                connection.close()  # the rest of the body is still to come
            elif answer.length_remaining:
                raise ConnectionResetError("the connection was lost during the answer")
        except BaseException:
            connection.close()
            raise
        self._keep(connection)
        return answer.status, body

    def _take(self) -> HTTPConnection | None:
        """Return the idle connection that was used last, for it is the most likely to be open."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.is_connected:
                return connection
            connection.close()

    def _keep(self, connection: HTTPConnection) -> None:
        with self._lock:
            if len(self._idle) < self._places and not connection.is_closed:
                self._idle.append(connection)
                return
        connection.close()


class _DeadlineReader(io.RawIOBase):
    """A socket that is read until the deadline and no longer.

    A socket's own timeout starts again with every byte, so a server that drips could hold it for
    ever. Stands in for the socket when http.client makes a file of it, with or without TLS.
    """

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        super().__init__()
        self._sock = sock
        self._file = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_seconds_until(self._deadline))
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _seconds_until(deadline: float) -> float:
    """Return the seconds that are left; raise TimeoutError if there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the answer was not complete in time")
    return left


def _read_user(status: int, body: bytes) -> User | None:
    """Return the user that an answer names, or None if it is a no.

    Raise _UnexpectedAnswer if it is neither.
    """
    if 400 <= status < 500 and status not in _TRY_LATER:
        if status not in {http.client.UNAUTHORIZED, http.client.FORBIDDEN}:
            # A no, but also what a wrong USERS_SERVICE_URL looks like.
            logger.warning("users-service answered a token lookup with status %s", status)
        return None
    if status != http.client.OK:
        raise _UnexpectedAnswer(f"status {status}")
    if len(body) > LARGEST_ANSWER_BYTES:
        raise _UnexpectedAnswer(f"more than {LARGEST_ANSWER_BYTES} bytes")
    try:
        answer = orjson.loads(body)
    except ValueError:
        raise _UnexpectedAnswer("a body that is not JSON") from None
    match answer:
        case {"status": "success", "data": {"active": False}}:
            return None
        case {"status": "success", "data": {"active": True, "id": user_id, **others}} if (
            type(user_id) is int and 1 <= user_id <= LARGEST_ID
        ):
            is_admin = others.get("admin") is True or answer.get("admin") is True
            return User(user_id, is_admin)
    raise _UnexpectedAnswer("JSON that names no user")
