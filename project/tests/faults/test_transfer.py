"""An import that is interrupted, killed, or watched for its memory."""

import os
import signal
import subprocess
import sys
import tempfile
import unittest
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg2

from project import migration
from project.tests.faults.harness import FaultTestCase, Postgres
from project.tests.processes import GRACE_SECONDS, ROOT, environment, wait_until

MEGABYTES = 300
LINES = 100_000
INSERTING = """
    SELECT pid
      FROM pg_stat_activity
     WHERE query LIKE '%INSERT INTO scores%' AND wait_event_type = 'Lock'
"""

EXPORTING = (
    "SELECT pid FROM pg_stat_activity WHERE query LIKE '%COPY%' AND wait_event_type = 'Lock'"
)

WAITING = """
    SELECT pid FROM pg_locks WHERE mode = 'ShareUpdateExclusiveLock' AND NOT granted
"""


def setUpModule():
    FaultTestCase.postgres = Postgres()
    unittest.addModuleCleanup(FaultTestCase.postgres.stop)
    with FaultTestCase.postgres.app():
        migration.upgrade()


class TransferTestCase(FaultTestCase):
    def setUp(self):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.file = Path(folder) / "scores.csv"
        self.empty()

    def connect(self):
        return closing(psycopg2.connect(self.postgres.url.replace("+psycopg2", "")))

    def write(self, count):
        pairs = (f"{1 + n // 10},{1 + n % 10},true\n" for n in range(count))
        self.file.write_text("user_id,exercise_id,correct\n" + "".join(pairs))

    def start(self, *arguments):
        process = subprocess.Popen(
            [sys.executable, "manage.py", *arguments],
            cwd=ROOT,
            env=environment(DATABASE_URL=self.postgres.url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    @contextmanager
    def stuck(self):
        """Give an import that has written half of its lines and waits for somebody."""
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO scores (user_id, exercise_id, correct) VALUES (50, 1, true)"
            )
            process = self.start("import_scores", str(self.file))
            wait_until(lambda: self.sql(INSERTING))
            yield process

    def assert_as_it_was(self):
        """Nothing is there, nobody is at work, and another import is free to go."""
        wait_until(lambda: not self.sql("SELECT pid FROM pg_locks WHERE mode LIKE 'ShareUpdate%'"))
        for table in ("scores", "attempts", "user_totals", "exercise_totals", "solved_counts"):
            self.assertEqual(self.sql(f"TABLE {table} LIMIT 1"), [])
        said, _ = self.start("import_scores", str(self.file)).communicate(timeout=GRACE_SECONDS)
        self.assertEqual(
            said, "1000 lines: 1000 new and 0 changed scores, 0 lines without effect, 0 refused.\n"
        )


class TestExport(TransferTestCase):
    def test_export_keeps_the_earlier_file_when_interrupted(self):
        self.file.write_text("of yesterday")
        for sent, code in ((signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)):
            with (
                self.subTest(sent.name),
                self.connect() as connection,
                connection.cursor() as cursor,
            ):
                cursor.execute("LOCK TABLE scores")
                process = self.start("export_scores", str(self.file))
                wait_until(lambda: self.sql(EXPORTING))

                process.send_signal(sent)
                process.communicate(timeout=GRACE_SECONDS)

                self.assertEqual(process.returncode, code)
                self.assertEqual(self.file.read_text(), "of yesterday")
                self.assertEqual(list(self.file.parent.iterdir()), [self.file])


class TestImport(TransferTestCase):
    def test_that_is_interrupted_leaves_everything_as_it_was(self):
        self.write(1000)

        with self.stuck() as process:
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=GRACE_SECONDS)

        self.assertEqual(said, ("", "Interrupted. The database is as it was.\n"))
        self.assertEqual(process.returncode, 130)
        self.assert_as_it_was()

    def test_that_is_killed_leaves_everything_as_it_was(self):
        """PostgreSQL notices while it waits itself, and lets go of its locks."""
        self.write(1000)

        with self.stuck() as process:
            process.kill()
            process.wait()
            wait_until(lambda: not self.sql(INSERTING))

        self.assert_as_it_was()

    def test_waits_for_another_one_that_is_at_work(self):
        self.write(1000)

        with self.stuck() as first:
            second = self.start("import_scores", str(self.file))
            wait_until(lambda: self.sql(WAITING))
        said = [process.communicate(timeout=GRACE_SECONDS)[0] for process in (first, second)]

        self.assertEqual(
            said,
            [
                "1000 lines: 1000 new and 0 changed scores, 0 lines without effect, 0 refused.\n",
                "1000 lines: 0 new and 0 changed scores, 1000 lines without effect, 0 refused.\n",
            ],
        )

    def test_of_many_lines_needs_little_memory(self):
        self.write(LINES)

        process = self.start("import_scores", str(self.file))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)

        self.assertEqual(process.returncode, 0)
        self.assertLess(usage.ru_maxrss / 1024, MEGABYTES)
