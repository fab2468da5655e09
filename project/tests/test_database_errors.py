"""Errors of PostgreSQL: the log and the 503 response name the cause."""

from contextlib import contextmanager
from unittest import TestCase, mock

import psycopg2
from psycopg2 import errors
from sqlalchemy import text

from project import db
from project.refusals import refusal
from project.tests.base import BaseTestCase


def psycopg2_error(code):
    """Return an error as psycopg2 raises it for a SQLSTATE."""
    error = errors.lookup(code)("the words of PostgreSQL")
    error.__setstate__({"pgcode": code, "pgerror": "the words of PostgreSQL"})
    return error


class TestDatabaseErrors(BaseTestCase):
    def run_sql(self, *statements):
        with db.engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement))

    @contextmanager
    def slow_counters(self):
        """Have every query of counters take ten seconds."""
        self.run_sql(
            "ALTER TABLE counters RENAME TO slow_counters",
            "CREATE VIEW counters AS SELECT c.* FROM pg_sleep(10), slow_counters AS c",
        )
        try:
            yield
        finally:
            self.run_sql("DROP VIEW counters", "ALTER TABLE slow_counters RENAME TO counters")

    @contextmanager
    def locked(self, table):
        """Hold a lock on a table that every query of it has to wait for."""
        with db.engine.begin() as connection:
            connection.execute(text(f"LOCK TABLE {table}"))
            yield

    def terminate_connections(self):
        """Terminate the connections of the service, which still considers them alive."""
        # However long this takes: a connection that was idle for a while would be replaced.
        self.enterContext(mock.patch("project.postgres.TRUSTED_IDLE_SECONDS", 3600))
        self.client.get("/counters/visits")
        self.run_sql(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'eval-service' AND pid <> pg_backend_pid()"
        )
        self.addCleanup(db.engine.dispose)

    def assert_unavailable(self, cause, message, method="GET", path="/counters/visits"):
        """Assert that a request gets 503, and that its log line and its message name the cause."""
        with self.assertLogs(self.app.logger, "WARNING") as logs:
            answer = self.client.open(path, method=method)

        body = self.assert_fails(answer, 503, "unavailable")
        self.assertEqual(body["message"], message)
        self.assertEqual(answer.headers["Retry-After"], "1")
        [record] = logs.records
        self.assertTrue(record.getMessage().startswith(f"PostgreSQL {cause}: "), record)
        self.assertNotIn("is away", record.getMessage())

    def test_statement_timeout_is_named(self):
        with self.slow_counters():
            self.assert_unavailable(
                "statement timeout", "The database took too long to answer. Try again later."
            )

    def test_lock_timeout_is_named_in_reads(self):
        with self.locked("counters"):
            self.assert_unavailable(
                "lock timeout", "The data is locked by another transaction. Try again later."
            )

    def test_lock_timeout_is_named_in_writes(self):
        with self.locked("counters"):
            self.assert_unavailable(
                "lock timeout", "The data is locked by another transaction. Try again later.",
                path="/",
            )  # fmt: skip

    def test_lost_connection_is_named(self):
        self.terminate_connections()

        self.assert_unavailable(
            "connection failed", "The connection to the database failed. Try again later."
        )

    def test_readiness_names_the_cause(self):
        with self.locked("alembic_version"):
            answer = self.client.get("/ready")

        body = self.assert_fails(answer, 503, "unavailable")
        self.assertEqual(
            body["message"], "The data is locked by another transaction. Try again later."
        )


class TestCommands(TestCase):
    def advice(self, error):
        return str(refusal(error, "DATABASE_URL"))

    def test_commands_name_the_cause(self):
        for code, words in (
            ("57014", "took too long"),
            ("55P03", "locked by another transaction"),
            ("53300", "no connection left"),
            ("53100", "no disk space left"),
            ("25006", "read-only"),
        ):
            with self.subTest(code):
                advice = self.advice(psycopg2_error(code))

                self.assertIn(words, advice)
                self.assertIn("the words of PostgreSQL", advice)
                self.assertNotIn("is the URL right", advice)

    def test_commands_ask_for_the_url_if_no_connection_is_made(self):
        advice = self.advice(psycopg2.OperationalError("connection refused"))

        self.assertIn("DATABASE_URL", advice)
        self.assertIn("is the URL right", advice)

    def test_commands_name_a_connection_limit_without_a_sqlstate(self):
        """A refused connection has no SQLSTATE: libpq passes on the text only."""
        for words in (
            "FATAL:  sorry, too many clients already",
            "FATAL:  remaining connection slots are reserved for superusers",
            'FATAL:  too many connections for role "eval"',
        ):
            with self.subTest(words):
                error = psycopg2.OperationalError(f'connection to server at "db" failed: {words}')

                self.assertIn("no connection left", self.advice(error))

    def test_errors_of_a_statement_have_no_advice(self):
        self.assertIsNone(refusal(psycopg2_error("42601"), "DATABASE_URL"))
