"""Lists as PostgreSQL writes them: rows in, JSON out, which nobody takes apart on its way.

PostgreSQL makes JSON of a row several times as fast as Python makes an object of it and JSON of
that. It also knows whether the rows are those that the caller has seen before, and then makes
nothing of them.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from project.extensions import db
from project.statements import Statement

# `page` holds one row more than is shown, which tells whether there is a page behind this one.
# Its version (RFC 9110, section 8.8.3) is a hash of its rows, each with its number as the seed, so
# that their order counts.
LISTING = """
    WITH page AS ({rows}),
    version AS (
        SELECT to_hex(coalesce(bit_xor(hash_record_extended(row, number)), 0)) || '-' || count(*)
               AS etag,
               count(*) > :limit AS has_next
          FROM (SELECT page AS row, row_number() OVER () AS number FROM page) AS numbered
    )
    SELECT etag,
           CASE WHEN NOT ARRAY[etag, '*'] && CAST(:known AS text[]) THEN
               (SELECT '[' || coalesce(string_agg(CAST(row_to_json(shown) AS text), ','), '') || ']'
                  FROM (SELECT * FROM page LIMIT :limit) AS shown)
           END AS rows,
           CASE WHEN has_next THEN
               (SELECT row_to_json(last)
                  FROM (SELECT * FROM page LIMIT 1 OFFSET :limit - 1) AS last)
           END AS last
      FROM version
"""


class Listing(NamedTuple):
    """One page of a list."""

    etag: str
    # A JSON array; None where the caller has this version.
    rows: str | None
    # The last row, where there are more behind it.
    last: dict[str, Any] | None


@cache
def _listing(rows: str) -> Statement:
    return Statement(LISTING.format(rows=rows))


def read(rows: str, *, limit: int, known: Sequence[str], **values: Any) -> Listing:
    """Return the first `limit` rows that a statement gives, which should give one more.

    `known` are the ETags of what the caller has; * is any.
    """
    [row] = db.read(_listing(rows), limit=limit, known=list(known), **values)
    return Listing(row.etag, row.rows, row.last)
