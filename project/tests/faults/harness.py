"""Real processes to do damage to: a PostgreSQL, a service, and clients that keep the books."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import psycopg2
from sqlalchemy.engine import make_url

from project import create_app, db
from project.config import TestingConfig
from project.embedded import EmbeddedPostgres
from project.tests.processes import LATENESS_SECONDS, ROOT, free_port, wait_until
from project.tokens import Tokens
from project.users import User

SECRET = "a secret of the fault tests, long enough"
TOKEN = Tokens(SECRET).issue(User(7, is_service=True), days=1)
WORKERS = 2
# How long a client repeats an increment that has a key.
PERSISTENCE_SECONDS = 60
# How long a client rests between two increments where the processor is not what is tested.
PAUSE_SECONDS = 0.02
# How long a client leaves a service alone that is not there, so that it can start.
ABSENCE_SECONDS = 0.1
# How long a test of a fault goes on once it is over.
LOAD_SECONDS = 1.0
# By when every request is answered, and by when all is as before the fault.
ANSWER_SECONDS = 3.0 + LATENESS_SECONDS
RECOVERY_SECONDS = 5.0 + LATENESS_SECONDS


class Postgres:
    """A PostgreSQL that can be killed and started again."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="eval-faults-"))
        self.embedded = EmbeddedPostgres(self._folder / "postgres")
        self.start()

    def start(self) -> None:
        self.embedded.start()
        self.url = self.embedded.url.render_as_string(hide_password=False)

    @property
    def pid(self) -> int:
        return int((self._folder / "postgres" / "postmaster.pid").read_text().split("\n")[0])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    @property
    def folder(self) -> Path:
        return self._folder / "postgres"

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Have all its processes hang for as long as the block lasts."""
        family = [psutil.Process(self.pid)]
        family += family[0].children(recursive=True)
        for member in family:
            member.suspend()
        try:
            yield
        finally:
            for member in family:
                member.resume()

    def halt(self) -> None:
        """Stop it in order, if it runs."""
        self.embedded.stop()

    def is_running(self) -> bool:
        return self.embedded.is_running()

    def restart(self) -> None:
        self.halt()
        self.start()

    @contextmanager
    def app(self) -> Iterator[None]:
        """Give the context of an app on this database, in this process."""
        known = {"SQLALCHEMY_DATABASE_URI": self.url}
        with create_app(type("FaultConfig", (TestingConfig,), known)).app_context():
            try:
                yield
            finally:
                db.engine.dispose()
                db.autocommit_engine.dispose()

    def stop(self) -> None:
        with suppress(Exception):
            self.embedded.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def workers_of(pid: int) -> list[psutil.Process]:
    """Return the worker processes of a service, the oldest first."""
    workers = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                workers.append((child.create_time(), child.pid, child))
    return [child for *_, child in sorted(workers)]


class Service:
    """The service as its users start it: granian, with several workers."""

    def __init__(self, postgres: Postgres, **settings: str) -> None:
        self.port = free_port()
        self.size = int(settings.get("WORKERS", WORKERS))
        self._environment = os.environ | {
            "APP_SETTINGS": "project.config.ProductionConfig",
            "DATABASE_URL": postgres.url,
            "SECRET_KEY": SECRET,
            "CORS_ORIGINS": "*",
            "WORKERS": str(self.size),
            "THREADS": "32",
            "PORT": str(self.port),
            **settings,
        }
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by stop()
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "manage.py"), "serve"],
            env=self._environment,
            stdout=self.log,
            stderr=self.log,
            cwd=ROOT,
        )
        try:
            wait_until(self.is_ready)
        except BaseException:  # also Ctrl-C: nobody else knows of this process yet
            self.stop()
            raise

    def is_ready(self) -> bool:
        """Return whether it answers, with all of its workers."""
        if self.process.poll() is not None:
            raise AssertionError(self.output())
        with suppress(OSError, http.client.HTTPException, psutil.NoSuchProcess):
            return self.get("/ready")[0] == 200 and self._listening() == self.size
        return False

    def _listening(self) -> int:
        """Return how many workers take connections; one that is still starting refuses them."""
        lines = [line for worker in self.workers for line in worker.net_connections()]
        return sum(line.status == psutil.CONN_LISTEN for line in lines)

    def get(self, path: str, token: str | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def value(self, name: str) -> int:
        return int(self.get(f"/counters/{name}")[1]["data"]["value"])

    def audit(self, name: str) -> dict[str, Any]:
        audit: dict[str, Any] = self.get(f"/counters/{name}/audit")[1]["data"]
        return audit

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes that answer or will, the oldest first."""
        return workers_of(self.process.pid)

    def kill_worker(self) -> None:
        self.workers[0].kill()

    def kill(self) -> None:
        """Kill the whole service, as the kernel would."""
        family = [psutil.Process(self.process.pid)]
        family += family[0].children(recursive=True)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.wait(10)

    def terminate(self) -> int:
        """Ask the service to end, and return its exit code."""
        self.process.terminate()
        return self.process.wait(20)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.kill()
        self.log.close()

    def output(self) -> str:
        self.log.seek(0)
        return self.log.read()


@dataclass
class Books:
    """What the clients know.

    The values that they were given, of how many increments nobody said whether they happened, and
    how often they were refused, which counted nothing: by an answer, or for want of who listens.
    """

    values: list[int] = field(default_factory=list)
    unknown: int = 0
    refused: int = 0
    strange: list[tuple[int, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def failed(self) -> int:
        """How many requests were not answered with a value."""
        return self.unknown + self.refused

    def note(self, value: int) -> None:
        with self.lock:
            self.values.append(value)

    def note_unknown(self) -> None:
        with self.lock:
            self.unknown += 1

    def note_refused(self) -> None:
        with self.lock:
            self.refused += 1

    def note_strange(self, status: int, body: Any) -> None:
        with self.lock:
            self.strange.append((status, body))


class Client(threading.Thread):
    """Counts until it is told to stop, or so many times; keeps its connection alive.

    With keys it repeats each increment until it is answered. Without, an answer that never
    came is an increment that may or may not have happened.
    """

    def __init__(
        self,
        port: int,
        books: Books,
        *,
        name: str,
        keys: bool = False,
        count: int = 10**9,
        pause: float = 0,
    ) -> None:
        super().__init__(daemon=True)
        self._port, self._books, self._counter = port, books, name
        self._keys, self._count, self._pause = keys, count, pause
        self.stopping = threading.Event()
        self._connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        for _ in range(self._count):
            if self.stopping.wait(self._pause):
                return
            key = uuid.uuid4().hex if self._keys else None
            deadline = time.monotonic() + PERSISTENCE_SECONDS
            while not self._increment(key) and key and time.monotonic() < deadline:
                time.sleep(0.02)

    def _increment(self, key: str | None) -> bool:
        """Send one increment; return whether that is all, or who has a key is to send it again."""
        try:
            status, body = self._send(key)
        except ConnectionRefusedError:  # nothing was sent, and so nothing is stored
            self._connection = None
            self._books.note_refused()
            time.sleep(ABSENCE_SECONDS)
            return False
        except (OSError, http.client.HTTPException, ValueError):
            self._connection = None
            self._books.note_unknown()
            time.sleep(0.01)
            return False
        if status == 200:
            self._books.note(body["data"]["value"])
            return True
        if status in {409, 503} and (key or status == 503):
            if "unknown" in body["message"]:
                self._books.note_unknown()
            else:
                self._books.note_refused()
            time.sleep(0.01)
            return False
        self._books.note_strange(status, body)
        return True

    def _send(self, key: str | None) -> tuple[int, Any]:
        return self.post(f"/counters/{self._counter}/increment", {"by": 1}, key)

    def post(self, path: str, body: Any, key: str | None = None) -> tuple[int, Any]:
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        if key:
            headers["Idempotency-Key"] = key
        self._connection.request("POST", path, json.dumps(body), headers)
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())


@contextmanager
def load(
    service: Service,
    clients: int,
    *,
    name: str = "hot",
    keys: bool = False,
    pause: float = PAUSE_SECONDS,
) -> Iterator[Books]:
    """Have clients count for as long as the block lasts; then let each finish its last one."""
    books = Books()
    crew = [Client(service.port, books, name=name, keys=keys, pause=pause) for _ in range(clients)]
    for client in crew:
        client.start()
    try:
        wait_until(lambda: len(books.values) > clients)
        yield books
    finally:
        for client in crew:
            client.stopping.set()
        for client in crew:
            client.join(PERSISTENCE_SECONDS + 30)


class Proxy:
    """What stands between the service and PostgreSQL, and can cut all connections."""

    def __init__(self, postgres: Postgres) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="eval-proxy-")
        target = make_url(postgres.url)
        # It is named by a port, which PGPORT may have said.
        [name] = [path.name for path in Path(target.query["host"]).glob(".s.PGSQL.*[0-9]")]
        self._target = f"{target.query['host']}/{name}"
        self.url = target.set(query={"host": self._folder.name}).render_as_string(False)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._folder.name}/{name}")
        self._listener.listen(256)
        self._lines: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.socket(socket.AF_UNIX)
                try:
                    far.connect(self._target)
                except OSError:
                    near.close()
                    continue
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        self._lines.add(source)
        with suppress(OSError):
            while part := source.recv(65536):
                target.sendall(part)
        self._lines.discard(source)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
        source.close()

    def cut(self) -> None:
        """Break every connection, whatever is on its way."""
        for line in self._lines.copy():
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._folder.cleanup()


class Visit(NamedTuple):
    """One question: which, what came, and how long that took."""

    path: str
    status: int  # 0 where no answer came
    seconds: float


class Visitor(threading.Thread):
    """Asks one path over and over, each time over a connection of its own."""

    def __init__(self, service: Service, path: str) -> None:
        super().__init__(daemon=True)
        self._service, self._path = service, path
        self.visits: list[Visit] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        while not self.stopping.wait(0.05):
            began = time.monotonic()
            status = 0
            with suppress(OSError, http.client.HTTPException, ValueError):
                status = self._service.get(self._path)[0]
            self.visits.append(Visit(self._path, status, time.monotonic() - began))


@contextmanager
def visitors(service: Service, *paths: str) -> Iterator[list[Visit]]:
    """Have each path asked for as long as the block lasts; then give what came."""
    crew = [Visitor(service, path) for path in paths]
    visits: list[Visit] = []
    for visitor in crew:
        visitor.start()
    try:
        yield visits
    finally:
        for visitor in crew:
            visitor.stopping.set()
        for visitor in crew:
            visitor.join(30)
            visits += visitor.visits


class FaultTestCase(unittest.TestCase):
    """A test on real processes; the module makes its `postgres`."""

    postgres: Postgres

    def report(self, what, seconds):
        print(f"{what}: {seconds:.2f} s", flush=True)

    def assert_answered(self, visits, *unharmed):
        """Every visitor was answered in time, with 503 at worst; at `unharmed`, always with 200."""
        self.assertTrue(visits)
        for visit in visits:
            expected = {200} if visit.path in unharmed else {200, 503}
            self.assertIn(visit.status, expected, visit)
            self.assertLess(visit.seconds, ANSWER_SECONDS, visit)

    def assert_recovers(self, books, what):
        """Increments are answered again soon; say after how long."""
        began, known = time.monotonic(), len(books.values)
        wait_until(lambda: len(books.values) > known + 10, seconds=RECOVERY_SECONDS)
        self.report(f"after {what} the next answers took", time.monotonic() - began)

    def sql(self, statement):
        connection = psycopg2.connect(self.postgres.url.replace("+psycopg2", ""))
        connection.autocommit = True
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else None

    def empty(self):
        tables = ", ".join(table.name for table in db.metadata.sorted_tables)
        self.sql(f"TRUNCATE {tables}; ALTER SEQUENCE scores_id_seq RESTART")


class CountsTestCase(FaultTestCase):
    """One service for all tests; who ends it leaves it to the next to start it again."""

    service: Service

    def setUp(self):
        if self.service.process.poll() is not None:
            self.service.start()
        else:
            wait_until(self.service.is_ready)
        self.empty()

    def assert_nothing_lost(self, books, name="hot"):
        """Without keys: stored is what was answered, and at most what was not answered."""
        stored = self.service.value(name)
        self.assertEqual(books.strange, [], self.service.output())
        self.assertEqual(len(set(books.values)), len(books.values), "a value was given twice")
        self.assertLessEqual(max(books.values), stored)
        self.assertLessEqual(len(books.values), stored)
        self.assertLessEqual(stored, len(books.values) + books.unknown, self.service.output())
        self.assertTrue(self.service.audit(name)["consistent"])

    def assert_exactly_once(self, books, name="keyed"):
        """With keys and clients that repeat: each increment happened once."""
        self.assertEqual(books.strange, [])
        self.assertEqual(sorted(books.values), list(range(1, len(books.values) + 1)))
        self.assertEqual(self.service.value(name), len(books.values))
        self.assertTrue(self.service.audit(name)["consistent"])

    @contextmanager
    def under_load(self, pause=PAUSE_SECONDS):
        """Count with and without keys for as long as the block lasts; then look at the books."""
        with (
            load(self.service, 16, name="hot", pause=pause) as books,
            load(self.service, 16, name="keyed", keys=True, pause=pause) as keyed,
        ):
            yield books
            time.sleep(LOAD_SECONDS)
        self.assert_nothing_lost(books)
        self.assert_exactly_once(keyed)
