"""Statements as they go to PostgreSQL: SQL with named values, planned once by each connection.

To parse and plan a statement of ours takes PostgreSQL longer than to run it. So a connection
prepares a statement when it first runs it, and names it from then on. Where a pooler stands
between (see `project.connection`), or a name is not known after all, the connection forgets, and
the statement is sent as it is.
"""

import hashlib
import re
from contextlib import suppress
from typing import Any

from psycopg2.errors import DuplicatePreparedStatement, InvalidSqlStatementName
from psycopg2.extras import NamedTupleCursor

PARAMETER = re.compile(r"(?<!:):([a-z_]+)")

Connection = Any  # one of SQLAlchemy's pool, with psycopg2's behind it
Row = Any  # a named tuple


class Statement:
    """One SQL statement; `:name` stands for a value.

    It is prepared where the types of its values are said. That brings nothing where PostgreSQL
    plans by the values themselves, as it does for a LIMIT; and to keep the plan all the same
    would be to keep one that was made for a small table.
    """

    def __init__(self, sql: str, **types: str) -> None:
        self.sql = sql
        self._plain = PARAMETER.sub(r"%(\1)s", sql)
        self._name: str | None = None
        if types:
            self._name_and_type(sql, types)

    def _name_and_type(self, sql: str, types: dict[str, str]) -> None:
        places = {name: f"${place}" for place, name in enumerate(types, start=1)}
        numbered = PARAMETER.sub(lambda found: places[found[1]], sql)
        # By its text, so that another version of this service means another name.
        self._name = f"eval_{hashlib.sha256(numbered.encode()).hexdigest()[:16]}"
        self._prepare = f"PREPARE {self._name} ({', '.join(types.values())}) AS {numbered}"
        self._execute = f"EXECUTE {self._name} ({', '.join(f'%({name})s' for name in types)})"

    def run(self, connection: Connection, **values: Any) -> list[Row]:
        """Run the statement and return its rows."""
        cursor: Any = connection.cursor(cursor_factory=NamedTupleCursor)
        with cursor:
            if self._name and _may_prepare(connection):
                self._run_prepared(connection, cursor, values)
            else:
                cursor.execute(self._plain, values)
            return cursor.fetchall() if cursor.description else []

    def _run_prepared(self, connection: Connection, cursor: Any, values: dict[str, Any]) -> None:
        known = connection.info.setdefault("prepared", set())
        try:
            if self._name not in known:
                # Where another client of the pooler has prepared it, it was from the same text.
                with suppress(DuplicatePreparedStatement):
                    cursor.execute(self._prepare)
                known.add(self._name)
            cursor.execute(self._execute, values)
        except InvalidSqlStatementName:  # nothing was run
            connection.info["forgets"] = True
            cursor.execute(self._plain, values)


def _may_prepare(connection: Connection) -> bool:
    # Inside a transaction a name that is not known would cost all of it.
    return connection.dbapi_connection.autocommit and "forgets" not in connection.info
