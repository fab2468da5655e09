"""Attacks by which one caller tries to take the service away from all others."""

import http.client
import re
import socket
import struct
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from project.tests.faults.harness import (
    SECRET,
    TOKEN,
    FaultTestCase,
    Postgres,
    Service,
    visitors,
)
from project.tests.processes import LATENESS_SECONDS, wait_until
from project.tokens import Tokens
from project.users import User

THREADS = 16
MAX_MEGABYTES = 250
ANSWER_SECONDS = 1.0 + LATENESS_SECONDS
PATH = "/counters/public:home/increment"
LEARNER_TOKEN = Tokens(SECRET).issue(User(8), days=1)

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HTTP2_SETTINGS, HTTP2_HEADERS, HTTP2_DATA = 4, 1, 0
HTTP2_END_HEADERS = 4


def setUpModule():
    FaultTestCase.postgres = Postgres()
    unittest.addModuleCleanup(FaultTestCase.postgres.stop)
    ExhaustionTestCase.service = Service(
        FaultTestCase.postgres, WORKERS="1", THREADS=str(THREADS), ANONYMOUS_LIMIT="20/minute"
    )
    unittest.addModuleCleanup(ExhaustionTestCase.service.stop)


def frame(kind, stream, payload=b"", flags=0):
    """Return an HTTP/2 frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def http2_headers(path):
    """Return the header block of a POST with a JSON body of 1000 bytes (RFC 7541)."""

    def literal(name_index, value):
        # A literal without indexing; an index of 15 or more continues in a second byte.
        name = [name_index] if name_index < 15 else [15, name_index - 15]
        return bytes([*name, len(value)]) + value.encode()

    method_post, scheme_http = b"\x83", b"\x86"
    return (
        method_post
        + scheme_http
        + literal(1, "service")
        + literal(4, path)
        + literal(31, "application/json")
        + literal(28, "1000")
    )


class ExhaustionTestCase(FaultTestCase):
    service: Service

    def connect(self, address="127.0.0.1", receive_buffer=None):
        """Return a connection to the service from an address of this machine."""
        connection = socket.socket()
        self.addCleanup(connection.close)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(10)
        connection.bind((address, 0))
        connection.connect(("127.0.0.1", self.service.port))
        return connection

    def post(self, path, body, token=None):
        """Send a body; return the status and the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=10)
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # rejected before it is read
                connection.request("POST", path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        except ConnectionResetError:  # before the answer was read
            return 0, b""
        finally:
            connection.close()

    def can_write(self):
        return self.post("/counters/calm/increment", b'{"by": 1}', TOKEN)[0] == 200

    def assert_slots_free(self):
        wait_until(self.can_write, seconds=2 + LATENESS_SECONDS)
        self.assertEqual([self.can_write() for _ in range(2 * THREADS)], [True] * 2 * THREADS)

    def peak_megabytes(self):
        """Return how much memory the worker has ever had."""
        status = Path(f"/proc/{self.service.workers[0].pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024

    @contextmanager
    def others(self):
        """Assert that other callers are answered in time, and that the worker stays small."""
        with visitors(self.service, "/health", "/counters") as visits:
            yield
        megabytes = self.peak_megabytes()
        print(f"peak {megabytes:.0f} MB; slowest {max(visit.seconds for visit in visits):.2f} s")
        self.assertLess(megabytes, MAX_MEGABYTES)
        for visit in visits:
            self.assertEqual(visit.status, 200, visit)
            self.assertLess(visit.seconds, ANSWER_SECONDS, visit)


class TestHttp2(ExhaustionTestCase):
    def test_http2_burst_of_unfinished_bodies_leaves_body_slots_free(self):
        connection = self.connect()
        connection.sendall(HTTP2_PREFACE + frame(HTTP2_SETTINGS, 0))
        headers = http2_headers(PATH)
        with suppress(OSError):  # the server may have closed it already
            for stream in range(1, 2 * 96, 2):
                connection.sendall(
                    frame(HTTP2_HEADERS, stream, headers, HTTP2_END_HEADERS)
                    + frame(HTTP2_DATA, stream, b'{"by": ')
                )
            time.sleep(1)  # until the server has read them
        connection.close()

        self.assert_slots_free()


class TestUnfinishedBodies(ExhaustionTestCase):
    def head(self, *fields):
        lines = (
            "POST /counters/unfinished/increment HTTP/1.1",
            "Host: service",
            f"Authorization: Bearer {TOKEN}",
            "Content-Type: application/json",
            *fields,
        )
        return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"

    def test_unfinished_bodies_free_their_slots_when_connections_close(self):
        variants = {
            "content-length": self.head("Content-Length: 1000") + b'{"by": 1}',
            "chunked": self.head("Transfer-Encoding: chunked") + b"5\r\n{ \r\n",
            "expect": self.head("Content-Length: 1000", "Expect: 100-continue"),
        }
        for name, beginning in variants.items():
            with self.subTest(name):
                connections = [self.connect() for _ in range(96)]
                for connection in connections:
                    connection.sendall(beginning)
                time.sleep(1)  # until the service reads them

                for connection in connections:
                    connection.close()

                self.assert_slots_free()
        self.assertEqual(self.service.get("/counters/unfinished")[0], 404)


class TestSlowBodies(ExhaustionTestCase):
    """Each address of 127.0.0.0/8 is a client of its own here."""

    BEGINNING = (
        f"POST /counters/slow/increment HTTP/1.1\r\nHost: service\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
        "Content-Length: 1000\r\n\r\n{"
    ).encode()

    def drip(self, connections):
        for connection in connections:
            with suppress(OSError):
                connection.send(b" ")
        time.sleep(0.2)
        return True

    def test_slow_bodies_of_one_address_leave_slots_to_others(self):
        connections = [self.connect("127.0.0.2") for _ in range(200)]
        for connection in connections:
            connection.sendall(self.BEGINNING)
        time.sleep(1)
        began = time.monotonic()

        with self.others():
            for _ in range(10):
                self.drip(connections)
                self.assertTrue(self.can_write())

        self.assertLess(time.monotonic() - began, 10 * ANSWER_SECONDS)

    def test_slow_bodies_are_ended_when_they_fall_below_the_minimum_rate(self):
        connections = [self.connect() for _ in range(96)]
        for connection in connections:
            connection.sendall(self.BEGINNING)
        wait_until(lambda: not self.can_write())

        wait_until(lambda: self.drip(connections) and self.can_write(), seconds=15)

    def test_slow_body_is_ended_while_an_earlier_response_is_sent(self):
        """The kernel says then that data were sent just now, so its statistics are no help."""
        connections = [self.connect(receive_buffer=4096) for _ in range(24)]
        for connection in connections:
            asked = b"GET /openapi.json HTTP/1.1\r\nHost: service\r\n\r\n"
            connection.sendall(3 * asked + self.BEGINNING)
        deadline = time.monotonic() + 20 + LATENESS_SECONDS

        with ThreadPoolExecutor(len(connections)) as pool:
            ended = list(pool.map(lambda one: self.read_slowly(one, deadline), connections))

        self.assertEqual(set(ended), {True})
        self.assert_slots_free()

    def read_slowly(self, connection, deadline):
        """Read a little of the response every second; return whether the connection ends."""
        with suppress(ConnectionError):
            while time.monotonic() < deadline:
                connection.send(b" ")
                connection.recv(4096)
                time.sleep(1)
            return False
        return True


class TestMemory(ExhaustionTestCase):
    def attack(self, count, path, body, token=None):
        with self.others(), ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: self.post(path, body, token), range(3 * count)))

    def unknown_fields(self):
        fields = ",".join(f'"{number:x}":0' for number in range(930_000 // 9))
        return f"{{{fields}}}".encode()

    def test_anonymous_bodies_of_unknown_fields_are_limited(self):
        answers = self.attack(16, PATH, self.unknown_fields())

        statuses = {status for status, _ in answers}
        self.assertLessEqual(statuses, {400, 429, 503})
        self.assertIn(429, statuses)
        self.assertLess(max(len(answer) for _, answer in answers), 10_000)

    def test_bodies_of_unknown_fields_with_a_token_take_little_memory(self):
        answers = self.attack(32, "/scores", self.unknown_fields(), LEARNER_TOKEN)

        self.assertLessEqual({status for status, _ in answers}, {400, 503})
        self.assertLess(max(len(answer) for _, answer in answers), 10_000)

    def test_batches_of_callers_without_permission_are_not_read(self):
        item = b'{"user_id": 8, "exercise_id": 1, "correct": true},'
        body = b'{"scores": [' + item * (8 * 2**20 // len(item) - 2) + item[:-1] + b"]}"

        answers = self.attack(32, "/scores/batch", body, LEARNER_TOKEN)

        self.assertLessEqual({status for status, _ in answers}, {403, 0})
        self.assertIn(403, {status for status, _ in answers})


class TestIdleConnections(ExhaustionTestCase):
    def test_idle_connections_are_closed_and_do_not_block_others(self):
        beginnings = (b"", b"GET /health HTTP/1.1\r\nX: " + b"x" * 15_000)
        connections = [self.connect() for _ in range(400)]
        for number, connection in enumerate(connections):
            connection.sendall(beginnings[number % 2])

        with self.others():
            began = time.monotonic()
            for connection in connections:
                connection.settimeout(15)
                with suppress(ConnectionResetError):
                    self.assertEqual(connection.recv(1), b"")

        self.assertLess(time.monotonic() - began, 10 + LATENESS_SECONDS)
