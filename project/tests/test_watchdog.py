"""The watchdog on sockets that say nothing, and the log that says a thing once."""

import logging
import socket
import time
import unittest
from contextlib import contextmanager

import psycopg2
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from project.postgres import DIALECT
from project.seldom import Seldom
from project.tests.base import database_url
from project.tests.processes import wait_until
from project.watchdog import Watchdog


class TestWatchdog(unittest.TestCase):
    """A real connection is out, and what the watchdog asks over is a server that may be mute."""

    def setUp(self):
        self.url = database_url()
        # Where the watchdog finds PostgreSQL.
        _, self.place = DIALECT.create_connect_args(self.url)

    @contextmanager
    def watched(self, longest_seconds):
        """Give a connection that is watched."""
        watchdog = Watchdog(
            lambda: psycopg2.connect("", async_=True, **self.place), longest_seconds
        )
        engine = create_engine(self.url, poolclass=NullPool)
        watchdog.guard(engine)
        watchdog.start()
        connection = engine.raw_connection()
        try:
            yield connection, watchdog
        finally:
            connection.close()

    def sleep(self, connection, seconds):
        connection.cursor().execute(f"SELECT pg_sleep({seconds})")

    def test_lets_those_be_who_have_time_left(self):
        with self.watched(10) as (connection, _):
            self.sleep(connection, 1)

    def test_cuts_who_is_overdue_though_postgres_answers(self):
        began = time.monotonic()
        with self.watched(0.6) as (connection, watchdog):
            with self.assertRaises(psycopg2.OperationalError):
                self.sleep(connection, 20)
            connection.invalidate()
            watchdog.refuse_while_it_hangs()
        self.assertLess(time.monotonic() - began, 10)

    def test_cuts_all_and_gives_none_while_postgres_is_mute(self):
        with (
            socket.create_server(("127.0.0.1", 0)) as mute,
            self.watched(60) as (connection, watchdog),
        ):
            host, port = mute.getsockname()
            self.place, true_place = {"host": host, "port": port}, self.place
            with self.assertRaises(psycopg2.OperationalError):
                self.sleep(connection, 20)
            with self.assertRaises(psycopg2.OperationalError):
                watchdog.refuse_while_it_hangs()
            connection.invalidate()

            self.place = true_place
            wait_until(lambda: not watchdog.hangs)

    def test_forgets_connections_that_are_closed(self):
        with self.watched(60) as (_, watchdog):
            self.assertEqual((len(watchdog._out), len(watchdog._sockets)), (1, 1))
        self.assertEqual((len(watchdog._out), len(watchdog._sockets)), (0, 0))


class TestSeldom(unittest.TestCase):
    def setUp(self):
        self.logger = logging.Logger("seldom")
        self.lines = []
        handler = logging.Handler()
        handler.emit = lambda record: self.lines.append(record.getMessage())
        self.logger.addHandler(handler)

    def test_says_the_same_once(self):
        self.logger.addFilter(Seldom(60))

        for _ in range(1000):
            self.logger.warning("PostgreSQL is away: %s", "refused")
        self.logger.warning("PostgreSQL is away: %s", "silent")

        self.assertEqual(self.lines, ["PostgreSQL is away: refused", "PostgreSQL is away: silent"])

    def test_says_it_again_after_a_while_and_how_often_it_was_so(self):
        self.logger.addFilter(Seldom(0.2))

        self.logger.warning("away")
        self.logger.warning("away")
        time.sleep(0.25)
        self.logger.warning("away")

        self.assertEqual(self.lines, ["away", "away (1 times more since then)"])

    def test_keeps_back_no_error(self):
        self.logger.addFilter(Seldom(60))

        self.logger.error("failed")
        self.logger.error("failed")

        self.assertEqual(self.lines, ["failed", "failed"])
