"""Storage: how large the database and its tables are, from PostgreSQL's own records.

A sample costs well below a millisecond of a query: it reads the catalog and the sizes of files,
and no rows. Numbers of rows are therefore estimates, as of the last vacuum or analyze.
"""

from project import metrics
from project.extensions import db
from project.statements import Statement

TABLES = Statement("""
    SELECT relname AS name, greatest(reltuples, 0) AS rows, pg_total_relation_size(oid) AS bytes
      FROM pg_class
     WHERE oid IN (SELECT to_regclass(quote_ident(name))
                     FROM unnest(CAST(:names AS text[])) AS name)
""")
DATABASE = Statement(
    "SELECT current_database() AS name, pg_database_size(current_database()) AS bytes"
)


def sample() -> None:
    """Set the metrics of storage."""
    for table in db.read(TABLES, names=list(db.metadata.tables)):
        metrics.TABLE_ROWS.labels(table.name).set(table.rows)
        metrics.TABLE_BYTES.labels(table.name).set(table.bytes)
    for database in db.read(DATABASE):
        metrics.DATABASE_BYTES.labels(database.name).set(database.bytes)
