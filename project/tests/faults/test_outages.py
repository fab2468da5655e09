"""What PostgreSQL can do to the service, short of dying: each under load, and on its real files."""

import os
import shutil
import subprocess
import time
import unittest
from contextlib import ExitStack, closing, contextmanager, suppress

import psycopg2

from project.tests.faults import harness
from project.tests.faults.harness import (
    FaultTestCase,
    Postgres,
    Proxy,
    Service,
    visitors,
)
from project.tests.processes import wait_until

OUTAGE_SECONDS = 1.0
MOST_CONNECTIONS = 140
OPEN = ("/health", "/ready", "/counters/hot")


def setUpModule():
    FaultTestCase.postgres = postgres = Postgres()
    unittest.addModuleCleanup(postgres.stop)
    OutageTestCase.proxy = Proxy(postgres)
    unittest.addModuleCleanup(OutageTestCase.proxy.stop)
    with (postgres.folder / "postgresql.auto.conf").open("a") as settings:
        settings.write(
            f"max_connections = {MOST_CONNECTIONS}\n"
            "wal_recycle = off\nmin_wal_size = 32MB\nrestart_after_crash = off\n"
        )
    postgres.restart()
    OutageTestCase.service = Service(postgres, DATABASE_URL=OutageTestCase.proxy.url)
    unittest.addModuleCleanup(OutageTestCase.service.stop)


class OutageTestCase(harness.CountsTestCase):
    proxy: Proxy

    @contextmanager
    def outage(self, what, fault, *unharmed):
        """Let a fault last for a while, under load; then look at answers, books and log.

        The block is where the fault goes on; `fault` is a context that begins and ends it.
        """
        said = len(self.service.output())
        with self.under_load() as books:
            with visitors(self.service, *OPEN) as visits, fault:
                yield books
                time.sleep(OUTAGE_SECONDS)
            self.assert_recovers(books, what)
        slowest = max(visit.seconds for visit in visits)
        self.report(f"during {what} the slowest answer took", slowest)
        self.assert_answered(visits, "/health", *unharmed)
        self.visits = visits
        wait_until(self.service.is_ready)
        # Each request has its line, whatever became of it.
        lines = self.service.output()[said:].splitlines()
        self.lines = [line for line in lines if '"message":"request"' not in line]
        self.assertLess(len(self.lines), 40, self.lines[:40])

    def assert_said(self, what):
        """One line of each worker says it, or none where it has said so within the minute."""
        lines = [line for line in self.lines if what in line]
        self.assertGreater(len(lines), 0, self.lines)
        self.assertLessEqual(len(lines), 2 * len(self.service.workers), lines)


class TestHung(OutageTestCase):
    def test_postgres_that_hangs_is_not_waited_for(self):
        with self.outage("a PostgreSQL that hung", self.postgres.suspended()):
            time.sleep(2)
        self.assert_said("does not answer")
        self.assertIn(("/counters/hot", 503), {visit[:2] for visit in self.visits})


class TestStoppedInOrder(OutageTestCase):
    @contextmanager
    def stopped(self):
        self.postgres.halt()
        yield
        self.postgres.start()

    def test_postgres_that_is_started_again_is_used_again(self):
        with self.outage("a PostgreSQL that was stopped", self.stopped()):
            self.assertEqual(self.service.get("/ready")[0], 503)
        self.assertIn(("/counters/hot", 503), {visit[:2] for visit in self.visits})


class TestFull(OutageTestCase):
    @contextmanager
    def no_connection_left(self):
        """Take every connection that PostgreSQL has to give."""
        with ExitStack() as stack:
            url = self.postgres.url.replace("+psycopg2", "")
            first = stack.enter_context(closing(psycopg2.connect(url)))
            first.autocommit = True
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                with first.cursor() as cursor:
                    cursor.execute(
                        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                        " WHERE application_name = 'eval-service'"
                    )
                    [(others,)] = cursor.fetchall()
                with suppress(psycopg2.OperationalError):
                    while True:
                        stack.enter_context(closing(psycopg2.connect(url)))
                if not others:
                    break
            yield

    def test_postgres_without_a_connection_is_unavailable(self):
        with self.outage("a PostgreSQL without connections", self.no_connection_left()):
            pass
        self.assert_said("too many clients")


class TestReadOnly(OutageTestCase):
    @contextmanager
    def in_recovery(self):
        """Have PostgreSQL start as a standby, and promote it in the end."""
        (self.postgres.folder / "standby.signal").touch()
        self.postgres.restart()
        yield
        self.sql("SELECT pg_promote()")

    def test_postgres_in_recovery_is_read_and_not_written(self):
        with self.outage("a PostgreSQL in recovery", self.in_recovery()):
            self.assertEqual(self.service.get("/counters/hot")[0], 200)
        self.assert_said("read-only transaction")


class TestCut(OutageTestCase):
    @contextmanager
    def cuts(self):
        """Cut all connections twenty times, in the middle of whatever is on its way."""
        for _ in range(20):
            self.proxy.cut()
            time.sleep(0.05)
        yield

    def test_connections_lose_nothing_that_was_answered(self):
        with self.outage("connections that were cut", self.cuts()):
            pass


@unittest.skipUnless(os.getuid() == 0, "needs root, to mount a small disk")
class TestDiskFull(OutageTestCase):
    def setUp(self):
        super().setUp()
        self.log = self.postgres.folder / "pg_wal"
        self.move_log_to_a_small_disk()

    def move_log_to_a_small_disk(self):
        self.postgres.halt()
        kept = self.postgres.folder / "kept"
        self.log.rename(kept)
        self.log.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", self.log], check=False
        )
        if mounted.returncode == 0:
            self.addCleanup(self.move_log_back, kept)
        subprocess.run(["cp", "-a", f"{kept}/.", self.log], check=True)
        shutil.copystat(kept, self.log)
        os.chown(self.log, kept.stat().st_uid, kept.stat().st_gid)
        self.postgres.start()
        if mounted.returncode:
            self.skipTest("needs the right to mount a small disk")
        wait_until(self.service.is_ready)

    def move_log_back(self, kept):
        self.postgres.halt()
        shutil.rmtree(kept)
        subprocess.run(["cp", "-a", self.log, kept], check=True)
        subprocess.run(["umount", self.log], check=True)
        self.log.rmdir()
        kept.rename(self.log)
        self.postgres.start()

    @contextmanager
    def disk_full(self):
        """Fill the disk of the log; in the end make room, and start what has given up."""
        ballast = self.log / "ballast"
        with suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(65536))
        with suppress(psycopg2.Error):
            for _ in range(8):
                self.sql("SELECT pg_switch_wal(), pg_logical_emit_message(false, '', 'x')")
        yield
        ballast.unlink()
        if not self.postgres.is_running():
            self.postgres.start()

    def test_of_the_log_costs_nothing_that_was_answered(self):
        with self.outage("a disk that was full", self.disk_full()):
            self.assertEqual(self.service.get("/ready")[0], 503)
