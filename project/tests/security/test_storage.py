"""Attacks on the storage of a running service, each by one caller, while others use it."""

import http.client
import json
import threading
import time
import unittest
from contextlib import closing, contextmanager, suppress

import psycopg2

from project.tests.faults.harness import SECRET, TOKEN, Postgres, Service
from project.tokens import Tokens
from project.users import User

LEARNER = Tokens(SECRET).issue(User(7), days=1)
# Low enough that an attack of a few seconds reaches them on a slow machine, too.
SETTINGS = {"ANONYMOUS_LIMIT": "50/hour", "STORED_RESPONSE_BYTES_PER_DAY": "500000"}
ATTACK_SECONDS = 3
CONNECTIONS = 8
OTHERS_SECONDS = 1.0


class TestStorageAttacks(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.postgres = Postgres()
        cls.addClassCleanup(cls.postgres.stop)
        cls.service = Service(cls.postgres, WORKERS="2", **SETTINGS)
        cls.addClassCleanup(cls.service.stop)

    def setUp(self):
        self.query("TRUNCATE counter_usage, idempotency_usage, idempotency_keys")
        self.send("POST", "/counters/victim/increment", TOKEN)

    def query(self, statement):
        """Return the first value of a statement, if it has one."""
        url = self.postgres.url.replace("+psycopg2", "")
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchone()[0] if cursor.description else None

    def send(self, method, path, token=None, body=None, connection=None, **headers):
        """Return the status of a response."""
        own = connection or http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=10)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if body:
            headers["Content-Type"] = "application/json"
        own.request(method, path, json.dumps(body) if body else None, headers)
        response = own.getresponse()
        response.read()
        if connection is None:
            own.close()
        return response.status

    @contextmanager
    def others(self):
        """Yield the durations of a service's increments, which continue during the block."""
        durations, ended = [], threading.Event()

        def increment():
            while not ended.wait(0.02):
                began = time.monotonic()
                status = self.send("POST", "/counters/victim/increment", TOKEN)
                durations.append((time.monotonic() - began, status))

        thread = threading.Thread(target=increment)
        thread.start()
        try:
            yield durations
        finally:
            ended.set()
            thread.join()

    def attack(self, request):
        """Send `request(number)` as often as possible; return the statuses by their number."""
        statuses = {}
        deadline = time.monotonic() + ATTACK_SECONDS

        def repeat(worker):
            connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=10)
            number = worker
            while time.monotonic() < deadline:
                arguments = request(number)
                with suppress(OSError, http.client.HTTPException):
                    status = self.send(connection=connection, **arguments)
                    statuses[status] = statuses.get(status, 0) + 1
                number += CONNECTIONS
            connection.close()

        size = self.query("SELECT pg_database_size(current_database())")
        with self.others() as durations:
            threads = [threading.Thread(target=repeat, args=(n,)) for n in range(CONNECTIONS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        grown = (self.query("SELECT pg_database_size(current_database())") - size) / 1e6
        slowest = max(duration for duration, _ in durations)
        print(f"{self.id().rpartition('.')[2]}: {statuses}, {grown:.1f} MB, others {slowest:.2f} s")
        self.assertEqual({status for _, status in durations}, {200})
        self.assertLess(slowest, OTHERS_SECONDS)
        return statuses, grown

    def test_learner_cannot_fill_the_disk_with_new_counters(self):
        def request(number):
            names = {f"attack:{number}:{index}:{'n' * 100}": 1 for index in range(200)}
            path = "/counters/increment"
            return {"method": "POST", "path": path, "token": LEARNER, "body": {"increments": names}}

        statuses, grown = self.attack(request)

        self.assertEqual(set(statuses), {200, 429})
        self.assertEqual(statuses[200], 5)
        counters = self.query("SELECT count(*) FROM counters WHERE name LIKE 'attack:%'")
        self.assertEqual(counters, 1000)
        self.assertLess(grown, 5)

    def test_learner_cannot_fill_the_disk_with_stored_responses(self):
        names = {f"known:{index}:{'n' * 100}": 1 for index in range(200)}
        self.send("POST", "/counters/increment", TOKEN, {"increments": names})

        def request(number):
            return {
                "method": "POST", "path": "/counters/increment", "token": LEARNER,
                "body": {"increments": names}, "Idempotency-Key": f"k{number}",
            }  # fmt: skip

        statuses, _ = self.attack(request)

        self.assertEqual(set(statuses), {200, 429})
        stored = self.query("SELECT sum(octet_length(body)) FROM idempotency_keys")
        self.assertLessEqual(stored, 500_000)

    def test_home_page_is_not_counted_without_limit(self):
        before = self.service.value("public:home")

        statuses, _ = self.attack(lambda _: {"method": "GET", "path": "/"})

        self.assertEqual(set(statuses), {200})
        self.assertGreater(statuses[200], 2 * 50)
        # Each of the two workers counts by itself unless they share a storage.
        self.assertLessEqual(self.service.value("public:home") - before, 2 * 50)
