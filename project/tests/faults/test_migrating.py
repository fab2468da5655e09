"""A migration while requests are served: none of them fails, and none waits for long."""

import shutil
import subprocess
import sys
import time
import unittest
from contextlib import closing, contextmanager

import psycopg2

from project import migration
from project.extensions import MIGRATIONS
from project.tests.faults import harness
from project.tests.faults.harness import (
    SECRET,
    FaultTestCase,
    Postgres,
    Service,
    load,
    visitors,
)
from project.tests.processes import (
    GRACE_SECONDS,
    LATENESS_SECONDS,
    ROOT,
    environment,
    house,
    wait_until,
)

LONGEST_SECONDS = 1.0 + LATENESS_SECONDS
NEXT = "9999"
# What a version of the service may do to the tables that the version before it goes on to use.
REVISION = f'''
"""Something new, next to what there is."""

import sqlalchemy as sa
from alembic import op

revision = "{NEXT}"
down_revision = "{migration.HEAD}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table("notes", sa.Column("id", sa.BigInteger, primary_key=True))
    op.add_column("counters", sa.Column("note", sa.Text, server_default="", nullable=False))


def downgrade() -> None:
    op.drop_column("counters", "note")
    op.drop_table("notes")
'''


WAITING = "SELECT pid FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"


def setUpModule():
    FaultTestCase.postgres = Postgres()
    unittest.addModuleCleanup(FaultTestCase.postgres.stop)
    harness.CountsTestCase.service = Service(FaultTestCase.postgres)
    unittest.addModuleCleanup(harness.CountsTestCase.service.stop)


class TestMigration(harness.CountsTestCase):
    def setUp(self):
        super().setUp()
        self.next_version = self.enterContext(house())
        (self.next_version / "migrations").unlink()
        shutil.copytree(MIGRATIONS, self.next_version / "migrations")
        (self.next_version / "migrations" / "versions" / "next.py").write_text(REVISION)

    def migrate(self, *command, of):
        """Run a command of db in a folder that has the code of some version."""
        done = subprocess.run(
            [sys.executable, "-m", "manage", "db", *command],
            cwd=of,
            env=environment(DATABASE_URL=self.postgres.url, SECRET_KEY=SECRET),
            capture_output=True,
            text=True,
            timeout=2 * GRACE_SECONDS,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)

    def version(self):
        [(version,)] = self.sql("SELECT version_num FROM alembic_version")
        return version

    @contextmanager
    def no_request_failing(self, *paths):
        """Count and ask for as long as the block lasts: each request is answered with 200."""
        with (
            load(self.service, 8, name="hot") as books,
            load(self.service, 8, name="keyed", keys=True) as keyed,
            visitors(self.service, "/ready", *paths) as visits,
        ):
            yield
            time.sleep(0.5)
        self.assertEqual((books.failed, keyed.failed), (0, 0))
        self.assert_nothing_lost(books)
        self.assert_exactly_once(keyed)
        self.assertEqual({visit.status for visit in visits if visit.path != "/ready"}, {200})
        slowest = max(visit.seconds for visit in visits)
        self.report("during migrations the slowest answer took", slowest)
        self.assertLess(slowest, LONGEST_SECONDS)
        self.ready = {visit.status for visit in visits if visit.path == "/ready"}

    def test_to_the_next_version_and_back_fails_no_request(self):
        paths = ("/counters/hot", "/counters", "/scores", "/scores/leaderboard")
        with self.no_request_failing(*paths):
            self.migrate("upgrade", of=self.next_version)
            self.assertEqual(self.version(), NEXT)
            time.sleep(0.3)
            self.migrate("downgrade", of=self.next_version)
        self.assertEqual(self.version(), migration.HEAD)
        self.assertEqual(self.ready, {200, 503})  # the schema was not its own for a while

    def test_of_scores_fails_no_request_for_counters(self):
        """The latest one changes what scores are kept in: down and up again."""
        with self.no_request_failing("/counters/hot", "/counters"):
            self.migrate("downgrade", of=ROOT)
            self.migrate("upgrade", of=ROOT)

    def test_gives_way_while_somebody_holds_a_table(self):
        """Requests do not queue behind a migration that waits itself."""
        url = self.postgres.url.replace("+psycopg2", "")
        with closing(psycopg2.connect(url)) as holder:
            holder.cursor().execute("LOCK TABLE counters IN ACCESS SHARE MODE")
            with self.no_request_failing("/scores/leaderboard", "/counters/hot"):
                command = [sys.executable, "-m", "manage", "db", "upgrade"]
                settings = environment(DATABASE_URL=self.postgres.url, SECRET_KEY=SECRET)
                waiting = subprocess.Popen(command, cwd=self.next_version, env=settings)
                self.addCleanup(waiting.kill)
                wait_until(lambda: self.sql(WAITING))
                time.sleep(1)
                holder.rollback()
                self.assertEqual(waiting.wait(GRACE_SECONDS), 0)
        self.assertEqual(self.version(), NEXT)
        self.migrate("downgrade", of=self.next_version)
