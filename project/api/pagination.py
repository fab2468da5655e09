"""Cursors: encode, decode, the link to the next page.

A list is read by keyset: a page begins behind the place where the one before ended, so it
costs the same on page one and on page ten thousand, and no row is skipped or repeated because
others came or went. The cursor names that place. It is signed together with its list and
filters, so that one from elsewhere is refused and not misread.
"""

import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

from flask import Response, current_app, request

from project.api.errors import InvalidQuery
from project.api.fields import PageQuery
from project.api.responses import success

SIGNATURE_BYTES = 16

Item = TypeVar("Item")


class Cursors:
    """Writes and reads cursors with one secret."""

    def __init__(self, secret: str) -> None:
        self._key = hashlib.sha256(b"cursors " + secret.encode()).digest()

    def encode(self, listing: str, place: str) -> str:
        """Return the cursor for a place in a list, in lower-case hex."""
        return (self._signature(listing, place) + place.encode()).hex()

    def decode(self, listing: str, cursor: str) -> str:
        """Return the place that a cursor names; raise InvalidQuery where it is not of this list."""
        try:
            raw = bytes.fromhex(cursor)
            signature, place = raw[:SIGNATURE_BYTES], raw[SIGNATURE_BYTES:].decode()
        except ValueError:
            signature, place = b"", ""
        if not hmac.compare_digest(signature, self._signature(listing, place)):
            raise InvalidQuery({"cursor": ["This cursor does not belong to this list."]})
        return place

    def _signature(self, listing: str, place: str) -> bytes:
        message = f"{listing}\n{place}".encode()
        return hmac.digest(self._key, message, "sha256")[:SIGNATURE_BYTES]


class Page:
    """One page of a list: where it begins, how long it may be, and the answer made of it."""

    def __init__(self, query: PageQuery, **whose: int) -> None:
        self._filters = query.model_dump(
            mode="json", exclude={"limit", "cursor"}, exclude_none=True
        )
        self._limit = query.limit
        owned = sorted((self._filters | whose).items())
        self._listing = f"{request.path}?{urlencode(owned)}"
        self.after = self._cursors.decode(self._listing, query.cursor) if query.cursor else None
        # One more than asked for tells whether there is a page behind this one.
        self.limit = query.limit + 1

    @property
    def _cursors(self) -> Cursors:
        cursors: Cursors = current_app.extensions["cursors"]
        return cursors

    def answer(self, name: str, rows: Sequence[Item], place: Callable[[Item], Any]) -> Response:
        """Return the rows as `data.<name>`, with the cursor and the link to the next page."""
        shown = rows[: self._limit]
        if len(rows) <= self._limit:
            return success({name: list(shown), "next_cursor": None})
        cursor = self._cursors.encode(self._listing, str(place(shown[-1])))
        following = urlencode(self._filters | {"limit": self._limit, "cursor": cursor})
        link = f'<{request.path}?{following}>; rel="next"'  # RFC 8288
        return success({name: list(shown), "next_cursor": cursor}, headers={"Link": link})
