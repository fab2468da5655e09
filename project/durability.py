"""Whether PostgreSQL keeps what it has confirmed."""

from project.extensions import db
from project.statements import Statement

SETTINGS = Statement("""
    SELECT name, setting
      FROM pg_settings
     WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes')
""")

CONSEQUENCES = {
    "fsync": "a power failure can lose answered writes and damage the database",
    "synchronous_commit": "a crash of the database can lose answered writes",
    "full_page_writes": "a power failure can damage the database",
}


def warnings() -> list[str]:
    """Return a sentence for each setting of the server that puts answered writes at risk."""
    return [
        f"PostgreSQL runs with {row.name} = {row.setting}: {CONSEQUENCES[row.name]}."
        for row in db.read(SETTINGS)
        if row.setting == "off"
    ]
