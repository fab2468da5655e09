"""Answers for users-service in tests: a real HTTP server on loopback, faults included.

    with FakeUsersService() as fake:
        UsersService(fake.url).who_is("test")     # User(user_id=998877, is_admin=True)
        fake.behaviour = hang                     # and from now on it never answers

A behaviour is a callable that is given the request's handler. It answers through it, or breaks
something; where it waits, it waits on `handler.fake.released`, or on the connection, so that
`stop()` can end it.
"""

import json
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, Self

PATH = "/auth/status"
LONGEST_FAULT_SECONDS = 30


class FakeUsersService:
    """A users-service that knows four tokens and does whatever `behaviour` says."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tokens: dict[str, dict[str, Any]] = {
            "test": person(998877, "test", admin=True),
            "learner": person(7, "learner"),
            "other": person(8, "other"),
            "inactive": person(9, "inactive", active=False),
        }
        self.behaviour: Behaviour = answer_truly
        self.released = Event()
        self._tls = tls
        self._port = 0
        self._lock = Lock()
        self._questions: list[dict[str, str]] = []
        self._connections: set[socket.socket] = set()
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def questions(self) -> int:
        """How many questions were asked so far."""
        with self._lock:
            return len(self._questions)

    @property
    def last_question(self) -> dict[str, str]:
        """The header fields of the last question, and its path as `path`."""
        with self._lock:
            return self._questions[-1]

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        with self._lock:
            return len(self._connections)

    def start(self) -> Self:
        """Serve, on the same port as before where it was stopped."""
        self.released.clear()
        self._server = _Server(self, self._port, self._tls)
        self._port = self._server.server_port
        Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.01},
            name="fake-users",
            daemon=True,
        ).start()
        return self

    def stop(self) -> None:
        """Refuse connections, close the open ones, and let go of whoever waits in a fault."""
        server, self._server = self._server, None
        if server is None:
            return
        self.released.set()
        server.shutdown()
        server.server_close()
        self.hang_up()

    def hang_up(self) -> None:
        """Close every connection, as a server does with idle ones."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def note_question(self, fields: dict[str, str]) -> None:
        with self._lock:
            self._questions.append(fields)

    def note_connection(self, connection: socket.socket, is_open: bool) -> None:
        with self._lock:
            (self._connections.add if is_open else self._connections.discard)(connection)


class Handler(BaseHTTPRequestHandler):
    """One connection; hands each of its questions to the behaviour of the moment."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # Buffered, so that header and body leave as one packet; faults that drip flush by themselves.
    wbufsize = -1

    server: "_Server"

    @property
    def fake(self) -> FakeUsersService:
        return self.server.fake

    def setup(self) -> None:
        super().setup()
        self.question_on_connection = 0
        self.fake.note_connection(self.connection, True)

    def finish(self) -> None:
        self.fake.note_connection(self.connection, False)
        with suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        self.question_on_connection += 1
        self.fake.note_question({"path": self.path, **dict(self.headers)})
        try:
            self.fake.behaviour(self)
            self.wfile.flush()
        except OSError:  # the client has hung up
            self.close_connection = True

    def answer(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


Behaviour = Callable[[Handler], None]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, fake: FakeUsersService, port: int, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.fake = fake
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients of a faulty server hang up as they like."""


def person(user_id: int, name: str, *, active: bool = True, admin: bool = False) -> dict[str, Any]:
    """Return what users-service knows about somebody."""
    return {
        "id": user_id,
        "username": name,
        "email": f"{name}@example.org",
        "active": active,
        "admin": admin,
        "created_at": "2026-01-01T00:00:00Z",
    }


def answer_truly(handler: Handler) -> None:
    """Answer as users-service does."""
    scheme, _, token = handler.headers.get("Authorization", "").partition(" ")
    known = handler.fake.tokens.get(token)
    if handler.path != PATH:
        fail(handler, 404, "Not found.")
    elif not scheme:
        fail(handler, 403, "Provide a valid auth token.")
    elif known is None:
        fail(handler, 401, "Invalid token.")
    else:
        success = {"status": "success", "message": "Success.", "data": known}
        handler.answer(200, json.dumps(success).encode())


def fail(handler: Handler, status: int, message: str) -> None:
    handler.answer(status, json.dumps({"status": "fail", "message": message}).encode())


def answers(status: int, body: Any, content_type: str = "application/json") -> Behaviour:
    """Return a behaviour that always answers this: bytes as they are, all else as JSON."""
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda handler: handler.answer(status, encoded, content_type)


def redirects_to(url: str) -> Behaviour:
    """Return a behaviour that sends everybody elsewhere."""

    def redirect(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", url)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return redirect


def hang(handler: Handler) -> None:
    """Take the question and never answer, until the client or `stop()` hangs up."""
    handler.rfile.read(1)
    handler.close_connection = True


def close_at_once(handler: Handler) -> None:
    """Hang up without an answer."""
    handler.close_connection = True


def close_when_reused(handler: Handler) -> None:
    """Answer the first question of a connection, and hang up on the second."""
    (answer_truly if handler.question_on_connection == 1 else close_at_once)(handler)


def break_off(handler: Handler) -> None:
    """Promise a longer body than is sent."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b'{"status": "success"')
    handler.close_connection = True


def drip_header(handler: Handler) -> None:
    """Send a header that grows by a byte now and then, and never ends."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
    drip(handler, b"x")


def drip_body(handler: Handler) -> None:
    """Send a body that grows by a byte now and then, and never ends."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
    drip(handler, b" ")


def drip_chunks(handler: Handler) -> None:
    """Send a body in chunks of a byte, and never the last of them."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    drip(handler, b"1\r\n \r\n")


def drip(handler: Handler, drop: bytes) -> None:
    handler.close_connection = True
    handler.wfile.flush()
    for _ in range(LONGEST_FAULT_SECONDS * 50):
        if handler.fake.released.wait(0.02):
            return
        handler.wfile.write(drop)
        handler.wfile.flush()


def flood(handler: Handler) -> None:
    """Send 10 MB of JSON."""
    handler.answer(200, b'{"status": "success", "more": "' + b"x" * 10_000_000 + b'"}')
