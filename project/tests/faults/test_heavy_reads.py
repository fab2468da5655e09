"""Expensive reads: many clients that request them must not block writes or light reads."""

import http.client
import threading
import time
import unittest
from collections import Counter
from contextlib import contextmanager, suppress

from sqlalchemy import text

from project import db
from project.tests.faults import harness
from project.tests.faults.harness import TOKEN, FaultTestCase, Postgres, Service
from project.tests.processes import LATENESS_SECONDS

WORKERS, THREADS = 2, 8
READERS = 64
ATTACK_SECONDS = 2.5
SLOWEST_WRITE_SECONDS = 1.0 + LATENESS_SECONDS
PATHS = ("/dashboard", "/scores/leaderboard")

# Answers of 4000 learners to 100 exercises, all of them within the last 30 days.
FILL = (
    """
    INSERT INTO scores (user_id, exercise_id, correct, correct_attempts, solved_at, created_at,
                        updated_at)
    SELECT user_id, exercise_id, correct, CAST(correct AS integer),
           CASE WHEN correct THEN at END, at, at
      FROM generate_series(1, 4000) AS user_id,
           generate_series(1, 100) AS exercise_id,
           CAST(hashint8(user_id * 1000 + exercise_id) % 2 = 0 AS boolean) AS correct,
           CAST(now() - make_interval(secs => 6 * (4000 * exercise_id + user_id)) AS timestamptz)
           AS at
    """,
    """
    INSERT INTO attempts (user_id, exercise_id, seq, at, correct)
    SELECT user_id, exercise_id, 1, created_at, correct FROM scores
    """,
)


def setUpModule():
    FaultTestCase.postgres = Postgres()
    unittest.addModuleCleanup(FaultTestCase.postgres.stop)
    TestHeavyReads.service = Service(
        FaultTestCase.postgres, WORKERS=str(WORKERS), THREADS=str(THREADS)
    )
    unittest.addModuleCleanup(TestHeavyReads.service.stop)


class Requester(threading.Thread):
    """Sends one request again and again, and records every response."""

    def __init__(self, port, method, path, body=None):
        super().__init__(daemon=True)
        self.port, self.request = port, (method, path, body)
        self.statuses = Counter()
        self.seconds = []
        self.without_retry_after = 0
        self.stopping = threading.Event()

    def run(self):
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        while not self.stopping.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            with suppress(OSError, http.client.HTTPException):
                while not self.stopping.wait(0.02):
                    began = time.monotonic()
                    connection.request(*self.request, headers)
                    response = connection.getresponse()
                    response.read()
                    self.seconds.append(time.monotonic() - began)
                    self.statuses[response.status] += 1
                    if response.status == 503 and not response.getheader("Retry-After"):
                        self.without_retry_after += 1
            connection.close()


@contextmanager
def requesting(*requesters):
    for requester in requesters:
        requester.start()
    try:
        yield
    finally:
        for requester in requesters:
            requester.stopping.set()
        for requester in requesters:
            requester.join(30)


class TestHeavyReads(harness.CountsTestCase):
    def setUp(self):
        super().setUp()
        with self.postgres.app(), db.unhurried(), db.engine.begin() as connection:
            for statement in FILL:
                connection.execute(text(statement))

    def test_heavy_reads_do_not_refuse_or_delay_writes(self):
        for path in PATHS:
            with self.subTest(path):
                self.assert_writes_succeed_during(f"{path}?window=month")

    def assert_writes_succeed_during(self, path):
        port = self.service.port
        readers = [Requester(port, "GET", path) for _ in range(READERS)]
        answer = '{"exercise_id": 1, "correct": true}'
        others = [
            Requester(port, "PATCH", "/scores", answer),
            Requester(port, "POST", "/counters/calm/increment", '{"by": 1}'),
            Requester(port, "GET", "/counters"),
            Requester(port, "GET", "/scores/leaderboard"),
        ]

        with requesting(*readers), requesting(*others):
            time.sleep(ATTACK_SECONDS)

        statuses = sum((reader.statuses for reader in readers), Counter())
        self.report(f"{path} answered {dict(statuses)}", ATTACK_SECONDS)
        for other in others:
            slowest = max(other.seconds)
            self.report(f"meanwhile {len(other.seconds)} {other.request[:2]}, the slowest", slowest)
            self.assertLessEqual(set(other.statuses), {200, 201}, other.request)
            self.assertLess(slowest, SLOWEST_WRITE_SECONDS, other.request)
        self.assertLessEqual(set(statuses), {200, 503})
        self.assertGreater(statuses[200], 0)
        self.assertEqual(sum(reader.without_retry_after for reader in readers), 0)
