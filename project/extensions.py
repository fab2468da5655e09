"""The extensions: made here, bound to an app in `create_app()`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import psycopg2
from flask import current_app
from flask_cors import CORS
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from psycopg2.errors import DeadlockDetected, SerializationFailure
from sqlalchemy import Engine, MetaData, PoolProxiedConnection, QueuePool, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

MIGRATIONS = Path(__file__).parent.parent / "migrations"

MOST_RETRIES = 3

Result = TypeVar("Result")

# Names as PostgreSQL itself would give them.
NAMES = {
    "pk": "%(table_name)s_pkey",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "ck": "%(table_name)s_%(constraint_name)s_check",
}


class OutcomeUnknown(Exception):
    """PostgreSQL was lost during a write: nobody knows whether it was committed."""


# Errors for which the statement is not to blame: a lost connection, and, since psycopg2 derives
# them from OperationalError, timeouts and exhausted resources. `refusals.cause_of()` names which.
AWAY = (
    OutcomeUnknown,
    psycopg2.OperationalError,
    psycopg2.InterfaceError,
    OperationalError,
    PoolTimeout,
)


def _was_rolled_back(error: psycopg2.Error) -> bool:
    """Return whether PostgreSQL itself said that a statement came to nothing.

    Without SQLSTATE the connection was lost, and class 08 says so. A server that goes down
    (57P01 and its like) may tell its clients after it has committed.
    """
    sqlstate = error.pgcode
    return sqlstate is not None and not sqlstate.startswith(("08", "57P"))


class Statement(Protocol):
    """What runs on a connection and gives rows."""

    def run(self, connection: PoolProxiedConnection, **values: Any) -> list[Any]:
        """Return the rows."""


def _borrow(engine: Engine) -> PoolProxiedConnection:
    """Return a connection of the pool; raise OperationalError at once while PostgreSQL hangs."""
    current_app.extensions["watchdog"].refuse_while_it_hangs()
    return engine.raw_connection()


class Database(SQLAlchemy):
    """Flask-SQLAlchemy, and the two ways by which a query reaches PostgreSQL.

    `engine` gives connections with transactions. `autocommit_engine` gives connections on which
    each statement is its own transaction, in one round trip instead of three. They have a pool
    each: to switch a connection back and forth costs, and fails in the pool's hands where
    PostgreSQL was lost.
    """

    @property
    def autocommit_engine(self) -> Engine:
        """The engine of the current app for single statements."""
        engine: Engine = current_app.extensions["autocommit_engine"]
        return engine

    def create_all(self, bind_key: Any = "__all__") -> None:
        """Create the tables of the models in the testing database; refuse any other."""
        _require_testing_database("create_all", "db upgrade")
        super().create_all(bind_key)

    def drop_all(self, bind_key: Any = "__all__") -> None:
        """Drop the tables of the models in the testing database; refuse any other."""
        _require_testing_database("drop_all", "recreate_db")
        super().drop_all(bind_key)

    @property
    def pools(self) -> dict[str, QueuePool]:
        """The pools of the current app, by what their connections are for."""
        engines = {"transactions": self.engine, "statements": self.autocommit_engine}
        return {name: cast(QueuePool, engine.pool) for name, engine in engines.items()}

    def read(self, statement: Statement, **values: Any) -> list[Any]:
        """Return the rows of one statement that reads, in one round trip."""
        engine = self.autocommit_engine
        connection = _borrow(engine)
        try:
            return statement.run(connection, **values)
        except psycopg2.Error as error:
            if not _was_rolled_back(error):
                _discard(connection, engine, error)
            raise
        finally:
            connection.close()  # back to the pool

    @contextmanager
    def writing(self, *, one_statement: bool = False) -> Iterator[PoolProxiedConnection]:
        """Give a connection with a transaction that is committed at the end of the block.

        With `one_statement` that statement is its own transaction, which saves two round trips.
        Raise OutcomeUnknown where PostgreSQL is lost once the block has begun.
        """
        engine = self.autocommit_engine if one_statement else self.engine
        connection = _borrow(engine)
        try:
            yield connection
            if not one_statement:
                connection.commit()
        except psycopg2.Error as error:
            if _was_rolled_back(error):
                raise
            _discard(connection, engine, error)
            raise OutcomeUnknown from error
        finally:
            connection.close()  # back to the pool, which rolls back what was not committed

    def transact(
        self, work: Callable[[PoolProxiedConnection], Result], *, one_statement: bool = False
    ) -> Result:
        """Return what `work` returns, in a transaction that is committed.

        Where PostgreSQL rolls it back only because it met another one, it is tried again.
        """
        for _ in range(MOST_RETRIES):
            try:
                with self.writing(one_statement=one_statement) as connection:
                    return work(connection)
            except (SerializationFailure, DeadlockDetected):
                continue
        with self.writing(one_statement=one_statement) as connection:
            return work(connection)

    @contextmanager
    def unhurried(self) -> Iterator[None]:
        """Let every statement of the block take as long as it takes."""
        engines = (self.engine, self.autocommit_engine)
        for engine in engines:
            event.listen(engine, "checkout", _lift_timeouts)
        try:
            yield
        finally:
            for engine in engines:
                event.remove(engine, "checkout", _lift_timeouts)
                engine.dispose()  # the next connections have their timeouts again


def _require_testing_database(method: str, command: str) -> None:
    """Raise RuntimeError if the current app does not use the testing database."""
    if not (current_app.testing and current_app.extensions["settings"].testing):
        raise RuntimeError(
            f"db.{method}() works only on the testing database: run `python manage.py {command}`, "
            "or load project.config.TestingConfig into the app before its first request."
        )


def _discard(connection: PoolProxiedConnection, engine: Engine, error: psycopg2.Error) -> None:
    """Throw a lost connection away, and with it those that are idle: they are as old."""
    connection.invalidate(error)
    engine.dispose()


def _lift_timeouts(connection: Any, *_: Any) -> None:
    connection.lift_timeouts()


db = Database(metadata=MetaData(naming_convention=NAMES))
# Flask-Migrate writes the path into a configuration in which % begins a reference.
migrate = Migrate(directory=str(MIGRATIONS).replace("%", "%%"), compare_server_default=True)
cors = CORS()
