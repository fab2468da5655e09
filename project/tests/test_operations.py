"""The procedures of docs/operations.md, and what a start says that cannot go well."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import TestCase

import psycopg2
import urllib3
from sqlalchemy import URL, make_url, text

from project import create_app, db, postgres
from project.config import SettingError, TestingConfig
from project.embedded import programs
from project.tests.base import BaseTestCase
from project.tests.faults.harness import SECRET, TOKEN, Postgres, Service
from project.tests.processes import GRACE_SECONDS, ROOT, environment, free_port
from project.tests.utils import add_score
from project.tokens import Tokens
from project.users import User

OLD = "the secret of the time before this one"
NEW = "the secret of the time that comes after it"


def app_with(secret, *fallbacks):
    known = {"SECRET_KEY": secret, "SECRET_KEY_FALLBACKS": ", ".join(fallbacks)}
    return create_app(type("RotatedConfig", (TestingConfig,), known))


class TestRotation(BaseTestCase):
    def ping(self, app, token):
        headers = {"Authorization": f"Bearer {token}"}
        return app.test_client().get("/ping", headers=headers).status_code

    def test_keeps_what_the_earlier_secret_signed(self):
        for user_id in (1, 2):
            add_score(user_id=user_id)
        old = app_with(OLD)
        token = old.extensions["tokens"].issue(User(7), days=1)
        cursor = old.test_client().get("/scores?limit=1").get_json()["data"]["next_cursor"]
        both, new = app_with(NEW, OLD), app_with(NEW)

        for app, ping, page in ((both, 200, 200), (new, 401, 400)):
            self.assertEqual(self.ping(app, token), ping)
            answer = app.test_client().get(f"/scores?limit=1&cursor={cursor}")
            self.assertEqual(answer.status_code, page)

    def test_signs_with_the_new_one_alone(self):
        token = app_with(NEW, OLD).extensions["tokens"].issue(User(7), days=1)

        self.assertEqual(self.ping(app_with(NEW), token), 200)
        self.assertEqual(self.ping(app_with(OLD), token), 401)

    def test_may_begin_before_anything_is_signed_with_the_new_one(self):
        """So replicas can be told of it one after the other."""
        token = Tokens(NEW).issue(User(7), days=1)

        self.assertEqual(self.ping(app_with(OLD, NEW), token), 200)

    def test_brings_nothing_back_that_has_expired(self):
        token = Tokens(OLD).issue(User(7), days=-1)

        self.assertEqual(self.ping(app_with(NEW, OLD), token), 401)

    def test_refuses_an_earlier_secret_that_is_too_short_and_does_not_tell_it(self):
        with self.assertRaises(SettingError) as refused:
            app_with(NEW, OLD, "too short")

        self.assertIn("SECRET_KEY_FALLBACKS", refused.exception.message)
        self.assertNotIn("too short", refused.exception.message)
        self.assertNotIn(OLD, repr(app_with(NEW, OLD).extensions["settings"]))


class TestConnections(BaseTestCase):
    def refusal(self, **changed):
        settings = self.app.extensions["settings"].model_copy(update=changed)
        with self.assertRaises(SettingError) as refused:
            postgres.refuse_too_few_connections(settings)
        return refused.exception.message

    def test_are_counted_before_the_start(self):
        sentence = self.refusal(workers=10, threads=100)

        self.assertIn("WORKERS (10) times THREADS (100) + 8 makes 1080 connections", sentence)
        self.assertIn("max_connections", sentence)

    def test_connections_are_limited_by_role_and_database_too(self):
        with db.engine.connect() as connection:
            database = connection.execute(text("SELECT current_database()")).scalar_one()
        for limited in ("ROLE limited", f'DATABASE "{database}"'):
            with self.subTest(limited), db.engine.connect() as connection:
                connection.execute(text("CREATE ROLE limited LOGIN"))
                connection.execute(text(f"ALTER {limited} CONNECTION LIMIT 20"))
                connection.execute(text("SET LOCAL SESSION AUTHORIZATION limited"))

                allowed = connection.execute(postgres.CONNECTIONS).scalar_one()

                self.assertEqual(allowed, 20)
                connection.rollback()

    def test_are_enough_by_default(self):
        postgres.refuse_too_few_connections(self.app.extensions["settings"])

    def test_wait_for_no_lock_and_in_no_transaction_for_ever(self):
        """Every connection of both kinds has all three timeouts."""
        for engine in (db.engine, db.autocommit_engine):
            with engine.connect() as connection:
                for name in (
                    "statement_timeout",
                    "lock_timeout",
                    "idle_in_transaction_session_timeout",
                ):
                    with self.subTest(name, engine=engine):
                        value = connection.execute(text(f"SHOW {name}")).scalar()

                        self.assertNotEqual(value, "0")


class TestStart(TestCase):
    """What somebody reads who set something wrong: one sentence, and what to do."""

    @classmethod
    def setUpClass(cls):
        cls.postgres = Postgres()
        cls.addClassCleanup(cls.postgres.stop)

    def start(self, url, **settings):
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "manage.py"), "serve"],
            env=environment(
                APP_SETTINGS="project.config.ProductionConfig",
                DATABASE_URL=url,
                SECRET_KEY=SECRET,
                CORS_ORIGINS="*",
                PORT=str(free_port()),
                **settings,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def sentences(self, url, **settings):
        """Return the lines of a start that fails."""
        process = self.start(url, **settings)
        stdout, stderr = process.communicate(timeout=GRACE_SECONDS)
        self.assertEqual((process.returncode, stdout), (1, ""), stderr)
        return stderr.splitlines()

    def sentence(self, url):
        """Return the only line of a start that fails without waiting."""
        [line] = self.sentences(url)
        return line

    def test_service_takes_its_secret_and_url_from_files(self):
        """Its workers do so, too, though their parent passes the secret on."""
        folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name, value in {"SECRET_KEY": SECRET, "DATABASE_URL": self.postgres.url}.items():
            (folder / name).write_text(f"{value}\n")
        files = {f"{path.name}_FILE": str(path) for path in folder.iterdir()}

        service = Service(self.postgres, SECRET_KEY="", DATABASE_URL="", **files)

        self.addCleanup(service.stop)
        self.assertEqual(service.get("/ping", TOKEN)[0], 200)

    def test_start_without_a_database_names_the_setting_after_the_time_to_wait(self):
        url = f"postgresql://postgres@127.0.0.1:{free_port()}/scores"
        started_at = time.monotonic()

        waiting, line = self.sentences(url, STARTUP_WAIT_SECONDS="1.5")

        self.assertGreaterEqual(time.monotonic() - started_at, 1.5)
        self.assertRegex(waiting, "WARNING.*Waiting up to 1.5 s for PostgreSQL: .*refused")
        self.assertRegex(line, "DATABASE_URL.*is it running.*refused")

    def test_start_without_a_database_waits_for_none_when_told_so(self):
        url = f"postgresql://postgres@127.0.0.1:{free_port()}/scores"

        [line] = self.sentences(url, STARTUP_WAIT_SECONDS="0")

        self.assertRegex(line, "DATABASE_URL.*is it running.*refused")

    def test_start_waits_for_a_database_that_comes_later(self):
        """First it is away, then it accepts no connections yet (57P03), then it does."""
        postgres = Postgres()
        self.addCleanup(postgres.stop)
        url = postgres.url
        postgres.halt()
        standby = postgres.folder / "standby.signal"
        standby.touch()
        settings = postgres.folder / "postgresql.auto.conf"
        settings.write_text(settings.read_text() + "hot_standby = off\n")
        service = self.start(url)
        self.assertIn("Waiting up to 30 s", service.stderr.readline())

        pg_ctl(postgres, "start", "-o", f"-h '' -k {make_url(url).query['host']}")
        with self.assertRaisesRegex(psycopg2.OperationalError, "not accepting connections"):
            psycopg2.connect(libpq(url))
        time.sleep(1)
        self.assertIsNone(service.poll())
        pg_ctl(postgres, "promote")

        self.assertTrue(any("Listening at" in line for line in service.stderr))
        service.terminate()
        self.assertEqual(service.wait(GRACE_SECONDS), 0)

    def test_start_with_a_wrong_password_says_so(self):
        with psycopg2.connect(libpq(self.postgres.url)) as connection:
            connection.cursor().execute("CREATE ROLE learner LOGIN PASSWORD 'right'")
        connection.close()
        access = self.postgres.folder / "pg_hba.conf"
        access.write_text("local all learner scram-sha-256\n" + access.read_text())
        self.postgres.restart()
        url = make_url(self.postgres.url).set(username="learner", password="wrong")

        line = self.sentence(url.render_as_string(hide_password=False))

        self.assertRegex(line, "DATABASE_URL.*password authentication failed")

    def test_with_an_unknown_database_says_so(self):
        url = make_url(self.postgres.url).set(database="elsewhere")

        line = self.sentence(url.render_as_string(hide_password=False))

        self.assertRegex(line, 'DATABASE_URL.*"elsewhere" does not exist')

    def test_without_permission_says_what_is_needed(self):
        with psycopg2.connect(libpq(self.postgres.url)) as connection:
            connection.cursor().execute(
                "CREATE ROLE guest LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC"
            )
        connection.close()
        url = make_url(self.postgres.url).set(username="guest")

        line = self.sentence(url.render_as_string(hide_password=False))

        self.assertRegex(line, "DATABASE_URL may not do that.*permission denied")


def pg_ctl(postgres, *arguments):
    server = postgres.embedded
    log = server.directory / "pg_ctl.log"
    server.run("pg_ctl", *arguments, "-w", "-l", log, "-D", server.directory)


def libpq(url: str, database: str = "postgres") -> str:
    """Return the URL as PostgreSQL's own programs take it."""
    known = make_url(url)
    plain = URL.create("postgresql", known.username, database=database, query=known.query)
    return plain.render_as_string(hide_password=False)


class TestBackup(TestCase):
    def test_taken_under_load_restores_to_a_database_that_passes_the_audit(self):
        postgres_ = Postgres()
        self.addCleanup(postgres_.stop)
        service = Service(postgres_)
        self.addCleanup(service.stop)
        folder = programs()
        stop = threading.Event()

        def load(worker):
            while not stop.is_set():
                post(service.port, f"/counters/load{worker}/increment")

        with ThreadPoolExecutor(4) as pool:
            loads = [pool.submit(load, worker) for worker in range(4)]
            try:
                seen = post(service.port, "/counters/before/increment")
                dump = self.run_program(folder / "pg_dump", "--format=custom", libpq(postgres_.url))
            finally:
                stop.set()
            for one in loads:
                one.result()

        self.run_program(folder / "createdb", f"--maintenance-db={libpq(postgres_.url)}", "again")
        restored = libpq(postgres_.url, "again")
        self.run_program(folder / "pg_restore", "--exit-on-error", f"--dbname={restored}",
                         given=dump)  # fmt: skip
        audit = subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), "audit"],
            env=service._environment | {"DATABASE_URL": restored},
            check=False,
            capture_output=True,
            text=True,
            timeout=GRACE_SECONDS,
        )
        self.assertEqual(audit.returncode, 0, audit.stdout + audit.stderr)
        with psycopg2.connect(restored) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT value FROM counters WHERE name = 'before'")
            self.assertEqual(cursor.fetchall(), [(seen,)])
        connection.close()

    def run_program(self, *command, given=None):
        end = subprocess.run(
            [str(part) for part in command],
            input=given,
            check=False,
            capture_output=True,
            timeout=GRACE_SECONDS,
            env=os.environ,
        )
        self.assertEqual(end.returncode, 0, end.stderr.decode())
        return end.stdout


def post(port, path):
    """Send an increment and return the value."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = urllib3.request("POST", f"http://127.0.0.1:{port}{path}", headers=headers, timeout=10)
    return answer.json()["data"]["value"]
