"""The schema: which version this code needs, and how the database comes to it."""

import flask_migrate
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text

from project.api.counter import models as counter_models
from project.api.idempotency import models as idempotency_models
from project.api.scores import models as score_models
from project.extensions import MIGRATIONS, db

# What Alembic holds the schema against: the tables are known once these are loaded.
MODELS = (counter_models, idempotency_models, score_models)


def _head() -> str | None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return ScriptDirectory.from_config(config).get_current_head()


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
