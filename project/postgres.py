"""Connections to PostgreSQL: engines, session settings, and checks at the start."""

import time
from logging import Logger
from typing import Any

import psycopg2
from sqlalchemy import URL, Engine, create_engine, event, text
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2
from sqlalchemy.exc import DisconnectionError, OperationalError

from project.config import SettingError, Settings, session_settings
from project.connection import Connection, open_connection
from project.embedded import EmbeddedPostgres
from project.extensions import db
from project.watchdog import Watchdog

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
