"""Every statement about keys; none of them sees a request."""

from collections import Counter as Multiset
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

from psycopg2.errors import LockNotAvailable
from sqlalchemy import delete, func, select, tuple_

from project.api.errors import RequestInProgress
from project.api.idempotency.models import IdempotencyKey
from project.api.responses import to_json
from project.extensions import db
from project.statements import Connection, Row, Statement

KEPT = timedelta(hours=24)
PRUNED_AT_ONCE = 1000

# Sorted, so that two processes cannot wait for each other in a circle. Where another process
# has one of the keys in an open transaction, this waits for its end, but not for long: the
# batch has other callers, and this one can come again.
CLAIM = Statement(
    """
    SET LOCAL lock_timeout = '50ms';
    INSERT INTO idempotency_keys (principal, key, fingerprint)
    SELECT principal, key, fingerprint
      FROM unnest(CAST(:principals AS text[]), CAST(:keys AS text[]),
                  CAST(:fingerprints AS bytea[]))
           AS sent (principal, key, fingerprint)
     ORDER BY principal, key
        ON CONFLICT (principal, key) DO NOTHING
 RETURNING principal, key
""",
    principals="text[]",
    keys="text[]",
    fingerprints="bytea[]",
)

# Not TO DEFAULT, which behind a pooler would be PostgreSQL's own.
PATIENT_AGAIN = Statement(
    "SELECT set_config('lock_timeout', current_setting('eval.lock_timeout'), true)"
)

# The principals come sorted, so that rows are locked in the same order everywhere, after the keys
# and before anything that the transaction writes.
CHARGE = Statement("""
    SELECT set_config('lock_timeout', current_setting('eval.lock_timeout'), true);
    INSERT INTO idempotency_usage AS u (principal, day, responses, bytes)
    SELECT principal, CAST(now() AT TIME ZONE 'UTC' AS date), responses, bytes
      FROM unnest(CAST(:principals AS text[]), CAST(:responses AS bigint[]),
                  CAST(:bytes AS bigint[]))
           AS charged (principal, responses, bytes)
        ON CONFLICT (principal, day) DO UPDATE
       SET responses = u.responses + excluded.responses, bytes = u.bytes + excluded.bytes
 RETURNING principal, responses, bytes
""")

RELEASE = Statement(
    """
    DELETE FROM idempotency_keys
     USING unnest(CAST(:principals AS text[]), CAST(:keys AS text[])) AS claimed (principal, key)
     WHERE idempotency_keys.principal = claimed.principal AND idempotency_keys.key = claimed.key
""",
    principals="text[]",
    keys="text[]",
)

PRUNE_USAGE = Statement("""
    DELETE FROM idempotency_usage
     WHERE (principal, day) IN (SELECT principal, day
                                  FROM idempotency_usage
                                 WHERE day < CAST(now() AT TIME ZONE 'UTC' AS date)
                                 LIMIT 1000
                                   FOR UPDATE SKIP LOCKED)
 RETURNING day
""")

SELECT = Statement(
    """
    SELECT principal, key, fingerprint, status, headers, body
      FROM idempotency_keys
      JOIN unnest(CAST(:principals AS text[]), CAST(:keys AS text[])) AS sent (principal, key)
     USING (principal, key)
""",
    principals="text[]",
    keys="text[]",
)

STORE = Statement(
    """
    UPDATE idempotency_keys AS k
       SET status = answered.status, headers = answered.headers, body = answered.body
      FROM unnest(CAST(:principals AS text[]), CAST(:keys AS text[]),
                  CAST(:statuses AS smallint[]), CAST(:headers AS jsonb[]),
                  CAST(:bodies AS bytea[]))
           AS answered (principal, key, status, headers, body)
     WHERE k.principal = answered.principal AND k.key = answered.key
""",
    principals="text[]",
    keys="text[]",
    statuses="smallint[]",
    headers="jsonb[]",
    bodies="bytea[]",
)

OUTDATED = (
    select(IdempotencyKey.principal, IdempotencyKey.key)
    .where(IdempotencyKey.created_at < func.now() - KEPT)
    .order_by(IdempotencyKey.created_at)
    .limit(PRUNED_AT_ONCE)
    .with_for_update(skip_locked=True)
)
PRUNE = (
    delete(IdempotencyKey)
    .where(tuple_(IdempotencyKey.principal, IdempotencyKey.key).in_(OUTDATED))
    .returning(IdempotencyKey.created_at)
)


class Key(NamedTuple):
    """A key, its principal, and the request that it was sent with.

    The stored response, of up to `response_size` bytes, counts against the quota of the principal
    `payer`; None has no quota.
    """

    principal: str
    key: str
    fingerprint: bytes
    payer: str | None = None
    response_size: int = 0

    @property
    def name(self) -> tuple[str, str]:
        """What tells this key from others: the same key of somebody else is another."""
        return self.principal, self.key


class Kept(NamedTuple):
    """The answer to a request that was sent with a key."""

    key: Key
    status: int
    headers: Mapping[str, str]
    body: bytes


def claim(connection: Connection, keys: Collection[Key]) -> dict[tuple[str, str], Row]:
    """Take the keys that nobody has used; return the others by name, with what was answered.

    Raise RequestInProgress where one of them is held by a transaction that does not end.
    """
    sent = {"principals": [key.principal for key in keys], "keys": [key.key for key in keys]}
    try:
        claimed = CLAIM.run(connection, **sent, fingerprints=[key.fingerprint for key in keys])
    except LockNotAvailable as error:
        raise RequestInProgress from error
    if len(claimed) == len(keys):
        return {}
    ours = {(row.principal, row.key) for row in claimed}
    rows = {(row.principal, row.key): row for row in SELECT.run(connection, **sent)}
    return {name: row for name, row in rows.items() if name not in ours}


def charge(connection: Connection, keys: Collection[Key], sign: int = 1) -> list[Row]:
    """Count the responses of claimed keys against the quotas of their payers; return today's usage.

    With a `sign` of -1 they are no longer counted. What follows waits for locks as usual, and no
    longer as briefly as `claim()`.
    """
    responses: Multiset[str] = Multiset()
    sizes: Multiset[str] = Multiset()
    for key in keys:
        if key.payer is not None:
            responses[key.payer] += sign
            sizes[key.payer] += sign * key.response_size
    principals = sorted(responses)
    if not principals:
        PATIENT_AGAIN.run(connection)
        return []
    return CHARGE.run(
        connection,
        principals=principals,
        responses=[responses[principal] for principal in principals],
        bytes=[sizes[principal] for principal in principals],
    )


def release(connection: Connection, keys: Collection[Key]) -> None:
    """Give claimed keys back, without a response, so that their requests can be repeated."""
    principals = [key.principal for key in keys]
    RELEASE.run(connection, principals=principals, keys=[key.key for key in keys])
    charge(connection, keys, sign=-1)


def store(connection: Connection, answers: Sequence[Kept]) -> None:
    """Keep the answers of claimed keys."""
    STORE.run(
        connection,
        principals=[kept.key.principal for kept in answers],
        keys=[kept.key.key for kept in answers],
        statuses=[kept.status for kept in answers],
        headers=[to_json(kept.headers).decode() for kept in answers],
        bodies=[kept.body for kept in answers],
    )


def prune_usage() -> int:
    """Delete a batch of the usage of past days; return how many rows."""
    return len(db.transact(PRUNE_USAGE.run))


def prune() -> int:
    """Delete keys that have been kept for long enough, a small batch; return how many."""
    with db.engine.begin() as connection:
        return len(connection.execute(PRUNE).all())
