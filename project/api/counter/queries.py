"""Every statement about counters; none of them sees a request.

Whatever changes a value changes the ledger in the same transaction, and locks the counter
before its hours: so writers of one counter stand in one line.
"""

from collections import Counter as Multiset
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Literal

from psycopg2.errors import NumericValueOutOfRange

from project import listings
from project.api.errors import CounterOverflow
from project.api.fields import LARGEST_BIGINT
from project.extensions import db
from project.listings import Listing
from project.statements import Connection, Row, Statement

# The names come sorted: two processes that add to the same counters lock them in the same
# order, so neither can wait for the other in a circle. Without :may_create nothing is changed, and
# no row returned, unless all counters exist; that costs a look into the index of names.
ADD = Statement(
    """
    WITH sent AS (
        SELECT name, amount
          FROM unnest(CAST(:names AS text[]), CAST(:amounts AS bigint[])) AS s (name, amount)
         WHERE CASE WHEN :may_create THEN true
                    ELSE cardinality(CAST(:names AS text[])) = (
                         SELECT count(*)
                           FROM counters
                          WHERE name = ANY(CAST(:names AS text[])))
                END
    ), ledger AS (
        INSERT INTO counter_hours AS h (name, hour, added)
        SELECT name, date_trunc('hour', now(), 'UTC'), amount
          FROM sent
            ON CONFLICT (name, hour) DO UPDATE SET added = h.added + excluded.added
    )
    INSERT INTO counters AS c (name, value)
    SELECT name, amount
      FROM sent
        ON CONFLICT (name) DO UPDATE
       SET value = c.value + excluded.value,
           version = c.version + 1,
           updated_at = greatest(c.updated_at, excluded.updated_at)
 RETURNING name, value
""",
    names="text[]",
    amounts="bigint[]",
    may_create="boolean",
)

# As if it had been incremented hour by hour.
CREATE_PAST = Statement(
    """
    WITH sent AS (
        SELECT hour, amount
          FROM unnest(CAST(:hours AS timestamptz[]), CAST(:amounts AS bigint[]))
               AS s (hour, amount)
    ), created AS (
        INSERT INTO counters (name, value, created_at)
        SELECT :name, sum(amount), min(hour)
          FROM sent
            ON CONFLICT (name) DO NOTHING
     RETURNING name
    ), ledger AS (
        INSERT INTO counter_hours (name, hour, added)
        SELECT name, hour, amount
          FROM created, sent
    )
    SELECT name
      FROM created
""",
    name="text",
    hours="timestamptz[]",
    amounts="bigint[]",
)

CREATE = Statement(
    """
    INSERT INTO counters (name, value)
    VALUES (:name, :value)
        ON CONFLICT (name) DO NOTHING
 RETURNING name, value, version, created_at, updated_at
""",
    name="text",
    value="bigint",
)

ONE = """
    SELECT name, value, version, created_at, updated_at
      FROM counters
     WHERE name = :name
"""
SELECT = Statement(ONE, name="text")
LOCK = Statement(f"{ONE} FOR UPDATE", name="text")
EXISTING = Statement(
    "SELECT name FROM counters WHERE name = ANY(CAST(:names AS text[]))", names="text[]"
)
# In the order in which ADD locks them.
LOCK_MANY = Statement(
    """
    SELECT name
      FROM counters
     WHERE name = ANY(CAST(:names AS text[]))
     ORDER BY name
       FOR UPDATE
""",
    names="text[]",
)

SET = Statement(
    """
    UPDATE counters AS c
       SET value = :value,
           version = c.version + 1,
           updated_at = greatest(c.updated_at, moment)
      FROM now() AS moment
     WHERE name = :name
 RETURNING name, value, version, created_at, c.updated_at
""",
    name="text",
    value="bigint",
)

ADJUST = Statement(
    """
    INSERT INTO counter_hours AS h (name, hour, adjusted)
    VALUES (:name, date_trunc('hour', now(), 'UTC'), :difference)
        ON CONFLICT (name, hour) DO UPDATE SET adjusted = h.adjusted + excluded.adjusted
""",
    name="text",
    difference="numeric",
)

LEDGER_SUM = Statement(
    "SELECT coalesce(sum(added + adjusted), 0) AS total FROM counter_hours WHERE name = :name",
    name="text",
)

DELETE = Statement("DELETE FROM counters WHERE name = :name RETURNING name", name="text")
DELETE_LEDGER = Statement("DELETE FROM counter_hours WHERE name = :name", name="text")

# Locks the rows until the end of the transaction, sorted like the names of counters. A transaction
# locks them before it locks counters.
CHARGE = Statement(
    """
    INSERT INTO counter_usage AS u (principal, day, counters)
    SELECT principal, CAST(now() AT TIME ZONE 'UTC' AS date), counters
      FROM unnest(CAST(:principals AS text[]), CAST(:counters AS bigint[]))
           AS charged (principal, counters)
        ON CONFLICT (principal, day) DO UPDATE SET counters = u.counters + excluded.counters
 RETURNING principal, counters
""",
    principals="text[]",
    counters="bigint[]",
)

PRUNE_USAGE = Statement("""
    DELETE FROM counter_usage
     WHERE (principal, day) IN (SELECT principal, day
                                  FROM counter_usage
                                 WHERE day < CAST(now() AT TIME ZONE 'UTC' AS date)
                                 LIMIT 1000
                                   FOR UPDATE SKIP LOCKED)
 RETURNING day
""")

NAMES_OF_PREFIX = Statement("""
    SELECT name
      FROM counters
     WHERE name > :after AND name >= :prefix AND name < :end
     ORDER BY name
     LIMIT :limit
""")
DELETE_MANY = Statement(
    "DELETE FROM counters WHERE name = ANY(CAST(:names AS text[]))", names="text[]"
)
DELETE_LEDGERS = Statement(
    "DELETE FROM counter_hours WHERE name = ANY(CAST(:names AS text[]))", names="text[]"
)

PAGE = f"""
    SELECT name, value, {listings.time("created_at")}, {listings.time("updated_at")}
      FROM counters
     WHERE name > :after
     ORDER BY name
     LIMIT :limit + 1
"""
PAGE_OF_PREFIX = PAGE.replace("ORDER BY", "AND name >= :prefix AND name < :end ORDER BY")

# One statement sees one snapshot, so the value and its ledger are of the same moment.
AUDIT = Statement(
    """
    SELECT c.value,
           CAST(coalesce((SELECT sum(added + adjusted)
                            FROM counter_hours AS h
                           WHERE h.name = c.name), 0) AS text) AS ledger_sum
      FROM counters AS c
     WHERE c.name = :name
""",
    name="text",
)

AUDIT_ALL = Statement("""
    SELECT name, c.value, CAST(coalesce(h.total, 0) AS text) AS ledger_sum
      FROM counters AS c
      FULL JOIN (SELECT name, sum(added + adjusted) AS total
                   FROM counter_hours
                  GROUP BY name) AS h
     USING (name)
     WHERE c.value IS DISTINCT FROM coalesce(h.total, 0)
     ORDER BY name
""")

HISTORY = Statement("""
    SELECT point AS at, CAST(coalesce(sum(added), 0) AS text) AS added
      FROM generate_series(CAST(:since AS timestamptz), CAST(:until AS timestamptz)
                           - interval '1 microsecond', CAST(:step AS interval)) AS point
      LEFT JOIN counter_hours
        ON name = :name AND hour >= point AND hour < point + CAST(:step AS interval)
     GROUP BY point
     ORDER BY point
""")

# The interval in which an hour lies, by its number.
GROWTH = Statement("""
    SELECT name,
           CAST(floor(extract(epoch FROM hour - CAST(:since AS timestamptz)) / :seconds) AS integer)
               AS place,
           CAST(sum(added) AS text) AS added
      FROM counter_hours
     WHERE name = ANY(:names) AND hour >= :since
     GROUP BY name, place
""")

# A day has 24 hours in UTC; said so, since "1 day" means one of the session's time zone.
STEPS = {"hour": "1 hour", "day": "24 hours"}

DELETED_AT_ONCE = 1000

CounterRow = Row
Amounts = Mapping[str, int]


def add_many(amounts: Amounts) -> dict[str, int]:
    """Add to counters, commit, and return their values.

    Raise CounterOverflow, and change none of them, where one would leave 64 bits.
    """
    return db.transact(lambda connection: add(connection, amounts), one_statement=True) or {}


def add(
    connection: Connection, amounts: Amounts, *, may_create: bool = True
) -> dict[str, int] | None:
    """Add to counters and return their values.

    Return None, and change nothing, if that would create a counter and `may_create` is False.
    Raise CounterOverflow if a value would leave 64 bits.
    """
    names = sorted(amounts)
    values = [amounts[name] for name in names]
    try:
        rows = ADD.run(connection, names=names, amounts=values, may_create=may_create)
    except NumericValueOutOfRange as error:
        raise CounterOverflow from error
    return {row.name: row.value for row in rows} if len(rows) == len(names) else None


def create_past(name: str, amounts: Mapping[datetime, int]) -> bool:
    """Create a counter that was incremented in past hours; return False if it exists."""
    hours = sorted(amounts)
    values = [amounts[hour] for hour in hours]
    rows = db.transact(
        lambda connection: CREATE_PAST.run(connection, name=name, hours=hours, amounts=values)
    )
    return bool(rows)


def add_in_turn(
    connection: Connection, batch: Sequence[Amounts], *, may_create: bool
) -> list[dict[str, int]] | None:
    """Add to counters as if one item of the batch came after the other.

    Return for each item the values that it brought its counters to. Return None, and change
    nothing, if that would create a counter and `may_create` is False. Raise CounterOverflow if
    a value would leave 64 bits; the caller must roll back then.
    """
    totals: Multiset[str] = Multiset()
    for amounts in batch:
        totals.update(amounts)
    values = add(connection, totals, may_create=may_create)
    if values is None:
        return None
    # Where each counter stood before the batch.
    for name, total in totals.items():
        values[name] -= total
    return list(_running(values, batch))


def _running(values: dict[str, int], batch: Sequence[Amounts]) -> Iterator[dict[str, int]]:
    for amounts in batch:
        for name, amount in amounts.items():
            values[name] += amount
            if not -LARGEST_BIGINT - 1 <= values[name] <= LARGEST_BIGINT:
                raise CounterOverflow
        yield {name: values[name] for name in amounts}


def create(connection: Connection, name: str, value: int) -> CounterRow | None:
    """Create a counter and return it, or None where there is one of that name."""
    rows = CREATE.run(connection, name=name, value=value)
    if not rows:
        return None
    ADJUST.run(connection, name=name, difference=value)
    return rows[0]


def lock(connection: Connection, name: str) -> CounterRow | None:
    """Return a counter, which stays as it is until the transaction ends, or None."""
    rows = LOCK.run(connection, name=name)
    return rows[0] if rows else None


def select_existing(connection: Connection, names: Collection[str]) -> set[str]:
    """Return which of the counters exist."""
    return {row.name for row in EXISTING.run(connection, names=list(names))}


def charge(connection: Connection, counters: Mapping[str, int]) -> dict[str, int]:
    """Add to the counters that principals have created today, and return how many these are."""
    principals = sorted(counters)
    amounts = [counters[principal] for principal in principals]
    rows = CHARGE.run(connection, principals=principals, counters=amounts)
    return {row.principal: row.counters for row in rows}


def prune_usage() -> int:
    """Delete a batch of the usage of past days; return how many rows."""
    return len(db.transact(PRUNE_USAGE.run))


def lock_existing(connection: Connection, names: Collection[str]) -> set[str]:
    """Return which of the counters exist; they can be neither changed nor deleted by others."""
    return {row.name for row in LOCK_MANY.run(connection, names=sorted(names))}


def replace(connection: Connection, counter: CounterRow, value: int) -> CounterRow:
    """Set a locked counter to a value and return it."""
    ADJUST.run(connection, name=counter.name, difference=value - counter.value)
    [changed] = SET.run(connection, name=counter.name, value=value)
    return changed


def delete_counter(name: str) -> bool:
    """Delete a counter and its ledger; return whether there was one."""

    def delete(connection: Connection) -> bool:
        if not DELETE.run(connection, name=name):
            return False
        DELETE_LEDGER.run(connection, name=name)
        return True

    return db.transact(delete)


def delete_prefix(prefix: str) -> int:
    """Delete the counters whose names begin with `prefix`, and their ledgers; return how many.

    Each batch is a transaction of its own, and each name is looked at once, in order. If this is
    interrupted, repeat it.
    """
    end = _end_of(prefix)
    deleted, last = 0, ""
    while names := [
        row.name
        for row in db.read(
            NAMES_OF_PREFIX, after=last, prefix=prefix, end=end, limit=DELETED_AT_ONCE
        )
    ]:
        deleted += db.transact(partial(_delete_many, names=names))
        last = names[-1]
    return deleted


def _delete_many(connection: Connection, *, names: Sequence[str]) -> int:
    """Delete counters and their ledgers; return how many there were."""
    existing = sorted(lock_existing(connection, names))
    DELETE_MANY.run(connection, names=existing)
    DELETE_LEDGERS.run(connection, names=existing)
    return len(existing)


def select_counter(name: str) -> CounterRow | None:
    """Return a counter with its version, or None where there is none of that name."""
    rows = db.read(SELECT, name=name)
    return rows[0] if rows else None


def select_page(*, after: str, limit: int, known: Sequence[str], prefix: str | None) -> Listing:
    """Return the counters behind the name `after` whose names begin with `prefix`, by name."""
    if prefix is None:
        return listings.read(PAGE, limit=limit, known=known, after=after)
    return listings.read(
        PAGE_OF_PREFIX,
        limit=limit,
        known=known,
        after=after,
        prefix=prefix,
        end=_end_of(prefix),
    )


def _end_of(prefix: str) -> str:
    """Return the first name behind those that begin with `prefix`: "ac" for "ab"."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def audit(name: str) -> tuple[int, int] | None:
    """Return a counter's value and the sum of its ledger, of the same moment, or None."""
    rows = db.read(AUDIT, name=name)
    return (rows[0].value, int(rows[0].ledger_sum)) if rows else None


def select_inconsistent() -> Sequence[CounterRow]:
    """Return every counter whose value is not the sum of its ledger."""
    return db.read(AUDIT_ALL)


def repair(name: str) -> None:
    """Adjust the ledger of a counter so that its value stays; drop one that has no counter."""

    def adjust(connection: Connection) -> None:
        # A counter that is nowhere cannot be locked, so one is made for that long.
        if CREATE.run(connection, name=name, value=0):
            DELETE_LEDGER.run(connection, name=name)
            DELETE.run(connection, name=name)
        elif counter := lock(connection, name):
            [ledger] = LEDGER_SUM.run(connection, name=name)
            ADJUST.run(connection, name=name, difference=counter.value - ledger.total)

    db.transact(adjust)


def select_history(
    name: str, *, since: datetime, until: datetime, interval: Literal["hour", "day"]
) -> list[tuple[datetime, int]]:
    """Return by how much a counter grew in each interval from `since` until before `until`."""
    rows = db.read(HISTORY, name=name, since=since, until=until, step=STEPS[interval])
    return [(row.at, int(row.added)) for row in rows]


def select_growth(
    names: Sequence[str], *, since: datetime, step: timedelta, count: int
) -> dict[str, list[int]]:
    """Return by how much each counter grew in each of `count` intervals of whole hours."""
    growth = {name: [0] * count for name in names}
    seconds = step.total_seconds()
    for row in db.read(GROWTH, names=list(names), since=since, seconds=seconds):
        if row.place < count:  # the clock of PostgreSQL may be ahead
            growth[row.name][row.place] += int(row.added)
    return growth
