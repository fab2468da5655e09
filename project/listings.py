"""Lists as PostgreSQL writes them: rows in, JSON out, which nobody takes apart on its way.

PostgreSQL makes JSON of a row several times as fast as Python makes an object of it and JSON of
that. It also knows whether the rows are those that the caller has seen before, and then makes
nothing of them.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import orjson

from project.extensions import db
from project.statements import Statement

# Between two rows; no row has a line break of its own.
SEPARATOR = ",\n"
# The version of a page (RFC 9110, section 8.8.3) is a hash of its rows, in any order: a list
# shows what it is sorted by, so the same rows are in the same order.
ETAG = "to_hex(coalesce(bit_xor(hash_record_extended(page, 0)), 0)) || '-' || count(*)"
JSON = f"coalesce(string_agg(CAST(row_to_json(page) AS text), '{SEPARATOR}'), '')"

LISTING = f"""
    SELECT {ETAG} AS etag, count(*) AS count, {JSON} AS rows
      FROM ({{rows}}) AS page
"""
# For callers who have seen it before. That costs all others a look at each row more.
LISTING_UNLESS_KNOWN = f"""
    WITH page AS ({{rows}}),
    version AS (SELECT {ETAG} AS etag, count(*) AS count FROM page)
    SELECT etag, count,
           CASE WHEN NOT ARRAY[etag, '*'] && CAST(:known AS text[]) THEN
               (SELECT {JSON} FROM page)
           END AS rows
      FROM version
"""


def time_text(column: str) -> str:
    """Return the SQL for a time as RFC 3339 text, with six digits: 2026-11-25T09:01:24.479240Z.

    The time zone of the session must be UTC, as it is in every connection of `db`.
    """
    return f"""to_char({column}, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""


def time(column: str) -> str:
    """Return the SQL for a time as text, under the name of its column."""
    return f"{time_text(column)} AS {column}"


class Listing(NamedTuple):
    """One page of a list."""

    etag: str
    # A JSON array; None where the caller has this version.
    rows: str | None
    # The last row, where there are more behind it.
    last: dict[str, Any] | None


@cache
def _statement(template: str, rows: str) -> Statement:
    return Statement(template.format(rows=rows))


def read(rows: str, *, limit: int, known: Sequence[str], **values: Any) -> Listing:
    """Return the first `limit` rows that a statement gives, which should give one more.

    That one tells whether there is a page behind this one. `known` are the ETags of what the
    caller has; * is any.
    """
    template = LISTING_UNLESS_KNOWN if known else LISTING
    [page] = db.read(_statement(template, rows), limit=limit, known=list(known), **values)
    if page.rows is None:
        return Listing(page.etag, None, None)
    shown, last = page.rows, None
    if page.count > limit:
        shown, _, _ = shown.rpartition(SEPARATOR)
        last = orjson.loads(shown.rpartition(SEPARATOR)[2])
    return Listing(page.etag, f"[{shown}]", last)
