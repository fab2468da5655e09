"""What is measured, started: PostgreSQL on one kind of disk, and the servers on top of it.

    with Place("slow") as place:
        place.service       # "127.0.0.1:40123"; started when first asked for
                            # and all of it is stopped at the end, however that comes

Everything listens on loopback, on free ports, and keeps its files in a temporary folder.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import psycopg2

from project.embedded import EmbeddedPostgres, programs

HERE = Path(__file__).parent
READY_SECONDS = 30
GRACE_SECONDS = 15
WORKERS = 2
THREADS = 32

# Of the service, which are the same for whatever it is compared with.
SETTINGS = {
    "APP_SETTINGS": "project.config.ProductionConfig",
    "SECRET_KEY": "a secret of the benchmarks and of nobody else",
    "CORS_ORIGINS": "*",
    "HOST": "127.0.0.1",
    "WORKERS": str(WORKERS),
    "THREADS": str(THREADS),
}

# Three of the servers have a connection for each of their threads.
POSTGRES_SETTINGS = {"max_connections": "300"}

RIVALS = """
    CREATE SCHEMA rivals;
    CREATE TABLE rivals.counters (
        name text COLLATE "C" PRIMARY KEY,
        value bigint NOT NULL,
        version bigint NOT NULL DEFAULT 1,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE rivals.tutorial (name text PRIMARY KEY, value bigint NOT NULL);
    INSERT INTO rivals.tutorial VALUES ('hot', 0);
"""


class NotReady(Exception):
    """Something that a benchmark needs did not start; the message says why."""


class Place:
    """One kind of disk, and what runs on it.

    With `keep` PostgreSQL has its data in that folder, and they stay there.
    """

    database = "postgres"
    postgres_settings = POSTGRES_SETTINGS

    def __init__(self, disk: str, keep: Path | None = None) -> None:
        self.disk = disk
        self._keep = keep
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            self.folder = Path(tempfile.mkdtemp(prefix=f"benchmark-{self.disk}-"))
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self._postgres = stack.enter_context(
                _postgres(self._keep or self.folder, self.postgres_settings, self._preloaded)
            )
            self._fill()
            self._stack = stack.pop_all()
        return self

    def _fill(self) -> None:
        """Make what the rivals keep; the service makes its tables itself."""
        self._connection.cursor().execute(RIVALS)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def socket_folder(self) -> str:
        """Where PostgreSQL's socket is: libpq's `host`."""
        return str(self._postgres.url.query["host"])

    @property
    def binaries(self) -> Path:
        """Where PostgreSQL's programs are, pgbench among them."""
        return programs()

    def ask(self, statement: str, *values: Any) -> Any:
        """Return the one value that a statement gives."""
        rows = self.ask_all(statement, *values)
        return rows[0][0] if rows else None

    def ask_all(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the rows that a statement gives."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows

    @cached_property
    def _connection(self) -> Any:
        return self._connect(self.database)

    def _connect(self, database: str) -> Any:
        connection = psycopg2.connect(host=self.socket_folder, user="postgres", dbname=database)
        connection.autocommit = True
        self._stack.callback(connection.close)
        return connection

    @cached_property
    def _preloaded(self) -> dict[str, str]:
        """What is set for whoever writes to this kind of disk."""
        return _preloaded(self.folder) if self.disk == "slow" else {}

    @cached_property
    def _environment(self) -> dict[str, str]:
        return SETTINGS | {
            "DATABASE_URL": self._url(self.database),
            "USERS_SERVICE_URL": f"http://{self._flask('apps:users')}",
        }

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.socket_folder}"

    @cached_property
    def service(self) -> str:
        """The address of the service."""
        port = _free_port()
        command = [sys.executable, "manage.py", "serve"]
        return self._start(command, port, "/health", self._environment | {"PORT": str(port)})

    @cached_property
    def service_token(self) -> str:
        """A token of the service's own, of a sibling service."""
        command = [sys.executable, "manage.py", "issue_token", "--user-id", "1", "--service"]
        environment = {**os.environ, **self._environment}
        return subprocess.check_output(command, env=environment, text=True).strip()

    @cached_property
    def uncombined(self) -> str:
        """The address of the service without its combiner, on the same tables."""
        assert self.service  # which has made the tables  # noqa: S101
        return self._flask("uncombined:app", "/health", self._environment)

    @cached_property
    def empty(self) -> str:
        """The address of the empty route."""
        return self._flask("apps:empty")

    @cached_property
    def tutorial(self) -> str:
        """The address of the tutorial's design."""
        return self._flask("apps:tutorial", environment=self._environment)

    @cached_property
    def redis(self) -> str:
        """The address of a Flask app that counts in Redis."""
        port = str(_free_port())
        options = {"port": port, "bind": "127.0.0.1", "dir": str(self.folder), "save": ""}
        options |= {"appendonly": "yes", "appendfsync": "always"}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        # Debian's server and its tools are one program, which looks at the name it is called by.
        self._run(["redis-server", *words], self._preloaded, executable=redis_program())
        return self._flask("apps:redis", environment={"REDIS_PORT": port})

    def _flask(
        self, target: str, path: str = "/", environment: Mapping[str, str] | None = None
    ) -> str:
        """Serve an app of ours as the service is served; return its address."""
        port = _free_port()
        options = {
            "interface": "wsgi",
            "workers": WORKERS,
            "blocking-threads": THREADS,
            "backpressure": 4096,
            "log-level": "info",
            "host": "127.0.0.1",
            "port": port,
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        command = [sys.executable, "-m", "granian", "--factory", *words, f"benchmarks.{target}"]
        return self._start(command, port, path, environment or {})

    def _start(
        self, command: Sequence[str], port: int, path: str, environment: Mapping[str, str]
    ) -> str:
        """Run a server until the end; return its address once it answers at `path`."""
        address = f"127.0.0.1:{port}"
        process, log = self._run(command, environment)
        deadline = time.monotonic() + READY_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"http://{address}{path}", timeout=1):
                return address
            time.sleep(0.05)
        raise NotReady(f"{' '.join(command)} does not answer:\n{log.read_text()[-2000:]}")

    def _run(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        executable: str | None = None,
    ) -> tuple[subprocess.Popen[bytes], Path]:
        """Run a program until the end; return it and where it writes what it has to say."""
        log = self.folder / f"{time.monotonic_ns()}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                executable=executable,
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for us; we stop it in our turn
            )
        self._stack.callback(_stop, process)
        return process, log


def redis_program() -> str | None:
    """Return where Redis' server is installed, or None."""
    return shutil.which("redis-server") or shutil.which("redis-check-rdb")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    # Its workers have ended with it, unless it was told so early that it did not know them yet.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _postgres(
    folder: Path, settings: Mapping[str, str], environment: Mapping[str, str]
) -> Iterator[EmbeddedPostgres]:
    """Run PostgreSQL as it is set up by default, but for these settings; with fsync on."""
    server = EmbeddedPostgres(folder / "data")
    server.start()
    server.stop()
    lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
    (server.directory / "postgresql.auto.conf").write_text("".join(lines))
    ours = dict(os.environ)
    os.environ.update(environment)
    try:
        server.start()
    finally:
        os.environ.clear()
        os.environ.update(ours)
    try:
        yield server
    finally:
        server.close()


def _preloaded(folder: Path) -> dict[str, str]:
    """Return the environment that makes the disk slow for whoever is started in it."""
    library = folder / "slow_disk.so"
    source = HERE / "slow_disk.c"
    command = ["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"]
    if not library.exists():
        subprocess.run(command, check=True)
        library.chmod(0o755)
    return {"LD_PRELOAD": str(library)}
