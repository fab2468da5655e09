"""Real processes to do damage to: a PostgreSQL, a service, and clients that keep the books."""

import http.client
import json
import os
import shutil
import signal
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
from typing import Any

import psutil
import psycopg2

from project import create_app, db
from project.config import TestingConfig
from project.postgres import EmbeddedPostgres
from project.tests.processes import ROOT, free_port, wait_until
from project.tokens import Tokens
from project.users import User

SECRET = "a secret of the fault tests, long enough"
TOKEN = Tokens(SECRET).issue(User(7, is_service=True), days=1)
WORKERS = 3
# How long a client repeats an increment that has a key.
PERSISTENCE_SECONDS = 20


class Postgres:
    """A PostgreSQL that can be killed and started again."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="eval-faults-"))
        self.start()

    def start(self) -> None:
        self._embedded = EmbeddedPostgres(self._folder / "postgres")
        self.url = self._embedded.url.render_as_string(hide_password=False)

    @property
    def pid(self) -> int:
        return int((self._folder / "postgres" / "postmaster.pid").read_text().split("\n")[0])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

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
            self._embedded._started().cleanup()
        shutil.rmtree(self._folder, ignore_errors=True)


class Service:
    """The service as its users start it: granian, with several workers."""

    def __init__(self, postgres: Postgres, **environment: str) -> None:
        self.port = free_port()
        self._environment = os.environ | {
            "APP_SETTINGS": "project.config.ProductionConfig",
            "DATABASE_URL": postgres.url,
            "SECRET_KEY": SECRET,
            "CORS_ORIGINS": "*",
            "WORKERS": str(WORKERS),
            "THREADS": "32",
            "PORT": str(self.port),
            **environment,
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
        if self.process.poll() is not None:
            raise AssertionError(self.output())
        with suppress(OSError, http.client.HTTPException):
            return self.get("/ready")[0] == 200
        return False

    def get(self, path: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
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
        """The processes that answer, the oldest first."""
        serving = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.NoSuchProcess):
                if "spawn_main" in " ".join(child.cmdline()):
                    serving.append((child.create_time(), child.pid, child))
        return [child for *_, child in sorted(serving)]

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
    """What the clients know: the values they were given, and how many answers never came."""

    values: list[int] = field(default_factory=list)
    unknown: int = 0
    strange: list[tuple[int, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, value: int) -> None:
        with self.lock:
            self.values.append(value)

    def note_unknown(self) -> None:
        with self.lock:
            self.unknown += 1

    def note_strange(self, status: int, body: Any) -> None:
        with self.lock:
            self.strange.append((status, body))


class Client(threading.Thread):
    """Counts until it is told to stop, or so many times; keeps its connection alive.

    With keys it repeats each increment until it is answered. Without, an answer that never
    came is an increment that may or may not have happened.
    """

    def __init__(
        self, port: int, books: Books, *, name: str, keys: bool = False, count: int = 10**9
    ) -> None:
        super().__init__(daemon=True)
        self._port, self._books, self._counter = port, books, name
        self._keys, self._count = keys, count
        self.stopping = threading.Event()
        self._connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        for _ in range(self._count):
            if self.stopping.is_set():
                return
            key = uuid.uuid4().hex if self._keys else None
            deadline = time.monotonic() + PERSISTENCE_SECONDS
            while not self._increment(key) and key and time.monotonic() < deadline:
                time.sleep(0.02)

    def _increment(self, key: str | None) -> bool:
        """Send one increment; return whether the outcome is known."""
        try:
            status, body = self._send(key)
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
    service: Service, clients: int, *, name: str = "hot", keys: bool = False
) -> Iterator[Books]:
    """Have clients count for as long as the block lasts; then let each finish its last one."""
    books = Books()
    crew = [Client(service.port, books, name=name, keys=keys) for _ in range(clients)]
    for client in crew:
        client.start()
    try:
        wait_until(lambda: len(books.values) > clients)
        yield books
    finally:
        for client in crew:
            client.stopping.set()
        for client in crew:
            client.join(30)


class FaultTestCase(unittest.TestCase):
    """A test on real processes; the module makes its `postgres`."""

    postgres: Postgres

    def sql(self, statement):
        connection = psycopg2.connect(self.postgres.url.replace("+psycopg2", ""))
        connection.autocommit = True
        with closing(connection), connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else None

    def empty(self):
        tables = ", ".join(table.name for table in db.metadata.sorted_tables)
        self.sql(f"TRUNCATE {tables}; ALTER SEQUENCE scores_id_seq RESTART")
