"""Everything holds behind a pooler that gives each transaction another connection."""

import os
import shutil
import subprocess
import tempfile
import time
import unittest
from contextlib import closing, suppress
from pathlib import Path

import psycopg2
from psycopg2.errors import QueryCanceled
from sqlalchemy import make_url, text

from project import create_app, db, migration
from project.api.counter import queries as counters
from project.api.idempotency import queries as keys
from project.api.scores import loading
from project.config import ProductionConfig
from project.statements import Statement
from project.tests.faults.harness import (
    SECRET,
    Books,
    Client,
    FaultTestCase,
    Postgres,
    Service,
    load,
)
from project.tests.processes import wait_until

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")

# Connections to PostgreSQL: far fewer than the service has, so that each is everybody's in turn.
SHARED = 4

INI = """
[databases]
* = host={host} port={behind} user={user}
[pgbouncer]
user = {owner}
listen_addr =
unix_socket_dir = {folder}
unix_socket_mode = 0700
auth_type = any
pool_mode = transaction
default_pool_size = {shared}
max_client_conn = 500
server_login_retry = 1
ignore_startup_parameters = {ignored}
"""


class PgBouncer:
    """A pooler in transaction mode, in front of a PostgreSQL."""

    def __init__(self, postgres: Postgres, *, ignored: str = "") -> None:
        behind = make_url(postgres.url)
        self._folder = tempfile.TemporaryDirectory(prefix="eval-pgbouncer-")
        folder = self._folder.name
        self.url = f"postgresql://{behind.username}@:6432/{behind.database}?host={folder}"
        ini = Path(folder) / "pgbouncer.ini"
        host = str(behind.query["host"])
        # PgBouncer refuses to run as root, and has to reach both sockets.
        owner = Path(host).owner()
        shutil.chown(folder, owner)
        said = {"host": host, "user": behind.username, "owner": owner, "folder": folder}
        with closing(psycopg2.connect(host=host, user=behind.username)) as connection:
            said["behind"] = connection.info.port  # which PGPORT may have said
        ini.write_text(INI.format(**said, shared=SHARED, ignored=ignored))
        self._process = subprocess.Popen([PGBOUNCER, "-q", ini])
        try:
            wait_until(self._answers)
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        with (
            suppress(psycopg2.OperationalError),
            closing(psycopg2.connect(self.url, connect_timeout=2)),
        ):
            return True
        return False

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def setUpModule():
    if PGBOUNCER is None:
        raise unittest.SkipTest("there is no pgbouncer on this machine (Debian: apt install it)")
    FaultTestCase.postgres = Postgres()
    unittest.addModuleCleanup(FaultTestCase.postgres.stop)
    # What a session has that says nothing of it.
    FaultTestCase().sql("ALTER DATABASE postgres SET timezone = 'Asia/Tokyo'")


class PoolerTestCase(FaultTestCase):
    """A test with a pooler in between, which refuses `options` unless it is told otherwise."""

    ignored = ""

    @classmethod
    def setUpClass(cls):
        cls.pooler = PgBouncer(cls.postgres, ignored=cls.ignored)
        cls.addClassCleanup(cls.pooler.stop)

    def drop_everything(self):
        self.sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")


class TestService(PoolerTestCase):
    def test_counts_exactly(self):
        self.drop_everything()
        service = Service(self.pooler)
        self.addCleanup(service.stop)

        with (
            load(service, 16, name="hot") as books,
            load(service, 16, name="keyed", keys=True) as keyed,
        ):
            time.sleep(1)

        for name, book in (("hot", books), ("keyed", keyed)):
            with self.subTest(name):
                self.assertEqual((book.strange, book.failed), ([], 0), service.output())
                self.assertEqual(sorted(book.values), list(range(1, len(book.values) + 1)))
                self.assertEqual(service.value(name), len(book.values))
                self.assertTrue(service.audit(name)["consistent"])
        [(most,)] = self.sql("SELECT count(*) FROM pg_stat_activity WHERE usename IS NOT NULL")
        self.assertLessEqual(most, SHARED + 2)

    def test_answers_again_when_postgres_does(self):
        self.drop_everything()
        service = Service(self.pooler)
        self.addCleanup(service.stop)
        books = Books()
        client = Client(service.port, books, name="keyed", keys=True)

        client.start()
        wait_until(lambda: len(books.values) > 10)
        self.postgres.kill()
        time.sleep(0.2)
        self.postgres.start()
        known = len(books.values)
        wait_until(lambda: len(books.values) > known + 10)
        client.stopping.set()
        client.join(30)

        self.assertEqual(books.strange, [])
        self.assertEqual(books.values, list(range(1, len(books.values) + 1)))


class ConnectionsTestCase(PoolerTestCase):
    """A test of the connections of an app, whose pooler gives each transaction another."""

    query = ""

    def setUp(self):
        self.drop_everything()
        url = self.pooler.url + self.query
        known = {"SQLALCHEMY_DATABASE_URI": url, "SECRET_KEY": SECRET}
        known |= {"CORS_ORIGINS": "*", "STATEMENT_TIMEOUT_SECONDS": "0.2"}
        app = create_app(type("PooledConfig", (ProductionConfig,), known))
        context = app.app_context()
        context.push()
        self.addCleanup(context.pop)
        self.addCleanup(db.engine.dispose)
        self.addCleanup(db.autocommit_engine.dispose)

    def read(self, name):
        return db.read(Statement(f"SELECT current_setting('{name}') AS value"))[0].value

    def assert_settings(self):
        """Assert that a transaction has its settings, from its first statement on."""
        for _ in range(3):
            self.assertEqual(self.read("statement_timeout"), "200ms")
            self.assertEqual(self.read("timezone"), "UTC")
            with db.engine.connect() as connection:
                for _ in range(2):
                    zone = connection.execute(text("SHOW timezone")).scalar()
                    self.assertEqual(zone, "UTC")


class TestConnections(ConnectionsTestCase):
    def test_migrate(self):
        migration.upgrade()

        self.assertEqual(self.sql("SELECT version_num FROM alembic_version"), [(migration.HEAD,)])

    def test_prepare_nothing(self):
        migration.upgrade()
        for value in (1, 2, 3):
            self.assertEqual(counters.add_many({"visits": 1}), {"visits": value})

        self.assertEqual(db.read(Statement("SELECT name FROM pg_prepared_statements")), [])

    def test_have_their_settings(self):
        self.assert_settings()

    def test_leave_nothing_behind_for_others(self):
        self.read("timezone")
        with db.unhurried():
            self.read("timezone")

        with closing(psycopg2.connect(self.pooler.url)) as other, other.cursor() as cursor:
            cursor.execute("SHOW timezone")
            self.assertEqual(cursor.fetchone(), ("Asia/Tokyo",))

    def test_end_statements_that_take_too_long(self):
        with self.assertRaises(QueryCanceled):
            db.read(Statement("SELECT pg_sleep(5)"))

    def test_take_as_long_as_it_takes_where_that_is_wanted(self):
        with db.unhurried():
            db.read(Statement("SELECT pg_sleep(0.5)"))
            self.assertEqual(self.read("lock_timeout"), "0")
        self.assertEqual(self.read("lock_timeout"), "100ms")

    def test_wait_for_locks_as_before_once_a_key_is_claimed(self):
        migration.upgrade()
        with db.writing() as connection:
            keys.claim(connection, [keys.Key("user:7", "a", b"")])
            keys.charge(connection, [])
            with connection.cursor() as cursor:
                cursor.execute("SHOW lock_timeout")

                self.assertEqual(cursor.fetchone(), ("100ms",))

    def test_tidy(self):
        migration.upgrade()

        loading.tidy()


class TestConnectionsWhoseOptionsAreIgnored(ConnectionsTestCase):
    """The pooler takes `options` and does nothing with them."""

    ignored = "options"

    def test_have_their_settings(self):
        self.assert_settings()


class TestConnectionsWithOptions(ConnectionsTestCase):
    """The URL has session settings of the operator, which the pooler would reject."""

    query = (
        "&options=-c%20search_path%3D%22%24user%22,public,it%27s"
        "%20-cstatement_timeout%3D5s%20--work-mem%3D5MB"
    )

    def test_options_are_merged_with_our_settings(self):
        self.assert_settings()
        self.assertEqual(self.read("work_mem"), "5MB")
        path = '"$user", public, "it\'s"'
        self.assertEqual(self.read("search_path"), path)
        with db.engine.connect() as connection:
            found = connection.execute(text("SHOW search_path")).scalar()
            self.assertEqual(found, path)

    def test_options_do_not_disturb_parameters_of_statements(self):
        rows = db.read(Statement("SELECT %(value)s || '%%' AS value"), value="100")

        self.assertEqual(rows[0].value, "100%")
