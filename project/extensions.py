"""The extensions: made here, bound to an app in `create_app()`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from flask_cors import CORS
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from psycopg2.errorcodes import DEADLOCK_DETECTED, SERIALIZATION_FAILURE
from sqlalchemy import Connection, Executable, MetaData, Row
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
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


# What says nothing of the statement, but that PostgreSQL is away, or was lost.
AWAY = (OutcomeUnknown, OperationalError, InterfaceError, PoolTimeout)


class Database(SQLAlchemy):
    """Flask-SQLAlchemy, and the two ways by which a query reaches PostgreSQL."""

    def read(self, statement: Executable, **values: Any) -> Sequence[Row[Any]]:
        """Return the rows of one statement that reads, in one round trip."""
        with self.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            return connection.execute(statement, values).all()

    @contextmanager
    def writing(self, *, one_statement: bool = False) -> Iterator[Connection]:
        """Give a connection with a transaction that is committed at the end of the block.

        With `one_statement` that statement is its own transaction, which saves two round trips.
        Raise OutcomeUnknown where the connection is lost once the block has it.
        """
        with self.engine.connect() as connection:
            if one_statement:
                connection.execution_options(isolation_level="AUTOCOMMIT")
            try:
                with connection.begin():
                    yield connection
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise OutcomeUnknown from error
                raise

    def transact(
        self, work: Callable[[Connection], Result], *, one_statement: bool = False
    ) -> Result:
        """Return what `work` returns, in a transaction that is committed.

        Where PostgreSQL rolls it back only because it met another one, it is tried again.
        """
        for _ in range(MOST_RETRIES):
            try:
                with self.writing(one_statement=one_statement) as connection:
                    return work(connection)
            except OperationalError as error:
                if getattr(error.orig, "pgcode", None) not in {
                    SERIALIZATION_FAILURE,
                    DEADLOCK_DETECTED,
                }:
                    raise
        with self.writing(one_statement=one_statement) as connection:
            return work(connection)

    def write(self, statement: Executable, **values: Any) -> Sequence[Row[Any]]:
        """Run one statement that writes, commit, and return its rows."""
        return self.transact(
            lambda connection: connection.execute(statement, values).all(), one_statement=True
        )


db = Database(metadata=MetaData(naming_convention=NAMES))
migrate = Migrate(directory=str(MIGRATIONS), compare_server_default=True)
cors = CORS()
