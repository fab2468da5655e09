"""The schema: which version this code needs, and how the database comes to it."""

import flask_migrate
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from project.extensions import MIGRATIONS, db


def _head() -> str:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return ScriptDirectory.from_config(config).get_current_head() or ""


# Read once: it cannot change while the process lives.
HEAD = _head()


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
