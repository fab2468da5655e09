"""Alembic's environment: migrates the database of the app in one transaction, under a lock.

`python manage.py db …` and `flask --app project db …` have made the app; `alembic …` has not.
"""

import time
from contextlib import nullcontext
from typing import Any

from alembic import context
from flask import current_app, has_app_context
from psycopg2.errors import LockNotAvailable
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from project import create_app, db

# Any number of replicas may start at once: the first migrates, and the others wait and find
# nothing left to do. A transaction's lock, since it works behind a pooler as well.
LOCK = text("SELECT pg_advisory_xact_lock(4919316920)")
# A migration may take longer than a request may, and wait for another one.
PATIENCE = text("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")
# But who waits for a table has all requests for it wait behind him. So a migration gives way soon,
# and tries again.
HASTE = text("SET LOCAL lock_timeout = '200ms'")
PAUSE_SECONDS = 0.3
LONGEST_SECONDS = 300


def skip_if_empty(_context: Any, _revision: Any, directives: list[Any]) -> None:
    """Write no migration if the models have not changed; `db check` needs the empty one."""
    writes = getattr(context.config.cmd_opts, "autogenerate", False)
    if writes and directives[0].upgrade_ops.is_empty():
        directives.clear()
        context.config.print_stdout("The models have not changed: no migration was written.")


def run_migrations_offline() -> None:
    """Print the SQL instead of running it."""
    context.configure(dialect_name="postgresql", target_metadata=db.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def run_migrations_online() -> None:
    """Run the migrations that are missing, while others read and write."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while True:
        try:
            return run_migrations_at_once()
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable) or time.monotonic() > deadline:
                raise
            time.sleep(PAUSE_SECONDS)


def run_migrations_at_once() -> None:
    """Run them; raise OperationalError, and change nothing, where a table is not free."""
    with db.engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            process_revision_directives=skip_if_empty,
            **current_app.extensions["migrate"].configure_args,
        )
        with context.begin_transaction():
            connection.execute(PATIENCE)
            connection.execute(LOCK)
            connection.execute(HASTE)
            context.run_migrations()


with nullcontext() if has_app_context() else create_app().app_context():
    if context.is_offline_mode():
        run_migrations_offline()
    else:
        run_migrations_online()
