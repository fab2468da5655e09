"""Migrations: the version of the schema that this code needs, and the way to it."""

import flask_migrate
from alembic.script import ScriptDirectory
from sqlalchemy import text

from project.extensions import MIGRATIONS, db

# Read once: it cannot change while the process lives.
HEAD = ScriptDirectory(str(MIGRATIONS)).get_current_head() or ""


def upgrade() -> None:
    """Bring the database to the schema of this code.

    Any number of processes may do so at once; the lock is in migrations/env.py.
    """
    flask_migrate.upgrade()


def recreate() -> None:
    """Drop everything in the database and make it anew, empty."""
    with db.engine.begin() as connection:
        connection.execute(text("DROP SCHEMA IF EXISTS public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    upgrade()
