"""One connection to PostgreSQL, straight to it or by way of a pooler.

A pooler in transaction mode (PgBouncer and its like) gives each transaction whichever of its
connections to PostgreSQL is free. What was set or prepared on one is not there the next time, or
is found by somebody else. So where a pooler stands between, nothing is prepared (see
`project.statements`), and every transaction brings its settings along, in the message that
begins it.
"""

import re
from collections.abc import Mapping
from typing import Any

import psycopg2
from psycopg2 import extensions, extras

# What a pooler says to whoever sets parameters while connecting.
REFUSAL = "unsupported startup parameter"
TIMEOUTS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")


class Connection(extensions.connection):
    """A psycopg2 connection that knows whether a pooler stands between."""

    is_pooled = False
    settings: dict[str, str]

    def lift_timeouts(self) -> None:
        """Let every statement from now on take as long as it takes."""
        self.settings = self.settings | dict.fromkeys(TIMEOUTS, "0")
        if self.is_pooled:
            return  # what is set would stay with the pooler's connection
        with self.cursor() as cursor:
            cursor.execute("; ".join(f"SET {name} = 0" for name in TIMEOUTS))
        if not self.autocommit:
            self.commit()

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Return a cursor; behind a pooler, one that brings the settings along."""
        if self.is_pooled:
            kind = kwargs.get("cursor_factory")
            kwargs["cursor_factory"] = BRINGING.get(kind, kind)
        return super().cursor(*args, **kwargs)


class _Bringing(extensions.cursor):
    """A cursor that begins every transaction with the connection's settings."""

    connection: Connection

    def execute(self, query: Any, values: Any = None) -> None:
        """Run the query, in one message with the settings where it begins a transaction."""
        if self.connection.info.transaction_status == extensions.TRANSACTION_STATUS_IDLE:
            settings = self.connection.settings.items()
            prefix = "".join(f"SET LOCAL {name} = {_quoted(name, v)}; " for name, v in settings)
            query = (prefix if values is None else prefix.replace("%", "%%")) + query
        super().execute(query, values)


class _BringingNamedTuples(extras.NamedTupleCursor, _Bringing):
    """The same, whose rows are named tuples."""


BRINGING = {None: _Bringing, extras.NamedTupleCursor: _BringingNamedTuples}


def open_connection(settings: Mapping[str, str], **arguments: Any) -> Connection:
    """Return a new connection that has these settings; `arguments` are those of libpq.

    `settings` include those of the argument `options`.
    """
    options = " ".join(f"-c {name}={_escaped(value)}" for name, value in settings.items())
    arguments.pop("options", None)
    arguments["connection_factory"] = Connection
    try:
        connection: Connection = psycopg2.connect(options=options, **arguments)
    except psycopg2.OperationalError as error:
        if REFUSAL not in str(error):
            raise
        connection = psycopg2.connect(**arguments)
    connection.settings = dict(settings)
    connection.is_pooled = _is_pooled(connection)
    return connection


def _escaped(value: str) -> str:
    """Return a value as one word of `options`, in which a backslash escapes a space."""
    return re.sub(r"([\s\\])", r"\\\1", value)


def _quoted(name: str, value: str) -> str:
    """Return a value as SET takes it; only search_path may be a list."""
    values = value.split(",") if name == "search_path" else [value]
    items = (item.strip().strip('"') if len(values) > 1 else item for item in values)
    return ", ".join("'" + item.replace("'", "''") + "'" for item in items)


def _is_pooled(connection: Connection) -> bool:
    """Return whether a pooler stands between.

    Who connects is told the number of the process that serves it, to cancel its statements by.
    A pooler has none to tell, since it changes, and makes up a number of its own.
    """
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        [(pid,)] = cursor.fetchall()
    connection.autocommit = False
    return bool(pid != connection.info.backend_pid)
