"""The extensions: made here, bound to an app in `create_app()`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flask_cors import CORS
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Connection, Executable, MetaData, Row
from sqlalchemy.exc import DBAPIError

MIGRATIONS = Path(__file__).parent.parent / "migrations"

# Names as PostgreSQL itself would give them.
NAMES = {
    "pk": "%(table_name)s_pkey",
    "uq": "%(table_name)s_%(column_0_N_name)s_key",
    "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    "ck": "%(table_name)s_%(constraint_name)s_check",
}


class OutcomeUnknown(Exception):
    """PostgreSQL was lost during a write: nobody knows whether it was committed."""


class Database(SQLAlchemy):
    """Flask-SQLAlchemy, and the two ways by which a query reaches PostgreSQL."""

    def read(self, statement: Executable, **values: Any) -> Sequence[Row[Any]]:
        """Return the rows of one statement that reads, in one round trip."""
        with self.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            return connection.execute(statement, values).all()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Give a connection with a transaction that is committed at the end of the block.

        Raise OutcomeUnknown where the connection is lost once the block has it.
        """
        with self.engine.connect() as connection:
            try:
                with connection.begin():
                    yield connection
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise OutcomeUnknown from error
                raise

    def write(self, statement: Executable, **values: Any) -> Sequence[Row[Any]]:
        """Run one statement that writes, commit, and return its rows."""
        with self.writing() as connection:
            return connection.execute(statement, values).all()


db = Database(metadata=MetaData(naming_convention=NAMES))
migrate = Migrate(directory=str(MIGRATIONS), compare_server_default=True)
cors = CORS()
