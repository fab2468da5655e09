"""The command line: what each command does, and that its exit code tells the truth."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from unittest import TestCase, mock

import psutil
import psycopg2
import time_machine
import urllib3
from click.testing import CliRunner
from flask.cli import ScriptInfo
from sqlalchemy import func, select, text

from manage import cli
from project import VERSION, create_app, db, migration, seeds
from project.api.counter import queries as counters
from project.api.counter.models import Counter
from project.api.idempotency.models import IdempotencyKey
from project.api.scores import queries, totals
from project.api.scores.models import Attempt, Score
from project.api.scores.queries import NewAttempt
from project.config import DevelopmentConfig, ProductionConfig, StagingConfig
from project.server import GRACE_SECONDS as WORKERS_GRACE_SECONDS
from project.tests.base import BaseTestCase, empty_tables
from project.tests.processes import (
    GRACE_SECONDS,
    ROOT,
    answers,
    environment,
    free_port,
    house,
    is_alive,
    postmaster,
    wait_until,
)
from project.tests.test_migration import empty_database
from project.tests.utils import add_counter, add_score

SECRET = "the secret of these tests, which is long enough"


class ManageTestCase(BaseTestCase):
    def manage(self, *arguments):
        """Run a command in this process, on the current app."""
        return CliRunner().invoke(cli, arguments, obj=ScriptInfo(create_app=lambda: self.app))

    def count(self, what):
        with db.engine.connect() as connection:
            return connection.scalar(select(func.count()).select_from(what))


class EnvironmentTestCase(ManageTestCase):
    """A test of an app in a chosen environment, on a database of its own."""

    def setUp(self):
        super().setUp()
        self.url = self.enterContext(empty_database())

    def enter(self, base):
        """Enter the context of an app of that environment on a database with one score."""
        known = {
            "SQLALCHEMY_DATABASE_URI": self.url,
            "SECRET_KEY": SECRET,
            "CORS_ORIGINS": "*",
            "USERS_SERVICE_URL": None,
        }
        self.app = create_app(type("ManagedConfig", (base,), known))
        self.enterContext(self.app.app_context())
        self.addCleanup(db.engine.dispose)
        self.client = self.app.test_client()
        migration.recreate()
        add_score()
        db.session.remove()


class TestHelp(ManageTestCase):
    def test_names_every_command(self):
        result = self.manage("--help")

        self.assertEqual(result.exit_code, 0)
        for name in (
            "audit",
            "cov",
            "db",
            "export_scores",
            "import_scores",
            "issue_token",
            "prune_keys",
            "recreate_db",
            "routes",
            "run",
            "seed_db",
            "serve",
            "shell",
            "test",
        ):
            self.assertRegex(result.output, rf"(?m)^  {name} +[A-Z]")

    def test_writes_all_names_with_underscores(self):
        for name in cli.list_commands(mock.Mock()):
            self.assertRegex(name, "^[a-z_]+$")

    def test_knows_no_other_command(self):
        for arguments in (["recreate-db"], ["nonsense"], ["serve", "--nonsense"]):
            with self.subTest(arguments):
                self.assertEqual(self.manage(*arguments).exit_code, 2)

    def test_version_is_printed(self):
        result = self.manage("--version")

        self.assertEqual(result.output, f"eval-service {VERSION}\n")

    def test_routes_lists_the_rules_of_the_app(self):
        result = self.manage("routes")

        self.assertEqual(result.exit_code, 0)
        self.assertRegex(result.output, r"scores\.add_score +POST +/scores")


class TestCheckout(BaseTestCase):
    """Commands in a copy of the checkout, whose folder has a name that is hard to handle."""

    @classmethod
    def setUpClass(cls):
        cls.folder = Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="a%2Fb %(c)s")))
        for name in ("project", "migrations"):
            ignored = shutil.ignore_patterns("__pycache__", "tests", "static")
            shutil.copytree(ROOT / name, cls.folder / name, ignore=ignored)
        for name in ("manage.py", "alembic.ini"):
            shutil.copy(ROOT / name, cls.folder)
        (cls.folder / ".env").write_text("LOG_LEVEL=nonsense\nPORT=1\n")

    def environment(self, **settings):
        """Return the environment of a command, which runs the programs of this Python first.

        Its coverage is not measured: the copy is deleted before the report is written.
        """
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = environment(PATH=path, **settings)
        return {name: value for name, value in variables.items() if name[:9] != "COVERAGE_"}

    def run_command(self, *command, **settings):
        """Run a command with the programs of this Python first; return its output."""
        end = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(LOG_LEVEL="INFO", SECRET_KEY=SECRET, **settings),
            check=False,
            capture_output=True,
            text=True,
            timeout=2 * GRACE_SECONDS,
        )
        self.assertEqual(end.returncode, 0, end.stderr)
        return end.stdout

    def migrations(self):
        return sorted(path.name for path in (self.folder / "migrations" / "versions").glob("*.py"))

    def test_manage_is_executable(self):
        self.assertIn("Usage: manage.py", self.run_command("./manage.py", "--help"))

    def test_flask_has_its_commands(self):
        output = self.run_command("flask", "--app", "project", "--help")

        for name in ("db", "routes", "run", "shell"):
            self.assertRegex(output, rf"(?m)^  {name} +[A-Z]")
        self.assertIn("/scores", self.run_command("flask", "--app", "project", "routes"))

    def test_migrations_are_run_by_manage_flask_and_alembic(self):
        with empty_database() as url:
            for command in (
                ("alembic", "upgrade", "0001"),
                ("flask", "--app", "project", "db", "upgrade", "0002"),
                ("./manage.py", "db", "upgrade"),
            ):
                self.run_command(*command, DATABASE_URL=url)

            current = self.run_command("alembic", "current", DATABASE_URL=url)

        self.assertEqual(current, f"{migration.HEAD} (head)\n")

    def test_migrate_writes_nothing_when_models_have_not_changed(self):
        before = self.migrations()
        with empty_database() as url:
            self.run_command("./manage.py", "db", "upgrade", DATABASE_URL=url)

            for command in (
                ("./manage.py", "db", "migrate", "-m", "nothing"),
                ("flask", "--app", "project", "db", "migrate"),
                ("alembic", "revision", "--autogenerate", "-m", "nothing"),
            ):
                with self.subTest(command):
                    output = self.run_command(*command, DATABASE_URL=url)

                    self.assertIn("no migration was written", output)
                    self.assertEqual(self.migrations(), before)

    def test_migrate_writes_a_migration_when_models_have_changed(self):
        with empty_database() as url:
            self.run_command("./manage.py", "db", "upgrade", DATABASE_URL=url)
            with closing(psycopg2.connect(url)) as connection, connection:
                connection.cursor().execute("ALTER TABLE scores ADD surplus integer")

            self.run_command("./manage.py", "db", "migrate", "-m", "changed", DATABASE_URL=url)

        [written] = (self.folder / "migrations" / "versions").glob("*_changed.py")
        self.addCleanup(written.unlink)
        self.assertIn("surplus", written.read_text())

    def test_shell_has_the_models(self):
        process = subprocess.run(
            ["./manage.py", "shell"],
            cwd=self.folder,
            env=self.environment(LOG_LEVEL="INFO"),
            input="print(Score.__tablename__, db.metadata.tables.keys() > {'counters'})\n",
            check=False,
            capture_output=True,
            text=True,
            timeout=GRACE_SECONDS,
        )

        self.assertIn("scores True", process.stdout, process.stderr)

    def test_dotenv_is_read(self):
        process = subprocess.run(
            ["./manage.py", "routes"],
            cwd="/",
            executable=self.folder / "manage.py",
            env=self.environment(),
            check=False,
            capture_output=True,
            text=True,
            timeout=GRACE_SECONDS,
        )

        self.assertEqual(process.returncode, 1)
        self.assertIn("The setting LOG_LEVEL is wrong", process.stderr)


class TestAudit(ManageTestCase):
    def test_ends_with_0_where_every_counter_is_the_sum_of_its_ledger(self):
        add_counter("visits", 3)

        result = self.manage("audit")

        self.assertEqual(result.exit_code, 0)
        self.assertEqual(
            result.output,
            "0 counters differ from their ledgers.\n0 totals differ from the scores.\n",
        )

    def test_ends_with_1_and_names_each_that_is_not(self):
        add_counter("visits", 3)
        with db.engine.begin() as connection:
            connection.execute(text("UPDATE counters SET value = 4"))
            connection.execute(text("INSERT INTO counter_hours VALUES ('lost', now(), 1, 0)"))

        result = self.manage("audit")

        self.assertEqual(result.exit_code, 1)
        self.assertIn("visits: value 4, ledger 3\n", result.output)
        self.assertIn("lost: value None, ledger 1\n", result.output)

    def test_finds_totals_that_differ_from_the_scores(self):
        add_score(user_id=7)
        self.run_sql("UPDATE user_totals SET solved = 5")

        result = self.manage("audit")

        self.assertEqual(result.exit_code, 1)
        self.assertIn("user 7: 5 solved, scores say 1", result.output)
        self.assertIn("users with 1 solved: by their totals -1", result.output)

    def test_repairs_what_it_finds_and_keeps_the_values(self):
        add_counter("visits", 3)
        add_score(user_id=7)
        self.run_sql("UPDATE counters SET value = 4")
        self.run_sql("INSERT INTO counter_hours VALUES ('lost', now(), 1, 0)")
        self.run_sql("UPDATE user_totals SET solved = 5, last_solved_at = NULL")
        self.run_sql("DELETE FROM exercise_totals")

        repaired = self.manage("audit", "--repair")
        again = self.manage("audit")

        self.assertEqual((repaired.exit_code, again.exit_code), (0, 0), again.output)
        self.assertIn("2 ledgers and 4 totals were mended.", repaired.output)
        answer = self.client.get("/counters").get_json()["data"]["counters"]
        self.assertEqual([(one["name"], one["value"]) for one in answer], [("visits", 4)])

    def test_takes_as_long_as_it_takes(self):
        """No timeout ends it; afterwards statements have theirs again."""
        with db.unhurried():
            within = [self.timeouts(engine) for engine in (db.engine, db.autocommit_engine)]
        after = [self.timeouts(engine) for engine in (db.engine, db.autocommit_engine)]

        self.assertEqual(within, ["0", "0"])
        self.assertNotIn("0", after)

    def timeouts(self, engine):
        with engine.connect() as connection:
            return connection.scalar(text("SHOW statement_timeout"))

    def run_sql(self, statement):
        with db.engine.begin() as connection:
            connection.execute(text(statement))


class TestPruneKeys(ManageTestCase):
    def test_deletes_all_that_were_kept_for_long_enough(self):
        with db.engine.begin() as connection:
            connection.execute(
                text("""
                    INSERT INTO idempotency_keys (principal, key, fingerprint, created_at)
                    SELECT 'user:1', n, '', now() - n * interval '1 hour'
                      FROM generate_series(1, 1100) AS n
                """)
            )

        result = self.manage("prune_keys")

        self.assertEqual(result.output, "1077 keys deleted.\n")
        self.assertEqual(self.count(IdempotencyKey), 23)


class TestIssueToken(ManageTestCase):
    def issue(self, *arguments):
        result = self.manage("issue_token", *arguments)
        self.assertEqual(result.exit_code, 0, result.output)
        return {"Authorization": f"Bearer {result.stdout.strip()}"}

    def test_prints_a_token_that_is_good(self):
        """It and nothing else, so that a script can take it as it is."""
        headers = self.issue("--user-id", "7")

        answer = self.client.get("/ping", headers=headers)

        self.assertEqual((answer.status_code, answer.get_json()["message"]), (200, "pong!"))

    def test_gives_the_roles_it_is_told(self):
        for flags, deletes, acts_for_others in [
            ([], False, False),
            (["--admin"], True, True),
            (["--service"], False, True),
            (["--admin", "--service"], True, True),
        ]:
            with self.subTest(flags):
                headers = self.issue("--user-id", "7", *flags)
                body = {"exercise_id": 1, "correct": True, "user_id": 123}

                written = self.client.patch("/scores", json=body, headers=headers)
                deleted = self.client.delete("/scores/999", headers=headers)

                self.assertEqual(written.status_code in {200, 201}, acts_for_others)
                self.assertEqual(deleted.status_code, 404 if deletes else 403)

    def test_lets_it_end(self):
        with time_machine.travel(time.time() - 25 * 60 * 60, tick=False):
            headers = self.issue("--user-id", "7", "--days", "1")

        self.assertEqual(self.client.get("/ping", headers=headers).status_code, 401)

    def test_issue_token_rejects_days_that_are_no_time(self):
        for days in ("0", "-1", "nan", "inf", "-inf", "0.0000001", "3651", "soon"):
            with self.subTest(days):
                result = self.manage("issue_token", "--user-id", "7", "--days", days)

                self.assertEqual((result.exit_code, result.stdout), (2, ""))
                self.assertRegex(result.stderr, "Error: Invalid value for '--days': .*[.]\n$")

    def test_refuses_a_user_that_cannot_be(self):
        for user_id in ("0", "-1", "abc", str(2**63), ""):
            with self.subTest(user_id):
                self.assertEqual(self.manage("issue_token", "--user-id", user_id).exit_code, 2)
        self.assertEqual(self.manage("issue_token").exit_code, 2)


class TestSeedDb(ManageTestCase):
    def test_makes_as_many_scores_as_asked_and_some_counters(self):
        for count in (1, 250):
            with self.subTest(count):
                empty_tables()

                result = self.manage("seed_db", "--scores", str(count))

                self.assertEqual(result.exit_code, 0, result.output)
                self.assertEqual(self.count(Score), count)
                self.assertGreaterEqual(self.count(Counter), 3)

    def test_makes_believable_ones(self):
        """Several learners, most of whom solve the first exercises and fewer the later ones."""
        self.manage("seed_db", "--scores", "2000")

        learners = self.count(select(Score.user_id).distinct().subquery())
        exercises = self.count(select(Score.exercise_id).distinct().subquery())
        correct = self.count(select(Score.id).where(Score.correct).subquery())
        solved = self.count(select(Score.id).where(Score.solved_at.is_not(None)).subquery())
        week = func.now() - text("interval '7 days'")
        lately = self.count(select(Score.id).where(Score.solved_at > week).subquery())
        self.assertGreater(learners, 10)
        self.assertGreater(exercises, 10)
        self.assertTrue(400 < correct < 1800, correct)
        self.assertGreaterEqual(solved, correct)
        self.assertTrue(0 < lately < solved / 10, lately)
        answer = self.client.get("/counters")
        values = [counter["value"] for counter in answer.get_json()["data"]["counters"]]
        self.assertTrue(all(value > 0 for value in values), values)

    def test_makes_attempts_and_totals_that_agree_with_them(self):
        self.manage("seed_db", "--scores", "500")

        latest = select(Score.id).join(
            Attempt,
            (Attempt.user_id == Score.user_id)
            & (Attempt.exercise_id == Score.exercise_id)
            & (Attempt.seq == Score.attempts)
            & (Attempt.correct == Score.correct),
        )
        self.assertEqual(self.count(latest.subquery()), 500)
        self.assertEqual(totals.select_differences(), [])

    def test_refuses_to_make_none(self):
        for count in ("0", "-1", "many"):
            with self.subTest(count):
                self.assertEqual(self.manage("seed_db", "--scores", count).exit_code, 2)

    def rows(self):
        """Return all that seeding writes, in an order of its own."""
        tables = ("scores", "attempts", "user_totals", "exercise_totals", "solved_counts",
                  "counters", "counter_hours")  # fmt: skip
        with db.engine.connect() as connection:
            return {
                name: sorted(map(str, connection.execute(text(f"TABLE {name}")))) for name in tables
            }

    def test_seed_db_says_what_it_added(self):
        result = self.manage("seed_db", "--scores", "30")

        self.assertEqual(result.output, "Added 30 scores and 4 counters.\n")

    def test_seed_db_again_changes_nothing(self):
        self.manage("seed_db", "--scores", "30")
        before = self.rows()

        result = self.manage("seed_db", "--scores", "30")

        self.assertEqual(
            result.output,
            "Added 0 scores (30 existed and were left as they are) and "
            "0 counters (4 existed and were left as they are).\n",
        )
        self.assertEqual(self.rows(), before)

    def test_seed_db_leaves_scores_and_counters_that_exist(self):
        pairs = list(self.seeded_pairs(30))
        for pair in pairs[:2]:
            add_score(*pair, correct=False)
        add_counter("visits", 3)
        before = self.rows()

        result = self.manage("seed_db", "--scores", "30")

        self.assertEqual(
            result.output,
            "Added 28 scores (2 existed and were left as they are) and "
            "3 counters (1 existed and were left as they are).\n",
        )
        after = self.rows()
        for name in ("scores", "attempts", "counters", "counter_hours"):
            self.assertEqual([row for row in before[name] if row not in after[name]], [])
        self.assertEqual(self.count(Attempt), 30)
        self.assertEqual(totals.select_differences(), [])
        self.assertEqual(counters.select_inconsistent(), [])

    def test_seed_db_leaves_what_others_write_meanwhile(self):
        """Writes that are not committed yet when seeding comes to the same row."""
        [pair, *_] = self.seeded_pairs(30)
        attempt = NewAttempt(*pair, correct=False, actor=7)
        for write, said in [
            (lambda c: queries.upsert_scores(c, [attempt]), "29 scores (1 existed and "),
            (lambda c: counters.add(c, {"visits": 3}), " and 3 counters (1 existed and "),
        ]:
            with self.subTest(said):
                empty_tables()

                output = self.seed_while(write)

                self.assertIn(said, output)
                written = [*self.rows()["scores"], *self.rows()["counters"]]
                self.assertEqual(len([row for row in written if row in self.before]), 1)
                self.assertEqual(totals.select_differences(), [])
                self.assertEqual(counters.select_inconsistent(), [])

    def seed_while(self, write):
        """Seed while a write waits to be committed; return what the command said."""
        engine, self.before = db.engine, []
        with engine.connect() as connection, ThreadPoolExecutor(1) as pool:
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            write(connection.connection)
            for table in ("scores", "counters"):
                self.before.extend(map(str, connection.execute(text(f"TABLE {table}"))))

            def commit():
                wait_until(lambda: waits_for_a_lock(engine))
                connection.commit()

            committing = pool.submit(commit)
            result = self.manage("seed_db", "--scores", "30")
            committing.result()
        return result.output

    def seeded_pairs(self, count):
        """Return the users and exercises of the scores that seeding makes."""
        for row in seeds.scores(count, time.time()):
            user_id, exercise_id, *_ = row.split(",")
            yield int(user_id), int(exercise_id)


def waits_for_a_lock(engine):
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with engine.connect() as connection:
        return connection.scalar(text(waiting)) > 0


class TestSeedDbInOtherEnvironments(EnvironmentTestCase):
    def test_seed_db_refuses_when_the_data_count(self):
        for base in (StagingConfig, ProductionConfig):
            with self.subTest(base.__name__):
                self.enter(base)

                result = self.manage("seed_db")

                self.assertEqual(result.exit_code, 1)
                self.assertIn("--force", result.output)
                self.assertEqual(self.count(Score), 1)
                self.assertEqual(self.count(Counter), 1)  # public:home

    def test_seed_db_works_in_production_when_forced(self):
        self.enter(ProductionConfig)

        result = self.manage("seed_db", "--scores", "30", "--force")

        self.assertEqual(result.exit_code, 0, result.output)
        self.assertIn("Added ", result.output)


class TestRecreateDb(EnvironmentTestCase):
    def test_empties_a_database_for_developing(self):
        self.enter(DevelopmentConfig)

        result = self.manage("recreate_db")

        self.assertEqual(result.exit_code, 0, result.output)
        self.assertEqual(self.count(Score), 0)
        self.assertEqual(db.session.get(Counter, "public:home").value, 0)

    def test_refuses_where_the_data_count(self):
        for base in (StagingConfig, ProductionConfig):
            with self.subTest(base.__name__):
                self.enter(base)

                result = self.manage("recreate_db")

                self.assertEqual(result.exit_code, 1)
                self.assertIn("--force", result.output)
                self.assertEqual(self.count(Score), 1)

    def test_does_it_where_it_is_forced(self):
        self.enter(ProductionConfig)

        result = self.manage("recreate_db", "--force")

        self.assertEqual(result.exit_code, 0, result.output)
        self.assertEqual(self.count(Score), 0)
        self.assertEqual(self.client.get("/ready").status_code, 200)


class TestTest(TestCase):
    MODULES = {
        "passing": "def test_it(self): pass",
        "failing": "def test_it(self): self.fail()",
        "erring": "def test_it(self): raise RuntimeError",
        "empty": "def no_test(self): pass",
        "broken": "def test_it(self) pass",
    }

    def setUp(self):
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for name, body in self.MODULES.items():
            lines = "from unittest import TestCase", "class TestIt(TestCase):", f"    {body}"
            (self.folder / f"{name}_tests.py").write_text("\n".join(lines))

    def run_in_a_process(self, *names):
        return subprocess.run(
            [sys.executable, "manage.py", "test", *names],
            cwd=ROOT,
            env=environment(PYTHONPATH=str(self.folder)),
            check=False,
            capture_output=True,
            text=True,
            timeout=2 * GRACE_SECONDS,
        )

    def run_here(self, *names):
        with mock.patch.object(sys, "path", [str(self.folder), *sys.path]):
            return CliRunner().invoke(cli, ["test", *names])

    def test_ends_with_1_for_a_failing_test(self):
        end = self.run_in_a_process("passing_tests", "failing_tests")

        self.assertEqual(end.returncode, 1)
        self.assertIn("Ran 2 tests", end.stderr)
        self.assertIn("FAILED (failures=1)", end.stderr)

    def test_ends_with_0_only_where_all_went_well(self):
        for names, code in [
            (["passing_tests"], 0),
            (["passing_tests.TestIt.test_it"], 0),
            (["passing_tests", "empty_tests"], 0),
            (["erring_tests"], 1),
            (["broken_tests"], 1),
            (["passing_tests", "broken_tests"], 1),
            (["no_such_tests"], 1),
            (["passing_tests.TestIt.test_another"], 1),
            (["project/tests/no_such_test.py"], 1),
        ]:
            with self.subTest(names):
                self.assertEqual(self.run_here(*names).exit_code, code)

    def test_ends_with_1_where_there_is_no_test(self):
        end = self.run_here("empty_tests")

        self.assertEqual(end.exit_code, 1)
        self.assertIn("Ran 0 tests", end.output)

    def test_runs_only_tests_whose_names_match(self):
        names = ["passing_tests", "failing_tests"]
        for patterns, count, code in [
            (["passing"], 1, 0),
            (["failing_tests.TestIt.*"], 1, 1),
            (["nothing"], 0, 1),
            (["passing", "failing"], 2, 1),
        ]:
            with self.subTest(patterns):
                options = [word for pattern in patterns for word in ("-k", pattern)]

                end = self.run_here(*names, *options, "-j", "1")

                self.assertIn(f"Ran {count} test", end.output)
                self.assertEqual(end.exit_code, code)

    def test_stops_at_the_first_failure_when_told_to(self):
        for option in ("-f", "--failfast"):
            with self.subTest(option):
                end = self.run_here("failing_tests", "erring_tests", "-j", "1", option)

                self.assertIn("Ran 1 test ", end.output)
                self.assertEqual(end.exit_code, 1)


class TestServe(TestCase):
    """One server for all of these; who ends it leaves it to the next to start another one."""

    server = None

    @classmethod
    def setUpClass(cls):
        cls.place = cls.enterClassContext(house())
        cls.addClassCleanup(cls.kill)

    @classmethod
    def kill(cls):
        """End whatever is left of the server, should it not have ended by itself."""
        if cls.server is None:
            return
        family = psutil.Process(cls.server.pid).children(recursive=True)
        cls.server.terminate()
        try:
            cls.server.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            for process in [*family, cls.server]:
                process.kill()
        cls.server = None

    def setUp(self):
        if self.server is None:
            type(self).port = free_port()
            type(self).server = self.start(self.port)
        self.address = f"http://127.0.0.1:{self.port}"
        wait_until(lambda: self.server.poll() is not None or answers(f"{self.address}/ready"))
        self.assertIsNone(self.server.poll(), self.said())

    def start(self, port):
        (self.place / "said").unlink(missing_ok=True)
        with (self.place / f"said-{port}").open("w") as said:
            (self.place / "said").symlink_to(f"said-{port}")
            return subprocess.Popen(
                [sys.executable, "-m", "manage", "serve"],
                cwd=self.place,
                env=environment(
                    APP_SETTINGS="project.config.DevelopmentConfig",
                    PORT=str(port),
                    WORKERS="2",
                    THREADS="32",
                ),
                stdout=said,
                stderr=said,
            )

    def said(self):
        return (self.place / "said").read_text()

    def workers(self):
        """Return the numbers of the worker processes."""
        children = psutil.Process(self.server.pid).children()
        return {child.pid for child in children if is_worker(child)}

    def request(self, method, path, **options):
        return urllib3.request(
            method, f"{self.address}{path}", retries=False, timeout=GRACE_SECONDS, **options
        )

    def test_has_migrated_the_empty_database_and_is_ready(self):
        answer = self.request("GET", "/ready")

        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.json()["data"]["schema_version"], migration.HEAD)
        self.assertEqual(self.request("GET", "/scores").json()["data"]["scores"], [])

    def test_says_where_it_is_and_gives_a_token_that_works(self):
        wait_until(lambda: "curl" in self.said())

        token = re.search("Bearer ([^']+)'", self.said())[1]
        answer = self.request("GET", "/ping", headers={"Authorization": f"Bearer {token}"})
        self.assertEqual(answer.status, 200)
        self.assertIn(f"http://localhost:{self.port}", self.said())
        self.assertIn("/docs", self.said())

    def test_start_logs_nothing_about_threads_and_websockets(self):
        wait_until(lambda: "curl" in self.said())

        self.assertNotIn("Python threads", self.said())
        self.assertNotIn("Websockets", self.said())

    def test_has_as_many_workers_as_it_is_told(self):
        wait_until(lambda: len(self.workers()) == 2)

    def test_refuses_chunks_beyond_the_limit(self):
        """A body that does not say how long it is is counted while it comes."""
        wait_until(lambda: "curl" in self.said())
        token = re.search("Bearer ([^']+)'", self.said())[1]
        chunks = [b'{"exercise_id": 1, "correct": true}', *[b" " * 65536] * 17]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

        answer = self.request("POST", "/scores", body=iter(chunks), headers=headers)

        self.assertEqual((answer.status, answer.json()["code"]), (413, "payload_too_large"))

    def test_replaces_a_worker_that_was_killed(self):
        """The database of the service survives it."""
        workers = wait_until(lambda: len(self.workers()) == 2 and self.workers())
        database = postmaster(self.place / "instance" / "postgres")
        killed = min(workers)

        psutil.Process(killed).kill()

        wait_until(lambda: len(self.workers() - {killed}) == 2)
        wait_until(lambda: answers(f"{self.address}/ready"))
        self.assertIsNone(self.server.poll(), self.said())
        self.assertEqual(postmaster(self.place / "instance" / "postgres"), database)

    def test_refuses_a_port_that_is_taken(self):
        """One sentence, and no exit code 0; the server that has it goes on."""
        end = subprocess.run(
            [sys.executable, "-m", "manage", "serve"],
            cwd=self.place,
            env=environment(PORT=str(self.port)),
            check=False,
            capture_output=True,
            text=True,
            timeout=2 * GRACE_SECONDS,
        )

        self.assertEqual((end.returncode, end.stdout), (1, ""))
        [line] = end.stderr.splitlines()
        self.assertIn(str(self.port), line)
        self.assertIn("PORT", line)
        self.assertTrue(answers(f"{self.address}/ready"))

    def test_stops_when_it_is_told_and_leaves_nothing_behind(self):
        """SIGTERM: exit code 0 within the time of grace; workers and database are gone."""
        wait_until(lambda: len(self.workers()) == 2)
        family = [child.pid for child in psutil.Process(self.server.pid).children(recursive=True)]
        family.append(postmaster(self.place / "instance" / "postgres"))
        started_at = time.monotonic()

        self.server.send_signal(signal.SIGTERM)
        code = self.server.wait(GRACE_SECONDS)

        type(self).server = None
        self.assertEqual(code, 0, self.said())
        self.assertLess(time.monotonic() - started_at, WORKERS_GRACE_SECONDS)
        wait_until(lambda: not any(is_alive(pid) for pid in family))
        self.assertFalse(answers(f"{self.address}/health"))


def is_worker(process):
    try:
        return any("spawn_main" in argument for argument in process.cmdline())
    except psutil.Error:
        return False
