"""The schema: up from nothing, down to nothing, the same as the models, and by many at once."""

import io
import subprocess
import sys
import uuid
from contextlib import closing, contextmanager, redirect_stdout

import flask_migrate
import psycopg2
from sqlalchemy import text

from project import create_app, db, migration
from project.api.scores import totals
from project.config import TestingConfig
from project.tests.base import BaseTestCase
from project.tests.processes import GRACE_SECONDS, ROOT, environment, wait_until

SECRET = "the secret of these tests, which is long enough"

# Everything that a migration could leave behind in the schema, but for Alembic's own table.
LEFT = text("""
    SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
     WHERE nspname = 'public' AND relname NOT LIKE 'alembic\\_version%'
     UNION ALL
    SELECT proname FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace
     WHERE nspname = 'public'
     UNION ALL
    SELECT typname FROM pg_type JOIN pg_namespace n ON n.oid = typnamespace
     WHERE nspname = 'public' AND typname NOT LIKE '%alembic\\_version'
""")

OTHERS = text("""
    SELECT count(*) FROM pg_stat_activity WHERE datname = :name AND pid <> :pid
""")

# Correct at once, correct now, wrong again, never correct.
SCORES_OF_0002 = text("""
    INSERT INTO scores (user_id, exercise_id, correct, attempts, solved_at)
    VALUES (1, 1, true, 1, now()), (1, 2, true, 3, now()), (2, 1, false, 2, now()),
           (2, 2, false, 1, NULL)
""")
SOLVED = text("SELECT user_id, solved FROM user_totals ORDER BY user_id")
LATEST_ATTEMPTS = text("""
    SELECT seq
      FROM scores
      JOIN attempts USING (user_id, exercise_id, correct)
     WHERE seq = scores.attempts
     ORDER BY user_id, exercise_id
""")


@contextmanager
def empty_database():
    """Give the URL of an empty database on the server of the tests, and drop it afterwards.

    To be called with the app of the tests as the current one.
    """
    name = f"test_{uuid.uuid4().hex}"
    raw = db.engine.raw_connection()
    connection = raw.driver_connection
    raw.detach()
    connection.autocommit = True
    parameters = connection.get_dsn_parameters()
    try:
        with connection.cursor() as cursor:
            # To make and to drop one takes as long as the disk takes.
            cursor.execute("SET statement_timeout = 0")
            cursor.execute(f"CREATE DATABASE {name}")
        yield url_of(parameters, connection.info.password, name)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.close()


def url_of(parameters, password, name):
    login = f"{parameters['user']}:{password}" if password else parameters["user"]
    where = f"host={parameters['host']}&port={parameters['port']}"
    return f"postgresql://{login}@/{name}?{where}"


class MigrationTestCase(BaseTestCase):
    def setUp(self):
        super().setUp()
        self.url = self.enterContext(empty_database())

    def within_own_app(self):
        """Enter the context of an app on the empty database."""
        known = {"SQLALCHEMY_DATABASE_URI": self.url, "SECRET_KEY": SECRET}
        context = create_app(type("EmptyConfig", (TestingConfig,), known)).app_context()
        self.enterContext(context)
        self.addCleanup(db.engine.dispose)

    def version(self):
        with db.engine.connect() as connection:
            return connection.scalar(text("SELECT version_num FROM alembic_version"))

    def left(self):
        with db.engine.connect() as connection:
            return sorted(connection.scalars(LEFT))

    def check(self):
        """Return whether `db check` finds no drift."""
        try:
            with redirect_stdout(io.StringIO()):
                flask_migrate.check()
        except SystemExit as end:
            return not end.code
        return True


class TestMigrate(MigrationTestCase):
    def setUp(self):
        super().setUp()
        self.within_own_app()

    def test_goes_up_from_nothing(self):
        migration.upgrade()

        self.assertEqual(self.version(), migration.HEAD)
        self.assertIn("scores", self.left())
        self.assertIn("counters", self.left())

    def test_goes_down_to_nothing_and_up_again(self):
        migration.upgrade()
        there = self.left()

        flask_migrate.downgrade(revision="base")

        self.assertIsNone(self.version())
        self.assertEqual(self.left(), [])
        migration.upgrade()
        self.assertEqual((self.version(), self.left()), (migration.HEAD, there))

    def test_goes_down_and_up_step_by_step(self):
        """Each migration undoes what it does, and nothing else."""
        flask_migrate.upgrade(revision="+1")
        while self.version() != migration.HEAD:
            before, there = self.version(), self.left()
            flask_migrate.upgrade(revision="+1")

            flask_migrate.downgrade(revision="-1")

            with self.subTest(before):
                self.assertEqual((self.version(), self.left()), (before, there))
            flask_migrate.upgrade(revision="+1")

    def test_counts_what_was_there_before_the_totals(self):
        flask_migrate.upgrade(revision="0002")
        with db.engine.begin() as connection:
            connection.execute(SCORES_OF_0002)

        migration.upgrade()

        self.assertEqual(totals.select_differences(), [])
        with db.engine.connect() as connection:
            self.assertEqual(connection.execute(SOLVED).all(), [(1, 2), (2, 1)])
            self.assertEqual(connection.execute(LATEST_ATTEMPTS).all(), [(1,), (3,), (2,), (1,)])

    def test_changes_nothing_where_all_is_done(self):
        migration.upgrade()
        there = self.left()

        migration.upgrade()

        self.assertEqual((self.version(), self.left()), (migration.HEAD, there))

    def test_would_notice_drift(self):
        """A column, a default or an index that only one of both knows."""
        for change in (
            "ALTER TABLE scores ADD COLUMN surprise text",
            "ALTER TABLE scores ALTER COLUMN attempts SET DEFAULT 7",
            "CREATE INDEX surprise ON scores (correct)",
        ):
            with self.subTest(change):
                migration.recreate()
                with db.engine.begin() as connection:
                    connection.execute(text(change))

                with self.assertLogs("flask_migrate", "ERROR"):
                    self.assertFalse(self.check())

    def test_begins_anew(self):
        """Whatever was there is gone, also what is none of ours."""
        with db.engine.begin() as connection:
            connection.execute(text("CREATE TABLE surprise AS SELECT 1"))

        migration.recreate()

        self.assertEqual(self.version(), migration.HEAD)
        self.assertNotIn("surprise", self.left())


class TestCommands(MigrationTestCase):
    def start(self, command):
        """Start `manage.py db …` as a replica would, in a process that knows no test."""
        settings = environment(
            APP_SETTINGS="project.config.ProductionConfig",
            DATABASE_URL=self.url,
            SECRET_KEY=SECRET,
            CORS_ORIGINS="*",
        )
        return subprocess.Popen(
            [sys.executable, "manage.py", "db", command],
            cwd=ROOT,
            env=settings,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def others(self, known):
        """Return how many other connections there are to the database of a known one."""
        with db.engine.connect() as connection:
            of = {"name": known.info.dbname, "pid": known.info.backend_pid}
            return connection.scalar(OTHERS, of)

    def assert_ends_well(self, process):
        said, _ = process.communicate(timeout=2 * GRACE_SECONDS)
        self.assertEqual(process.returncode, 0, said)

    def test_find_no_drift_between_migrations_and_models(self):
        self.within_own_app()
        migration.upgrade()

        self.assert_ends_well(self.start("check"))

    def test_succeed_for_all_who_come_at_once(self):
        """Four replicas that start on one empty database: one migrates it, and all are content."""
        with closing(psycopg2.connect(self.url)) as blocker, blocker.cursor() as cursor:
            # Nobody gets on before all are there, with or without a lock of theirs.
            cursor.execute("CREATE TABLE alembic_version (version_num text)")
            replicas = [self.start("upgrade") for _ in range(4)]
            wait_until(lambda: self.others(blocker) == 4)
            blocker.rollback()

        for replica in replicas:
            self.assert_ends_well(replica)
        with closing(psycopg2.connect(self.url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT version_num FROM alembic_version")
            self.assertEqual(cursor.fetchall(), [(migration.HEAD,)])
