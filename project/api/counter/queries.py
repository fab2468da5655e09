"""Every statement about counters; none of them sees a request."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, select, text
from sqlalchemy.exc import DataError

from project.api.counter.models import Counter
from project.api.errors import CounterOverflow
from project.extensions import db

NUMERIC_VALUE_OUT_OF_RANGE = "22003"  # SQLSTATE

# Sorted by name: two processes that add to the same counters lock them in
# the same order, so neither can wait for the other in a circle.
ADD = text("""
    INSERT INTO counters AS c (name, value)
    SELECT name, amount
      FROM unnest(CAST(:names AS text[]), CAST(:amounts AS bigint[]))
           AS added (name, amount)
     ORDER BY name
        ON CONFLICT (name) DO UPDATE
       SET value = c.value + excluded.value,
           version = c.version + 1,
           updated_at = greatest(c.updated_at, excluded.updated_at)
 RETURNING name, value
""")

CounterRow = Row[Any]
SHOWN = (Counter.name, Counter.value, Counter.created_at, Counter.updated_at)


def add_many(amounts: Mapping[str, int]) -> dict[str, int]:
    """Add to counters, each of which exists from its first increment; return their values.

    Raise CounterOverflow, and change none of them, where one would leave 64 bits.
    """
    names = sorted(amounts)
    try:
        rows = db.write(ADD, names=names, amounts=[amounts[name] for name in names])
    except DataError as error:
        if getattr(error.orig, "pgcode", None) == NUMERIC_VALUE_OUT_OF_RANGE:
            raise CounterOverflow from error
        raise
    return {row.name: row.value for row in rows}


def select_counter(name: str) -> CounterRow | None:
    """Return a counter with its version, or None where there is none of that name."""
    rows = db.read(select(*SHOWN, Counter.version).where(Counter.name == name))
    return rows[0] if rows else None


def select_page(*, after: str, limit: int, prefix: str | None = None) -> Sequence[CounterRow]:
    """Return the counters behind the name `after` whose names begin with `prefix`, by name."""
    statement = select(*SHOWN).where(Counter.name > after).order_by(Counter.name).limit(limit)
    if prefix is not None:
        # Names are ASCII, so all that begin with "ab" lie between "ab" and "ac".
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        statement = statement.where(Counter.name >= prefix, Counter.name < end)
    return db.read(statement)
