"""More requests than can be carried, clients that are slow, and what stays of it."""

import http.client
import select
import socket
import statistics
import time
import unittest
from contextlib import ExitStack, contextmanager, suppress

import psycopg2

from project.tests.faults import harness
from project.tests.faults.flood import HEAD, flooded, held
from project.tests.faults.harness import (
    RECOVERY_SECONDS,
    TOKEN,
    FaultTestCase,
    Postgres,
    Service,
    visitors,
)
from project.tests.processes import LATENESS_SECONDS, wait_until

WORKERS, THREADS = 2, 8
# Ten times as many as there are threads.
CLIENTS = 10 * WORKERS * THREADS
FLOOD_SECONDS = 3.0
CALM_SECONDS = 0.5
SLOWEST_HEALTH_SECONDS = 1.0 + LATENESS_SECONDS
MEGABYTES = 64


def setUpModule():
    FaultTestCase.postgres = Postgres()
    unittest.addModuleCleanup(FaultTestCase.postgres.stop)
    OverloadTestCase.service = Service(
        FaultTestCase.postgres, WORKERS=str(WORKERS), THREADS=str(THREADS)
    )
    unittest.addModuleCleanup(OverloadTestCase.service.stop)


class OverloadTestCase(harness.CountsTestCase):
    def assert_alive(self, visits):
        """/health was answered, 99 times of 100 within a second."""
        self.assertEqual({visit.status for visit in visits}, {200})
        seconds = statistics.quantiles([visit.seconds for visit in visits], n=100)[98]
        self.report("the 99th percentile of /health", seconds)
        self.assertLess(seconds, SLOWEST_HEALTH_SECONDS)

    def seconds_of_increments(self):
        """Return how long an increment takes when nothing else goes on, the mean of some."""
        books = harness.Books()
        client = harness.Client(self.service.port, books, name="calm", count=50)
        began = time.monotonic()
        client.start()
        client.join(30)
        self.assertEqual(len(books.values), 50)
        return (time.monotonic() - began) / 50


class TestFlood(OverloadTestCase):
    def test_of_ten_times_what_it_has_threads_for_is_carried(self):
        with flooded(self.service, CLIENTS), visitors(self.service, "/health"):
            time.sleep(0.5)  # every thread there is has been started
        before = held(self.service)

        with flooded(self.service, CLIENTS) as flood, visitors(self.service, "/health") as visits:
            time.sleep(FLOOD_SECONDS)

        self.assert_alive(visits)
        self.assertLessEqual(set(flood.statuses), {200, 503}, flood.statuses)
        self.assertGreater(flood.statuses[200], CLIENTS)
        self.assertEqual(flood.hasty, 0)
        wait_until(lambda: held(self.service).descriptors <= before.descriptors + WORKERS * THREADS)
        after = held(self.service)
        self.assertLess(after.megabytes - before.megabytes, MEGABYTES)
        self.assertLessEqual(after.threads, before.threads + 2)
        self.assertTrue(self.service.audit("hot")["consistent"])
        self.assertLess(self.seconds_of_increments(), 0.1)

    def test_is_refused_where_postgres_is_slow_and_health_is_not(self):
        """Somebody holds the counter, so that everybody waits."""
        url = self.postgres.url.replace("+psycopg2", "")
        with flooded(self.service, CLIENTS):
            wait_until(lambda: self.service.get("/counters/hot")[0] == 200)
        holder = psycopg2.connect(url)
        try:
            holder.cursor().execute("SELECT FROM counters WHERE name = 'hot' FOR UPDATE")
            with (
                flooded(self.service, CLIENTS) as flood,
                visitors(self.service, "/health") as visits,
            ):
                time.sleep(FLOOD_SECONDS)
                holder.rollback()
                began, known = time.monotonic(), flood.statuses.get(200, 0)
                wait_until(
                    lambda: flood.statuses.get(200, 0) > known + CLIENTS, seconds=RECOVERY_SECONDS
                )
                self.report("after a lock the flood was carried again", time.monotonic() - began)
        finally:
            holder.close()

        self.assert_alive(visits)
        self.assertGreater(flood.statuses[503], 0)
        self.assertEqual(flood.hasty, 0)


class TestSlowClients(OverloadTestCase):
    @contextmanager
    def lines(self, count, beginning=b""):
        """Give so many connections, on each of which that much was sent."""
        with ExitStack() as stack:
            lines = []
            for _ in range(count):
                line = stack.enter_context(
                    socket.create_connection(("127.0.0.1", self.service.port))
                )
                line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                line.sendall(beginning)
                lines.append(line)
            yield lines

    def test_who_send_nothing_or_half_a_head_hinder_nobody(self):
        with (
            self.lines(1000),
            self.lines(200, b"GET /health HTTP/1.1\r\nHost: serv"),
            visitors(self.service, "/health", "/counters") as visits,
        ):
            self.assertLess(self.seconds_of_increments(), 0.1)
            time.sleep(CALM_SECONDS)
        self.assert_alive([visit for visit in visits if visit.path == "/health"])
        self.assert_answered(visits, "/health", "/counters")

    def test_who_ask_and_never_read_hinder_nobody(self):
        """As who has gone without a word: what is sent to them stays where it is.

        Of the two answers that each asked for, the first is there before anybody else asks.
        """
        asked = b"GET /openapi.json HTTP/1.1\r\nHost: service\r\n\r\n" * 2
        with self.lines(100, asked) as lines:
            wait_until(lambda: len(select.select(lines, [], [], 0)[0]) == len(lines))
            with visitors(self.service, "/health", "/counters") as visits:
                self.assertLess(self.seconds_of_increments(), 0.1)
                time.sleep(CALM_SECONDS)
            self.assertEqual({line.recv(12) for line in lines}, {b"HTTP/1.1 200"})
        self.assert_alive([visit for visit in visits if visit.path == "/health"])
        self.assert_answered(visits, "/health", "/counters")

    def test_who_send_a_body_byte_by_byte_hinder_nobody_for_long(self):
        head = f"{HEAD}Content-Length: 1000\r\n\r\n{{".encode()
        with self.lines(5 * WORKERS * THREADS, head) as lines:
            wait_until(lambda: not self.can_write())  # every seat is taken
            began = time.monotonic()
            with visitors(self.service, "/health", "/counters") as visits:
                wait_until(lambda: self.drips(lines) and self.can_write(), seconds=30)
            self.report("past slow bodies a write came through", time.monotonic() - began)
        self.assertLess(time.monotonic() - began, 10)
        self.assert_alive([visit for visit in visits if visit.path == "/health"])
        self.assert_answered(visits, "/health")

    def drips(self, lines):
        for line in lines:
            with suppress(OSError):
                line.send(b" ")
        return True

    def can_write(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=5)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        try:
            connection.request("POST", "/counters/calm/increment", '{"by": 1}', headers)
            return connection.getresponse().status == 200
        finally:
            connection.close()
