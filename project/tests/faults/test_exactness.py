"""What was answered is stored, and nothing else is; whatever is killed in between."""

import os
import subprocess
import sys
import time
import unittest
from subprocess import PIPE

from project.server import GRACE_SECONDS
from project.tests.faults import harness
from project.tests.faults.harness import (
    Books,
    Client,
    FaultTestCase,
    Postgres,
    Service,
    load,
)
from project.tests.processes import ROOT, is_alive, wait_until


def setUpModule():
    FaultTestCase.postgres = Postgres()
    unittest.addModuleCleanup(FaultTestCase.postgres.stop)
    harness.CountsTestCase.service = Service(FaultTestCase.postgres, WORKERS="3")
    unittest.addModuleCleanup(harness.CountsTestCase.service.stop)


class TestManyClients(harness.CountsTestCase):
    def test_gives_each_of_64_clients_on_3_workers_values_of_its_own(self):
        books = Books()
        crew = [Client(self.service.port, books, name="hot", count=40) for _ in range(64)]

        for client in crew:
            client.start()
        for client in crew:
            client.join(60)

        self.assertEqual(sorted(books.values), list(range(1, 64 * 40 + 1)))
        self.assert_nothing_lost(books)
        self.assertEqual(books.failed, 0)

    def test_counts_as_exactly_over_many_names(self):
        books = [Books() for _ in range(8)]
        crew = [
            Client(self.service.port, books[number % 8], name=f"c{number % 8}", count=30)
            for number in range(64)
        ]

        for client in crew:
            client.start()
        for client in crew:
            client.join(60)

        for number in range(8):
            self.assertEqual(sorted(books[number].values), list(range(1, 241)))
            self.assertEqual(self.service.value(f"c{number}"), 240)


class TestKilled(harness.CountsTestCase):
    def test_worker_costs_nothing_that_was_answered(self):
        before = {worker.pid for worker in self.service.workers}

        with self.under_load(pause=0):
            self.service.kill_worker()
            began = time.monotonic()
            wait_until(lambda: {worker.pid for worker in self.service.workers} - before)
            seconds = time.monotonic() - began

        self.report("a killed worker was replaced after", seconds)

    def test_service_costs_nothing_that_was_answered(self):
        with self.under_load(pause=0):
            self.service.kill()
            began = time.monotonic()
            self.service.start()
            seconds = time.monotonic() - began

        self.report("a killed service answered again after", seconds)

    def test_postgres_costs_nothing_that_was_answered(self):
        with self.under_load(pause=0) as books:
            self.postgres.kill()
            time.sleep(0.2)
            self.postgres.start()
            self.assert_recovers(books, "a killed PostgreSQL was back")

    def test_parent_takes_its_workers_along(self):
        workers = self.service.workers

        self.service.process.kill()
        self.service.process.wait(10)

        wait_until(lambda: not any(is_alive(worker.pid) for worker in workers), seconds=10)


class TestTermination(harness.CountsTestCase):
    def test_answers_what_was_committed_and_ends_in_time(self):
        with load(self.service, 32, pause=0) as books:
            began = time.monotonic()
            code = self.service.terminate()
            seconds = time.monotonic() - began
            self.report("under load the service ended after", seconds)

        self.assertEqual(code, 0, self.service.output())
        self.assertLess(seconds, GRACE_SECONDS, "a worker was killed")
        answered = len(books.values)
        self.service.start()
        self.assertEqual(self.service.value("hot"), answered)
        self.assertTrue(self.service.audit("hot")["consistent"])


class TestCrossingBatches(harness.CountsTestCase):
    """Two processes write the same rows in a thousand batches, each in another order."""

    def cross(self, what):
        """Run two processes of crossing.py; return what they say went wrong."""
        command = [sys.executable, "-m", "project.tests.faults.crossing", what]
        environment = os.environ | {"DATABASE_TEST_URL": self.postgres.url}
        both = [
            subprocess.Popen([*command, seed], env=environment, stdout=PIPE, cwd=ROOT, text=True)
            for seed in ("1", "2")
        ]
        return [process.communicate(timeout=60)[0].strip() for process in both]

    def deadlocks(self):
        [(count,)] = self.sql("SELECT sum(deadlocks) FROM pg_stat_database")
        return count

    def test_of_counters_never_wait_in_a_circle(self):
        self.assertEqual(self.cross("counters"), ["500 done", "500 done"])

        self.assertEqual(self.deadlocks(), 0)
        self.assertEqual(self.sql("SELECT DISTINCT value FROM counters"), [(1000,)])

    def test_of_scores_never_wait_in_a_circle(self):
        self.assertEqual(self.cross("scores"), ["500 done", "500 done"])

        self.assertEqual(self.deadlocks(), 0)
        self.assertEqual(self.sql("SELECT DISTINCT attempts FROM scores"), [(1000,)])
