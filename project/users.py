"""Client of users-service: token in, User or None out.

    users = UsersService("http://users-service:5000")
    users.who_is("abc")     # User(user_id=7), or None if users-service says no

Concurrent lookups of the same token share one request (single-flight). Every lookup has one
deadline, and its request runs in a thread of its own, because a name lookup cannot be interrupted:
a caller is free at the deadline in any case.

A bulkhead limits the requests in flight, and gives each client one of them at a time, so that a
client that sends random tokens cannot keep the lookups of others waiting. Positive and negative
answers are cached, apart from each other.

A circuit breaker stops the lookups for a while after some failures in a row. A failure is a
missing answer: a connection error, a timeout, or a 5xx. Any other answer proves that users-service
works, whatever it says about the token. Time in the queue of the bulkhead says nothing about it: a
timeout is no failure if the lookup spent more than half of its time there.

What users-service answers means:

    200 with a user                     yes, or no if the user is not active
    4xx, except 408 and 429             no
    408, 429, 1xx, 3xx, other 2xx,      neither; this lookup is unavailable
    200 of any other shape
    5xx, or no answer in time           neither; this lookup is unavailable, and a failure

    UsersService    caches and pending lookups
    _Lookup         one pending lookup and its result
    _ConnectionPool keep-alive connections
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
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from threading import Lock, Thread
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import orjson
from cachetools import TTLCache
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError

from project.bulkhead import BulkheadFull, FairBulkhead
from project.circuit_breaker import CircuitBreaker

logger = logging.getLogger(__name__)

# For how long a token counts as one that was valid before.
RECENT_SECONDS = 60 * 60
LARGEST_ANSWER_BYTES = 64 * 1024
LARGEST_ID = 2**63 - 1

# What fits into a header: printable latin-1. Any other text is certainly no token.
_SENDABLE = re.compile(r"[\x20-\x7e\xa0-\xff]{1,8192}")
# How users-service fails to answer: connection errors, timeouts, broken HTTP.
_FAILURES = (OSError, http.client.HTTPException, HTTPError)
# Client errors that say nothing about the token: Request Timeout, Too Many Requests.
_TRY_LATER = frozenset({http.client.REQUEST_TIMEOUT, http.client.TOO_MANY_REQUESTS})
# How a kept connection ends that the server closed while it was idle.
_CONNECTION_RESET = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


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


class _NoAnswer(Exception):
    """The lookup has finished without a yes or no."""


class Observer:
    """Receives the events of the client, to measure them; this one ignores them."""

    def on_cache_hit(self) -> None:
        """Count a token that was in the cache."""

    def on_short_circuit(self) -> None:
        """Count a lookup that the circuit breaker rejected."""

    def on_queue_timeout(self) -> None:
        """Count a lookup whose turn did not come in time."""

    def on_lookup(self, answer: str, seconds: float) -> None:
        """Measure a lookup whose answer was "yes", "no", or "none"."""

    def on_state_change(self, *, is_open: bool) -> None:
        """Note that the circuit breaker has opened or closed."""


class UsersService:
    """Looks up tokens in users-service, and caches its answers."""

    def __init__(  # noqa: PLR0913 - all but the address have a default that serves
        self,
        url: str,
        *,
        timeout_seconds: float = 2.0,
        cache_seconds: float = 30.0,
        invalid_cache_seconds: float = 5.0,
        cache_size: int = 10_000,
        failures_to_open: int = 3,
        open_seconds: float = 1.0,
        max_requests: int = 4,
        observer: Observer | None = None,
    ) -> None:
        """Use the users-service at `url`; a lookup takes `timeout_seconds` at most.

        At most `max_requests` are sent at a time, and one for each client; a quarter of them is
        reserved for tokens that were valid before. The other lookups wait for their turn.
        """
        self._observer = observer or Observer()
        self._timeout_seconds = timeout_seconds
        self._retry_after_seconds = max(1, math.ceil(open_seconds))
        self._connections = _ConnectionPool(url, max_requests)
        self._requests = FairBulkhead(max_requests, slots_per_client=1, reserved=max_requests // 4)
        # The lock guards all below; it is never held during a request.
        self._lock = Lock()
        self._cache: TTLCache[bytes, User] = TTLCache(cache_size, cache_seconds)
        # Apart from the valid ones, so that random tokens cannot evict them.
        self._invalid: TTLCache[bytes, bool] = TTLCache(cache_size, invalid_cache_seconds)
        self._recently_valid: TTLCache[bytes, bool] = TTLCache(cache_size, RECENT_SECONDS)
        self._pending: dict[bytes, _Lookup] = {}
        self._breaker = CircuitBreaker(failures_to_open, open_seconds, self._on_state_change)

    def known(self, token: str) -> User | None:
        """Return the user of a token from the cache, or None if the token is not in it."""
        with self._lock:
            user = self._cache.get(_digest(token))
        if user is not None:
            self._observer.on_cache_hit()
        return user

    def was_valid(self, token: str) -> bool:
        """Return whether the last answer for a token, in the last hour, was a yes."""
        with self._lock:
            return _digest(token) in self._recently_valid

    def who_is(
        self, token: str, client: str = "", headers: Mapping[str, str] = MappingProxyType({})
    ) -> User | None:
        """Return the user that the token belongs to, or None if users-service says no.

        Each `client` has one request at a time. `headers` are sent along if this call makes the
        request. Raises UsersUnavailable if there is neither a yes nor a no in time, and immediately
        if the circuit breaker is open.
        """
        if not _SENDABLE.fullmatch(token):
            return None
        key = _digest(token)
        with self._lock:
            if user := self._cache.get(key):
                return user
            if key in self._invalid:
                self._observer.on_cache_hit()
                return None
            if not self._breaker.allows(preferred=self._is_preferred(key)):
                raise self._short_circuit()
            # While the breaker is open no caller waits for a lookup that may well fail.
            lookup = None if self.is_open else self._pending.get(key)
            leads = lookup is None
            if lookup is None:
                deadline = time.monotonic() + self._timeout_seconds
                lookup = self._pending[key] = _Lookup(key, deadline)
        if leads:
            self._run(lookup, token, client, headers)
        return self._result_of(lookup)

    @property
    def is_open(self) -> bool:
        """Whether the circuit breaker is open: no lookups except one trial at a time."""
        return self._breaker.is_open

    def close(self) -> None:
        """Close the idle connections; pending lookups close their own."""
        self._connections.close()

    def _is_preferred(self, key: bytes) -> bool:
        """Return whether a lookup should be the trial of the breaker before any other one.

        A token that was valid before is more likely to be answered than one of an attacker.
        """
        return key in self._recently_valid or not self._recently_valid

    def _run(self, lookup: "_Lookup", token: str, client: str, headers: Mapping[str, str]) -> None:
        """Send the request when it is the client's turn, and finish the lookup in time."""
        try:
            was_valid = self.was_valid(token)
            with self._requests.slot(client, self._timeout_seconds, preferred=was_valid):
                if self._admit(lookup):
                    self._start(lookup, token, headers)
                    wait([lookup.result], lookup.deadline - time.monotonic())
                    self._time_out(lookup)  # unless it has finished
        except BulkheadFull:
            self._observer.on_queue_timeout()
        finally:
            self._finish(lookup, reason="it was not asked in time")  # unless it has finished

    def _admit(self, lookup: "_Lookup") -> bool:
        """Return whether the breaker allows the request of a lookup, which is sent now."""
        with self._lock:
            lookup.generation = self._breaker.admit(preferred=self._is_preferred(lookup.key))
        if lookup.generation is None:
            self._observer.on_short_circuit()
            return False
        lookup.started_at = time.monotonic()
        return True

    def _start(self, lookup: "_Lookup", token: str, headers: Mapping[str, str]) -> None:
        arguments = (lookup, token, headers)
        thread = Thread(target=self._ask, args=arguments, name="users-service", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no thread left
            self._finish(lookup, failure=str(error))

    def _ask(self, lookup: "_Lookup", token: str, headers: Mapping[str, str]) -> None:
        """Send the request and finish the lookup, whatever happens."""
        try:
            status, body = self._connections.get(token, lookup.deadline, headers)
            if status >= http.client.INTERNAL_SERVER_ERROR:
                self._finish(lookup, failure=f"status {status}")
            else:
                self._finish(lookup, _read_user(status, body))
        except _UnexpectedAnswer as error:
            logger.warning("users-service answered a token lookup with %s", error)
            self._finish(lookup, reason=str(error))
        except (TimeoutError, ConnectTimeoutError):
            self._time_out(lookup)
        except _FAILURES as error:
            self._finish(lookup, failure=f"{type(error).__name__}: {error}")
        finally:
            self._finish(lookup, failure="the lookup broke off")  # unless it has finished

    def _time_out(self, lookup: "_Lookup") -> None:
        """Finish a lookup whose request was not answered before its deadline."""
        if lookup.deadline - lookup.started_at < self._timeout_seconds / 2:
            self._finish(lookup, reason="it was sent too late to be answered in time")
        else:
            self._finish(lookup, failure="no answer in time")

    def _result_of(self, lookup: "_Lookup") -> User | None:
        """Wait for the result of a lookup; raise a new exception for each caller if it failed."""
        wait([lookup.result])
        if error := lookup.result.exception():
            raise self._unavailable(f"users-service said neither yes nor no: {error}")
        return lookup.result.result()

    def _finish(
        self,
        lookup: "_Lookup",
        user: User | None = None,
        *,
        failure: str | None = None,
        reason: str | None = None,
    ) -> None:
        """Finish the lookup, once: inform the breaker, the caches and the waiting callers.

        Of the two causes of a lookup without a result only `failure` counts for the breaker.
        """
        reason = failure or reason
        with self._lock:
            if lookup.result.done():
                return
            if lookup.generation is not None:
                answer = "none" if reason else "yes" if user else "no"
                self._observer.on_lookup(answer, time.monotonic() - lookup.started_at)
                self._breaker.report(lookup.generation, failure)
            if self._pending.get(lookup.key) is lookup:
                del self._pending[lookup.key]
            if reason:
                lookup.result.set_exception(_NoAnswer(reason))
            else:
                self._remember(lookup.key, user)
                lookup.result.set_result(user)

    def _remember(self, key: bytes, user: User | None) -> None:
        if user is None:
            self._invalid[key] = True
            self._recently_valid.pop(key, None)
        else:
            self._cache[key] = user
            self._recently_valid[key] = True

    def _on_state_change(self, is_open: bool, failure: str | None) -> None:
        self._observer.on_state_change(is_open=is_open)
        if is_open:
            logger.warning("users-service is away, breaker open: %s", failure)
        else:
            logger.info("users-service is back, breaker closed")

    def _short_circuit(self) -> UsersUnavailable:
        self._observer.on_short_circuit()
        return self._unavailable("users-service is away, so it was not asked")

    def _unavailable(self, reason: str) -> UsersUnavailable:
        return UsersUnavailable(reason, self._retry_after_seconds)


@dataclass(eq=False, slots=True)
class _Lookup:
    """A pending lookup, whose result the callers with that token share."""

    key: bytes
    deadline: float
    # Of the circuit breaker; None until the request is sent.
    generation: int | None = None
    started_at: float = 0.0
    result: Future[User | None] = field(default_factory=Future)


def _digest(token: str) -> bytes:
    """Return the key of a token, so that none stays in memory."""
    return sha256(token.encode("latin-1", "replace")).digest()


class _ConnectionPool:
    """Connection pool: keep-alive connections to users-service, and requests over them."""

    def __init__(self, url: str, size: int) -> None:
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
        self._size = size
        self._lock = Lock()
        self._idle: list[HTTPConnection] = []

    def get(self, token: str, deadline: float, others: Mapping[str, str]) -> tuple[int, bytes]:
        """Return status and body of users-service's answer; of a large body only its beginning."""
        headers = {**others, "Authorization": f"Bearer {token}", "Accept": "application/json"}
        idle = self._take()
        if idle is not None:
            try:
                return self._exchange(idle, headers, deadline)
            except _CONNECTION_RESET:
                pass  # The server closed it while it was idle. Asking twice changes nothing.
        return self._exchange(self._connect(), headers, deadline)

    def close(self) -> None:
        """Close the idle connections and keep none from now on."""
        with self._lock:
            self._size = 0
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
            if len(self._idle) < self._size and not connection.is_closed:
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
