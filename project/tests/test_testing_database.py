"""create_all() and drop_all(): on the testing database and on no other."""

import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import psycopg2

from project import create_app, db, migration
from project.config import DevelopmentConfig, ProductionConfig, SettingError, TestingConfig
from project.tests.base import BaseTestCase
from project.tests.processes import GRACE_SECONDS, ROOT, environment
from project.tests.test_migration import empty_database
from project.tests.utils import add_score

SECRET = "a secret of these tests, long enough"
TOLD = {"SECRET_KEY": SECRET, "CORS_ORIGINS": "*", "USERS_SERVICE_URL": None}

# A test base and tests as the tutorials write them.
TUTORIAL = """
from flask_testing import TestCase

from project import create_app, db
from project.api.scores.models import Score
from project.tests.utils import add_score

app = create_app()


class BaseTestCase(TestCase):
    def create_app(self):
        app.config.from_object("project.config.TestingConfig")
        return app

    def setUp(self):
        db.create_all()
        db.session.commit()

    def tearDown(self):
        db.session.remove()
        db.drop_all()


class TestScores(BaseTestCase):
    def test_added_score_is_listed(self):
        add_score(user_id=1, exercise_id=2)

        scores = self.client.get("/scores").json["data"]["scores"]

        self.assertEqual([(score["user_id"], score["id"]) for score in scores], [(1, 1)])

    def test_tables_are_empty(self):
        self.assertEqual(self.client.get("/scores").json["data"]["scores"], [])
        self.assertEqual(Score.query.count(), 0)


class TestConfigs(TestCase):
    def create_app(self):
        return app

    def test_app_takes_any_configuration(self):
        for name, debug in [("Development", True), ("Production", False), ("Testing", True)]:
            app.config.from_object(f"project.config.{name}Config")
            self.assertEqual(app.config["DEBUG"], debug)
"""


class TestTestingDatabase(BaseTestCase):
    def setUp(self):
        super().setUp()
        self.main_url = self.enterContext(empty_database())
        self.test_url = self.enterContext(empty_database())
        self.testing = self.configuration_for(self.test_url)
        with create_app(self.configuration_for(self.main_url)).app_context():
            migration.upgrade()
            add_score(user_id=5)
            db.session.remove()
            self.disconnect()

    def configuration_for(self, url):
        return type("OwnTesting", (TestingConfig,), self.told(url))

    def disconnect(self):
        db.engine.dispose()
        db.autocommit_engine.dispose()

    def told(self, url):
        return TOLD | {"SQLALCHEMY_DATABASE_URI": url}

    def app_of(self, base):
        """Return an app on the main database, in its context."""
        app = create_app(type("OwnConfig", (base,), self.told(self.main_url)))
        self.enterContext(app.app_context())
        self.addCleanup(self.disconnect)
        return app

    def tables(self, url):
        """Return the tables of a database, and how many scores it has."""
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            tables = {name for (name,) in cursor.fetchall()}
            if "scores" not in tables:
                return tables, 0
            cursor.execute("SELECT count(*) FROM scores")
            return tables, cursor.fetchone()[0]

    def assert_unharmed(self):
        tables, scores = self.tables(self.main_url)
        self.assertLess({"scores", "counters", "alembic_version"}, tables)
        self.assertEqual(scores, 1)

    def assert_refused(self):
        for method, command in [(db.create_all, "db upgrade"), (db.drop_all, "recreate_db")]:
            with self.assertRaisesRegex(
                RuntimeError, f"^db[.].*`python manage.py {command}`.*[.]$"
            ):
                method()
        self.assert_unharmed()

    def test_app_moves_to_the_testing_database_when_its_configuration_is_loaded(self):
        for base in (DevelopmentConfig, ProductionConfig):
            with self.subTest(base.__name__):
                app = self.app_of(base)

                app.config.from_object(self.testing)

                settings = app.extensions["settings"]
                self.assertTrue(settings.testing)
                for engine in (db.engine, db.autocommit_engine):
                    self.assertEqual(engine.url, settings.postgres_url)
                db.create_all()
                add_score(user_id=7)
                scores = app.test_client().get("/scores").json["data"]["scores"]
                self.assertEqual([score["user_id"] for score in scores], [7])
                db.session.remove()
                db.drop_all()
                self.assertEqual(self.tables(self.test_url), (set(), 0))
                self.assert_unharmed()

    def test_create_all_and_drop_all_refuse_other_databases(self):
        for base in (DevelopmentConfig, ProductionConfig):
            with self.subTest(base.__name__):
                self.app_of(base)

                self.assert_refused()

    def test_create_all_and_drop_all_refuse_when_only_a_flag_says_testing(self):
        app = self.app_of(DevelopmentConfig)
        for switch in (
            lambda: app.config.update(TESTING=True),
            lambda: setattr(app, "testing", True),
            lambda: app.config.from_object(type("Flag", (), {"TESTING": True})),
            lambda: app.config.from_mapping(TESTING=True, SQLALCHEMY_DATABASE_URI=self.test_url),
        ):
            switch()

            self.assert_refused()

    def test_app_stays_with_the_testing_database_when_it_is_switched_back(self):
        app = self.app_of(DevelopmentConfig)
        app.config.from_object(self.testing)
        db.create_all()

        app.config.from_object("project.config.ProductionConfig")

        self.assert_refused()
        self.assertEqual(self.client_scores(app), [])
        app.config.from_object(self.testing)
        db.drop_all()
        self.assert_unharmed()

    def client_scores(self, app):
        return app.test_client().get("/scores").json["data"]["scores"]

    def test_switch_is_refused_after_the_first_request(self):
        app = self.app_of(DevelopmentConfig)
        self.assertEqual(len(self.client_scores(app)), 1)

        with self.assertRaisesRegex(RuntimeError, "before its first request[.]$"):
            app.config.from_object(self.testing)

        self.assert_refused()
        self.assertEqual(len(self.client_scores(app)), 1)

    def test_switch_names_a_wrong_setting(self):
        app = self.app_of(DevelopmentConfig)

        with self.assertRaisesRegex(SettingError, "DATABASE_TEST_URL is wrong"):
            app.config.from_object(type("Wrong", (TestingConfig,), self.told("mysql://x/y")))

        self.assert_refused()


class TestTutorial(BaseTestCase):
    """The test base of the tutorials, as a program of its own."""

    def run_tutorial(self, **settings):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        (Path(folder) / "tutorial_tests.py").write_text(TUTORIAL)
        return subprocess.run(
            [sys.executable, "-m", "unittest", "-v", "tutorial_tests"],
            cwd=ROOT,
            env=environment(PYTHONPATH=folder, SECRET_KEY=SECRET, **settings),
            check=False,
            capture_output=True,
            text=True,
            timeout=2 * GRACE_SECONDS,
        )

    def test_base_works_on_the_testing_database_of_the_url(self):
        with empty_database() as main_url, empty_database() as test_url:
            end = self.run_tutorial(DATABASE_URL=main_url, DATABASE_TEST_URL=test_url)

            self.assertEqual(end.returncode, 0, end.stderr)
            self.assertIn("Ran 3 tests", end.stderr)

    def test_base_works_on_a_temporary_testing_database(self):
        end = self.run_tutorial()

        self.assertEqual(end.returncode, 0, end.stderr)
        self.assertIn("Ran 3 tests", end.stderr)


class TestReady(BaseTestCase):
    def test_ready_names_tables_that_are_missing(self):
        with empty_database() as url:
            app = create_app(
                type("Ready", (TestingConfig,), TOLD | {"SQLALCHEMY_DATABASE_URI": url})
            )
            with app.app_context():
                migration.upgrade()
                client = app.test_client()
                self.assertEqual(client.get("/ready").status_code, 200)
                db.drop_all()

                answer = client.get("/ready")

                body = self.assert_fails(answer, 503, "unavailable")
                self.assertRegex(body["message"], "lacks tables: .*counters, .*scores")
                db.engine.dispose()
                db.autocommit_engine.dispose()
