"""Which PostgreSQL: the embedded one and its life, and the service while none answers."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from unittest import TestCase, mock

import psutil
import psycopg2
from sqlalchemy import text

from project import create_app, db, embedded, migration
from project.config import SettingError, TestingConfig
from project.embedded import EmbeddedPostgres, programs
from project.tests.base import BaseTestCase, database_url
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
from project.users import User

# A path that is too long for a socket.
LONG = Path("deep" * 20, "deeper" * 20)
OTHER_USER = 65534  # nobody
SECRET = "the secret of these tests, which is long enough"
# How soon "at once" is, there.
AT_ONCE_SECONDS = 1.9

# A process that uses the database of a folder, and does what it is told line by line.
# The package is there without what it puts together: to import the whole takes longer than this.
PROGRAM = """
import sys
from pathlib import Path
from types import ModuleType
import psycopg2
sys.modules["project"] = ModuleType("project")
sys.modules["project"].__path__ = ["project"]
from project.embedded import EmbeddedPostgres

server = EmbeddedPostgres(Path(sys.argv[1]))
print("here", flush=True)
while line := sys.stdin.readline().strip():
    if line == "fail":
        raise RuntimeError("as it was told")
    url = server.url
    connection = psycopg2.connect(host=url.query["host"], user=url.username, dbname=url.database)
    with connection, connection.cursor() as cursor:
        cursor.execute(line)
        print(*cursor.fetchone(), flush=True)
    connection.close()
"""


class Process:
    """A process of its own that uses the embedded database of a folder."""

    def __init__(self, folder):
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(folder)],
            cwd=ROOT,
            env=environment(),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def run(self, statement):
        """Have it run a statement, and return what came of it."""
        self._process.stdin.write(f"{statement}\n")
        self._process.stdin.flush()
        return self._answer()

    def arrive(self):
        if self._answer() != "here":
            raise AssertionError("the process did not come up")

    def _answer(self):
        return self._process.stdout.readline().strip()

    def leave(self, last_word=""):
        """Have it end, and return its exit code."""
        if self._process.returncode is None:
            with suppress(BrokenPipeError):
                self._process.communicate(f"{last_word}\n", timeout=GRACE_SECONDS)
        return self._process.returncode

    def kill(self):
        self._process.kill()
        self._process.communicate()


class EmbeddedTestCase(TestCase):
    def setUp(self):
        parent = self.enterContext(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        self.folder = Path(parent) / "postgres"

    def processes(self, count):
        """Return that many processes, which have started nothing yet."""
        processes = [Process(self.folder) for _ in range(count)]
        for process in processes:
            self.addCleanup(process.leave)
            process.arrive()
        return processes

    def embedded(self, folder):
        """Return a server in this process that is stopped after the test."""
        server = EmbeddedPostgres(folder)
        self.addCleanup(server.close)
        return server

    def ask(self, server, statement="SELECT 1"):
        url = server.url
        opened = psycopg2.connect(host=url.query["host"], user=url.username, dbname=url.database)
        with closing(opened) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone()[0]

    def assert_stopped(self, pid):
        wait_until(lambda: not is_alive(pid))
        self.assertIsNone(postmaster(self.folder))


class TestLife(EmbeddedTestCase):
    def test_begins_when_it_is_asked_for_and_ends_with_the_last_who_uses_it(self):
        first, second = self.processes(2)
        self.assertFalse(self.folder.exists())

        first.run("SELECT 1")
        pid = postmaster(self.folder)
        second.run("SELECT 1")

        self.assertEqual(postmaster(self.folder), pid)
        self.assertEqual(first.leave(), 0)
        self.assertTrue(is_alive(pid))
        self.assertEqual(second.run("SELECT 7"), "7")
        self.assertEqual(second.leave(), 0)
        self.assert_stopped(pid)

    def test_ends_with_an_exception_and_keeps_its_data(self):
        first, second = self.processes(2)

        first.run("CREATE TABLE kept AS SELECT 7 AS it; SELECT it FROM kept")
        pid = postmaster(self.folder)

        self.assertEqual(first.leave("fail"), 1)
        self.assert_stopped(pid)
        self.assertEqual(second.run("SELECT it FROM kept"), "7")

    def test_ends_with_the_next_process_after_one_was_killed(self):
        first, second = self.processes(2)
        first.run("SELECT 1")
        pid = postmaster(self.folder)

        first.kill()

        self.assertTrue(is_alive(pid))
        self.assertEqual(second.run("SELECT 7"), "7")
        self.assertEqual(postmaster(self.folder), pid)
        self.assertEqual(second.leave(), 0)
        self.assert_stopped(pid)

    def test_ends_with_the_last_process_where_another_was_killed(self):
        first, second = self.processes(2)
        first.run("SELECT 1")
        second.run("SELECT 1")
        pid = postmaster(self.folder)

        first.kill()

        self.assertEqual(second.run("SELECT 7"), "7")
        self.assertEqual(second.leave(), 0)
        self.assert_stopped(pid)

    def test_server_is_started_once_by_processes_that_begin_at_once(self):
        processes = self.processes(4)

        with ThreadPoolExecutor(4) as pool:
            started = list(
                pool.map(lambda one: one.run("SELECT pg_postmaster_start_time()"), processes)
            )

        self.assertEqual(len(set(started)), 1, started)
        self.assertTrue(started[0])
        pid = postmaster(self.folder)
        self.assertEqual([process.leave() for process in processes], [0] * 4)
        self.assert_stopped(pid)

    def test_killed_server_is_started_again_while_its_processes_end(self):
        server = self.embedded(self.folder)
        place = {"host": server.url.query["host"], "user": "postgres", "dbname": "postgres"}
        for _ in range(3):
            connections = [psycopg2.connect(**place) for _ in range(40)]

            os.kill(postmaster(self.folder), signal.SIGKILL)
            wait_until(lambda: not server.is_running())

            self.assertTrue(server.keep_running())
            self.assertEqual(self.ask(server), 1)
            for connection in connections:
                connection.close()

    def test_ends_with_a_command_that_is_told_to_end(self):
        """SIGTERM, as Docker and systemd send it; also its children are gone."""
        place = self.enterContext(house())
        port = free_port()
        said = (place / "said").open("w")
        self.addCleanup(said.close)
        settings = {"APP_SETTINGS": "project.config.DevelopmentConfig", "PORT": str(port)}
        command = subprocess.Popen(
            [sys.executable, "-m", "manage", "run"],
            cwd=place,
            env=environment(**settings),
            stdout=said,
            stderr=said,
        )
        self.addCleanup(command.wait)
        self.addCleanup(command.kill)
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/ready"))
        pid = postmaster(place / "instance" / "postgres")
        family = psutil.Process(command.pid).children(recursive=True)

        command.send_signal(signal.SIGTERM)

        self.assertIn(command.wait(GRACE_SECONDS), (0, 128 + signal.SIGTERM))
        wait_until(lambda: not any(is_alive(number) for number in [pid, *(p.pid for p in family)]))


class TestFolder(EmbeddedTestCase):
    def test_folder_may_have_any_path(self):
        for name in ("with space", "with \"quotes'", "$(false) `false`", "a,b", "long" * 40):
            with self.subTest(name):
                folder = self.folder / name / "postgres"

                server = self.embedded(folder)

                self.assertEqual(self.ask(server), 1)
                self.assertIsNotNone(postmaster(folder))

    def test_url_stays_the_same_after_a_crash_when_the_path_is_long(self):
        first = self.embedded(self.folder / LONG / "postgres")
        second = self.embedded(first.directory)
        url = first.url
        self.assertEqual(second.url, url)

        os.kill(postmaster(first.directory), signal.SIGKILL)
        wait_until(lambda: not second.is_running())

        self.assertTrue(second.keep_running())
        self.assertFalse(first.keep_running())
        self.assertEqual(second.url, url)
        self.assertEqual(self.ask(first), 1)

    def test_close_leaves_no_socket_folder_when_the_path_is_long(self):
        server = self.embedded(self.folder / LONG / "postgres")
        sockets = Path(server.url.query["host"])
        self.assertTrue(sockets.exists())

        server.close()

        self.assertFalse(sockets.exists())

    def test_start_names_the_process_that_holds_the_lock(self):
        server = self.embedded(self.folder)
        self.folder.parent.mkdir(exist_ok=True)

        with (
            mock.patch.object(embedded, "LOCK_SECONDS", 0.2),
            embedded._locked(self.folder.with_name("postgres.lock")),
            self.assertRaisesRegex(SettingError, f"Process {os.getpid()} has held .*postgres.lock"),
        ):
            server.start()

    def test_start_shows_the_error_of_postgres(self):
        server = self.embedded(self.folder)
        server.start()
        server.close()
        with (self.folder / "postgresql.auto.conf").open("a") as settings:
            settings.write("no_such_setting = 1\n")

        for _ in range(2):
            with self.assertRaisesRegex(SettingError, "not start .*FATAL.*see .*log") as raised:
                _ = server.url

            self.assertNotIn("\n", raised.exception.message)

    def leave_stale(self, folder, pid):
        """Make a database that was left in a hurry: its file names a process of now."""
        server = EmbeddedPostgres(folder)
        self.ask(server, "CREATE TABLE kept AS SELECT 7 AS it; SELECT 1")
        left = (folder / "postmaster.pid").read_text()
        server.close()
        (folder / "postmaster.pid").write_text("\n".join([str(pid), *left.split("\n")[1:]]))

    def test_may_name_a_server_whose_number_is_another_programs(self):
        sleeper = subprocess.Popen(["sleep", "60"])
        self.addCleanup(sleeper.wait)
        self.addCleanup(sleeper.kill)
        self.leave_stale(self.folder, sleeper.pid)

        server = self.embedded(self.folder)

        self.assertEqual(self.ask(server, "SELECT it FROM kept"), 7)
        self.assertNotEqual(postmaster(self.folder), sleeper.pid)
        server.close()
        self.assertIsNone(sleeper.poll())

    def test_stop_leaves_a_program_alone_that_has_the_number_and_names_the_folder(self):
        command = [sys.executable, "-c", "import time; time.sleep(60)", str(self.folder)]
        sleeper = subprocess.Popen(command)
        self.addCleanup(sleeper.wait)
        self.addCleanup(sleeper.kill)
        self.leave_stale(self.folder, sleeper.pid)

        self.embedded(self.folder).stop()

        self.assertIsNone(sleeper.poll())

    def test_may_name_a_server_whose_number_is_another_servers(self):
        """Neither is the other one taken for ours, nor is it stopped in its place."""
        other_folder = self.folder.parent / "other"
        other = self.embedded(other_folder)
        self.ask(other)
        self.leave_stale(self.folder, postmaster(other_folder))

        server = self.embedded(self.folder)

        self.assertEqual(self.ask(server, "SELECT it FROM kept"), 7)
        server.close()
        self.assertEqual(self.ask(other), 1)

    def test_may_name_a_server_that_is_gone(self):
        sleeper = subprocess.Popen(["sleep", "60"])
        sleeper.kill()
        sleeper.wait()
        self.leave_stale(self.folder, sleeper.pid)

        self.assertEqual(self.ask(self.embedded(self.folder), "SELECT it FROM kept"), 7)


class TestPrivacy(EmbeddedTestCase):
    """Only the user that the service runs as may connect, whatever path the data folder has."""

    def setUp(self):
        super().setUp()
        self.folders = (self.folder, self.folder.parent / LONG / "postgres")

    def as_other_user(self, *command):
        """Run a program as another local user; return how it ended."""
        if os.getuid() != 0:
            self.skipTest("needs root, to be another user")
        return subprocess.run(
            command, user=OTHER_USER, group=OTHER_USER, extra_groups=[], check=False, cwd="/",
            capture_output=True, text=True,
        )  # fmt: skip

    def connect_as_other_user(self, server):
        psql = programs() / "psql"
        done = self.as_other_user(psql, "-c", "SELECT 1", "-h", server.url.query["host"],
                                  "-U", "postgres", "postgres")  # fmt: skip
        self.assertNotEqual(done.returncode, 0, done.stdout)
        return done.stderr

    def test_folder_of_the_socket_rejects_other_users(self):
        for folder in self.folders:
            with self.subTest(folder):
                server = self.embedded(folder)
                sockets = Path(server.url.query["host"])

                self.assertIn("Permission denied", self.connect_as_other_user(server))
                for private in (folder, sockets):
                    self.assertEqual(private.stat().st_mode & 0o777, 0o700)
                    self.assertNotEqual(self.as_other_user("ls", private).returncode, 0)

    def test_socket_rejects_other_users_if_its_folder_is_open(self):
        for folder in self.folders:
            with self.subTest(folder):
                server = self.embedded(folder)
                sockets = Path(server.url.query["host"])

                sockets.chmod(0o777)

                self.assertIn("Permission denied", self.connect_as_other_user(server))
                sockets.chmod(0o700)

    def test_postgres_rejects_other_users_if_its_socket_is_open(self):
        for folder in self.folders:
            with self.subTest(folder):
                server = self.embedded(folder)
                sockets = Path(server.url.query["host"])
                [socket_path] = sockets.glob(".s.PGSQL.*[0-9]")

                sockets.chmod(0o777)
                socket_path.chmod(0o777)

                self.assertIn("Peer authentication failed", self.connect_as_other_user(server))
                sockets.chmod(0o700)

    def test_database_of_the_tests_is_private(self):
        host = database_url().query.get("host", "")
        if not str(host).startswith(str(embedded._temporary_folder())):
            self.skipTest("the tests use the database of DATABASE_TEST_URL")

        self.assertEqual(Path(host).stat().st_mode & 0o777, 0o700)
        [socket_path] = Path(host).glob(".s.PGSQL.*[0-9]")
        self.assertEqual(socket_path.stat().st_mode & 0o777, 0o700)

    def test_close_removes_no_folder_that_has_other_files(self):
        folder = self.folders[1]
        server = self.embedded(folder)
        kept = Path(server.url.query["host"]) / "kept"
        kept.touch()

        server.close()

        self.assertTrue(kept.exists())
        shutil.rmtree(kept.parent)

    def test_parents_can_be_searched_but_not_listed(self):
        self.embedded(self.folder).start()

        self.assertEqual(self.folder.parent.stat().st_mode & 0o044, 0)
        self.assertNotEqual(self.as_other_user("ls", self.folder.parent).returncode, 0)

    def test_server_has_no_rights_of_root(self):
        if os.getuid() != 0:
            self.skipTest("needs root")
        self.embedded(self.folder).start()

        server = psutil.Process(postmaster(self.folder))

        self.assertNotIn(0, server.uids())
        self.assertNotIn(0, server.gids())
        status = Path(f"/proc/{server.pid}/status").read_text()
        self.assertRegex(status, r"(?m)^Groups:\s*$")

    def test_start_rejects_a_folder_of_another_user(self):
        for name in ("postgres", "postgres.lock", "postgres.users"):
            with self.subTest(name):
                parent = Path(self.enterContext(tempfile.TemporaryDirectory()))
                prepared = parent / name
                if name == "postgres":
                    prepared.mkdir()
                else:
                    prepared.touch()
                if os.getuid() != 0:
                    self.skipTest("needs root, to prepare it")
                os.chown(prepared, OTHER_USER, OTHER_USER)

                with self.assertRaisesRegex(SettingError, f"{prepared} belongs to .*nobody"):
                    self.embedded(parent / "postgres").start()

    def test_start_rejects_a_lock_file_that_is_open_to_others(self):
        lock = self.folder.with_name("postgres.lock")
        lock.touch()
        lock.chmod(0o644)

        with self.assertRaisesRegex(SettingError, "postgres.lock .*open to others: remove it"):
            self.embedded(self.folder).start()

    def test_socket_folder_of_another_user_is_not_used(self):
        if os.getuid() != 0:
            self.skipTest("needs root, to prepare it")
        folder = self.folders[1]
        folder.parent.mkdir(parents=True)
        prepared = Path(self.enterContext(tempfile.TemporaryDirectory()))
        os.chown(prepared, OTHER_USER, OTHER_USER)
        folder.with_name("postgres.sockets").symlink_to(prepared)

        server = self.embedded(folder)

        self.assertNotEqual(server.url.query["host"], str(prepared))
        self.assertEqual(self.ask(server), 1)
        self.assertEqual(list(prepared.iterdir()), [])

    def test_data_of_an_earlier_version_become_private_and_remain(self):
        """Also if its server still runs, since the service was killed."""
        for is_running in (False, True):
            with self.subTest(is_running=is_running):
                folder = self.folder.parent / f"running {is_running}"
                old = self.embedded(folder)
                self.ask(old, "CREATE TABLE kept AS SELECT 7 AS it; SELECT 1")
                old.close()
                (folder / "pg_hba.conf").write_text("local all all trust\n")
                if is_running:
                    old.run("pg_ctl", "start", "-w", "-o", f"-h '' -k '{folder}'",
                            "-l", folder / "old.log", "-D", folder)  # fmt: skip

                server = self.embedded(folder)

                self.assertEqual(self.ask(server, "SELECT it FROM kept"), 7)
                rules = "SELECT string_agg(auth_method, ' ') FROM pg_hba_file_rules"
                self.assertEqual(self.ask(server, rules), "peer")
                self.assertEqual(self.ask(server, "SHOW unix_socket_permissions"), "0700")


class ServiceTestCase(BaseTestCase):
    def connect(self, url):
        """Have the client speak to an app on that database, with tokens of ours."""
        known = {"SQLALCHEMY_DATABASE_URI": url, "SECRET_KEY": SECRET, "USERS_SERVICE_URL": None}
        self.own_app = create_app(type("AwayConfig", (TestingConfig,), known))
        self.client = self.own_app.test_client()
        token = self.own_app.extensions["tokens"].issue(User(7, is_admin=True), days=1)
        self.headers = {"Authorization": f"Bearer {token}"}

        def dispose():
            with self.own_app.app_context():
                db.engine.dispose()

        self.addCleanup(dispose)

    def send(self, method, path, **body):
        """Return the answer and how long it took."""
        started_at = time.monotonic()
        answer = self.client.open(path, method=method, json=body or None, headers=self.headers)
        return answer, time.monotonic() - started_at

    def assert_away(self, method, path, **body):
        answer, seconds = self.send(method, path, **body)
        self.assert_fails(answer, 503, "unavailable")
        self.assertGreaterEqual(int(answer.headers["Retry-After"]), 1)
        self.assertLess(seconds, AT_ONCE_SECONDS)
        return answer

    READS = (
        ("GET", "/scores"),
        ("GET", "/scores?user_id=7"),
        ("GET", "/scores/1"),
        ("GET", "/scores/user"),
        ("GET", "/counters"),
        ("GET", "/counters/visits"),
        ("GET", "/ready"),
    )
    WRITES = (
        ("POST", "/scores"),
        ("PUT", "/scores/1"),
        ("PATCH", "/scores"),
        ("PATCH", "/scores/1"),
    )

    def assert_everything_is_away(self):
        for method, path in self.READS:
            with self.subTest(method=method, path=path):
                self.assert_away(method, path)
        for method, path in self.WRITES:
            with self.subTest(method=method, path=path):
                self.assert_away(method, path, exercise_id=1, correct=True)
        for method, path in (
            ("POST", "/counters/visits/increment"),
            ("DELETE", "/scores/1"),
            ("GET", "/"),
        ):
            with self.subTest(method=method, path=path):
                self.assert_away(method, path)


class TestAway(ServiceTestCase):
    def setUp(self):
        super().setUp()
        # Bound but not listening: nobody else gets the port, and nobody answers.
        closed = socket.socket()
        self.addCleanup(closed.close)
        closed.bind(("127.0.0.1", 0))
        self.connect(f"postgresql://nobody:hunter2@127.0.0.1:{closed.getsockname()[1]}/none")

    def test_is_a_503_at_once_for_reads_and_writes(self):
        with self.assertLogs(self.own_app.logger, "WARNING") as logs:
            self.assert_everything_is_away()

        self.assertNotIn("hunter2", "".join(logs.output))

    def test_is_a_503_for_all_who_come_at_once(self):
        with self.assertLogs(self.own_app.logger, "WARNING"):
            answers = self.at_once(16, lambda _: self.own_app.test_client().get("/scores"))

        self.assertEqual({answer.status_code for answer in answers}, {503})

    def test_is_no_matter_for_what_needs_no_database(self):
        """The process lives, and knows its tokens and its document."""
        for path in ("/health", "/ping", "/openapi.json", "/docs"):
            with self.subTest(path):
                answer, seconds = self.send("GET", path)

                self.assertEqual(answer.status_code, 200)
                self.assertLess(seconds, AT_ONCE_SECONDS)

    def test_makes_the_service_not_ready(self):
        body = self.assert_away("GET", "/ready").get_json()

        self.assertIn("database", body["message"])
        self.assertNotIn("schema", body["message"])

    def test_tells_nobody_where_the_database_would_be(self):
        for path in ("/scores", "/ready"):
            with self.subTest(path), self.assertLogs(self.own_app.logger, "WARNING"):
                answer = self.assert_away("GET", path)
                self.own_app.logger.warning("/ready does not say it, and need not.")

                for word in (b"hunter2", b"nobody", b"127.0.0.1"):
                    self.assertNotIn(word, answer.data)


class TestRestart(ServiceTestCase):
    @classmethod
    def setUpClass(cls):
        parent = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, parent, ignore_errors=True)
        cls.postgres = EmbeddedPostgres(parent / "postgres")
        cls.addClassCleanup(cls.throw_away)

    @classmethod
    def throw_away(cls):
        cls.postgres.close()

    def setUp(self):
        super().setUp()
        self.connect(self.postgres.url.render_as_string(hide_password=False))
        with self.own_app.app_context():
            migration.recreate()
        self.fill_the_pool()

    def fill_the_pool(self):
        self.at_once(8, lambda _: self.own_app.test_client().get("/scores"))

    def stop(self):
        self.postgres.stop()

    def start(self):
        self.postgres.start()

    def increment(self):
        answer, _ = self.send("POST", "/counters/visits/increment")
        return answer

    def test_is_survived_without_a_new_app(self):
        """503 while it is away, 200 once it is back, and nothing acknowledged is lost."""
        done = [self.increment().get_json()["data"]["value"]]
        self.stop()
        with self.assertLogs(self.own_app.logger, "WARNING"):
            self.assert_everything_is_away()
        self.assertEqual(self.send("GET", "/health")[0].status_code, 200)
        self.start()

        wait_until(lambda: self.send("GET", "/ready")[0].status_code == 200)
        wait_until(lambda: self.send("GET", "/scores")[0].status_code == 200)
        done += [self.increment().get_json()["data"]["value"] for _ in range(20)]

        self.assertEqual(done, list(range(1, 22)))
        statuses = self.at_once(8, lambda _: self.own_app.test_client().get("/scores").status_code)
        self.assertEqual(set(statuses), {200})

    def test_is_not_even_noticed_where_nobody_called_meanwhile(self):
        """Connections that were idle are tried before they are trusted."""
        self.increment()
        self.stop()
        self.start()

        with mock.patch("project.postgres.TRUSTED_IDLE_SECONDS", 0):
            written = self.at_once(8, lambda _: self.increment().status_code)
            read = self.at_once(8, lambda _: self.own_app.test_client().get("/scores").status_code)

        self.assertEqual((set(written), set(read)), ({200}, {200}))
        self.assertEqual(self.increment().get_json()["data"]["value"], 10)


class TestReady(BaseTestCase):
    def run_sql(self, statement):
        with db.engine.begin() as connection:
            connection.execute(text(statement), {"head": migration.HEAD})

    def change_schema(self, statement, back):
        self.addCleanup(self.run_sql, back)
        self.run_sql(statement)

    def assert_not_ready(self, *words):
        answer = self.client.get("/ready")

        body = self.assert_fails(answer, 503, "unavailable")
        for word in ("schema", migration.HEAD, *words):
            self.assertIn(word, body["message"])
        self.assertTrue(answer.headers["Retry-After"])
        self.assertEqual(self.client.get("/health").status_code, 200)

    def test_is_the_database_with_the_schema_of_this_code(self):
        answer = self.client.get("/ready")

        self.assertEqual(answer.status_code, 200)
        data = answer.get_json()["data"]
        self.assertEqual((data["database"], data["schema_version"]), ("ok", migration.HEAD))

    def test_is_not_an_older_schema(self):
        self.change_schema(
            "UPDATE alembic_version SET version_num = '0000'",
            "UPDATE alembic_version SET version_num = :head",
        )

        self.assert_not_ready("0000")

    def test_is_not_a_later_schema(self):
        """The one that a newer version of the service, which is just being started, has made."""
        self.change_schema(
            "UPDATE alembic_version SET version_num = '9999'",
            "UPDATE alembic_version SET version_num = :head",
        )

        self.assert_not_ready("9999")

    def test_is_not_a_database_without_a_version(self):
        self.change_schema(
            "DELETE FROM alembic_version",
            "INSERT INTO alembic_version VALUES (:head)",
        )

        self.assert_not_ready()

    def test_is_not_a_database_that_was_never_migrated(self):
        self.change_schema(
            "ALTER TABLE alembic_version RENAME TO alembic_version_away",
            "ALTER TABLE alembic_version_away RENAME TO alembic_version",
        )

        self.assert_not_ready()

    def test_is_asked_every_time(self):
        """It recovers by itself, and falls again."""
        self.test_is_not_an_older_schema()
        self.doCleanups()

        self.assertEqual(self.client.get("/ready").status_code, 200)


class TestUrlParameters(BaseTestCase):
    def setUp(self):
        super().setUp()
        options = r"-c search_path=public,pg_temp -cstatement_timeout=9s -c eval.note=two\ words"
        url = database_url().update_query_dict(
            {"options": options, "application_name": "a sibling", "connect_timeout": "5"}
        )
        known = {"SQLALCHEMY_DATABASE_URI": url.render_as_string(hide_password=False)}
        own_app = create_app(type("OptionsConfig", (TestingConfig,), known))
        self.enterContext(own_app.app_context())
        self.addCleanup(db.engine.dispose)
        self.addCleanup(db.autocommit_engine.dispose)

    def test_options_are_merged_with_our_settings(self):
        for name, value in [
            ("search_path", "public,pg_temp"),
            ("eval.note", "two words"),
            ("application_name", "a sibling"),
            ("statement_timeout", "2500ms"),  # STATEMENT_TIMEOUT_SECONDS takes precedence
            ("timezone", "UTC"),
        ]:
            for engine in (db.engine, db.autocommit_engine):
                with self.subTest(name, engine=engine), engine.connect() as connection:
                    found = connection.execute(text(f"SHOW {name}")).scalar()

                    self.assertEqual(found, value)
