"""Translates errors of PostgreSQL: into a cause for the log and the caller, or for a command."""

import re
from typing import NamedTuple

import psycopg2
from psycopg2 import errors
from sqlalchemy.exc import DBAPIError

from project.config import SettingError


class Cause(NamedTuple):
    """Why PostgreSQL did not run a statement that is correct."""

    name: str
    description: str


CONNECTION_FAILED = Cause("connection failed", "The connection to the database failed.")
CONNECTION_LIMIT = Cause("connection limit reached", "The database has no connection left.")

# By SQLSTATE, or by its class, which is its first two characters.
CAUSES = {
    "08": CONNECTION_FAILED,
    "25006": Cause("is read-only", "The database is read-only."),
    "40001": Cause("serialization failure", "The request conflicted with other requests."),
    "40P01": Cause("deadlock", "The request conflicted with other requests."),
    "53": Cause("out of resources", "The database is out of resources."),
    "53100": Cause("disk full", "The database has no disk space left."),
    "53200": Cause("out of memory", "The database has no memory left."),
    "53300": CONNECTION_LIMIT,
    "55P03": Cause("lock timeout", "The data is locked by another transaction."),
    "57": CONNECTION_FAILED,  # 57P01 to 57P03: the server shuts down or starts
    "57014": Cause("statement timeout", "The database took too long to answer."),
}

# libpq passes on the text of a refused connection, but not its SQLSTATE.
NO_CONNECTION_LEFT = re.compile("too many (clients|connections)|connection slots are reserved")


def cause_of(error: DBAPIError | psycopg2.Error) -> Cause | None:
    """Return why PostgreSQL is unavailable, or None if the statement is at fault."""
    original = error.orig if isinstance(error, DBAPIError) else error
    sqlstate = getattr(original, "pgcode", None)
    if sqlstate is not None:
        return CAUSES.get(sqlstate) or CAUSES.get(sqlstate[:2])
    return CONNECTION_LIMIT if NO_CONNECTION_LEFT.search(str(original)) else CONNECTION_FAILED


def refusal(error: DBAPIError | psycopg2.Error, setting: str) -> SettingError | None:
    """Return what a command says about an error, or None if the command itself is at fault."""
    original = error.orig if isinstance(error, DBAPIError) else error
    cause = cause_of(error)
    if isinstance(original, errors.InsufficientPrivilege):
        advice = f"The user of {setting} may not do that; make it the owner of the database."
    elif isinstance(original, errors.UndefinedTable):
        advice = f"The database of {setting} has not our tables: run python manage.py db upgrade."
    elif cause is CONNECTION_FAILED:
        advice = f"The database of {setting} cannot be used; is it running, and is the URL right?"
    elif cause is not None:
        advice = f"{cause.description} It is the database of {setting}."
    else:
        return None
    said = str(original).strip().split("\n")[0]
    return SettingError(f"{advice} PostgreSQL says: {said}")
