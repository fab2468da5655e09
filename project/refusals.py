"""What a command says where PostgreSQL does not let it work: one sentence, and what to do."""

import psycopg2
from psycopg2 import errors
from sqlalchemy.exc import DBAPIError

from project.config import SettingError


def refusal(error: DBAPIError | psycopg2.Error, setting: str) -> SettingError | None:
    """Return a sentence that names the setting, or None where it would not be its fault."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    said = str(cause).strip().split("\n")[0]
    if isinstance(cause, errors.InsufficientPrivilege):
        advice = f"The user of {setting} may not do that; make it the owner of the database."
    elif isinstance(cause, errors.UndefinedTable):
        advice = f"The database of {setting} has not our tables: run python manage.py db upgrade."
    elif isinstance(cause, psycopg2.OperationalError):
        advice = f"The database of {setting} cannot be used; is it running, and is the URL right?"
    else:
        return None
    return SettingError(f"{advice} PostgreSQL says: {said}")
