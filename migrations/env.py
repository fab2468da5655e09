"""Alembic's entry: migrates the database of the app in one transaction, under a lock."""

from alembic import context
from flask import current_app
from sqlalchemy import text

# Any number of replicas may start at once: the first migrates, and the others wait and find
# nothing left to do. A transaction's lock, since it works behind a pooler as well.
LOCK = text("SELECT pg_advisory_xact_lock(4919316920)")
# A migration may take longer than a request may.
PATIENCE = text("SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0")

db = current_app.extensions["migrate"].db
options = current_app.extensions["migrate"].configure_args


def run_migrations_offline() -> None:
    """Print the SQL instead of running it."""
    context.configure(dialect_name="postgresql", target_metadata=db.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def run_migrations_online() -> None:
    """Run the migrations that are missing."""
    with db.engine.connect() as connection:
        context.configure(connection=connection, target_metadata=db.metadata, **options)
        with context.begin_transaction():
            connection.execute(PATIENCE)
            connection.execute(LOCK)
            context.run_migrations()


if context.is_offline_mode():
    run_migrations_offline()
else:
    run_migrations_online()
