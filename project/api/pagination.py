"""Cursors: encode, decode, the link to the next page.

A list is read by keyset: a page begins behind the place where the one before ended, so it
costs the same on page one and on page ten thousand, and no row is skipped or repeated because
others came or went. The cursor names that place. It is signed together with its list and
filters, so that one from elsewhere is refused and not misread.
"""

import hashlib
import hmac
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import orjson
from flask import Response, current_app, request

from project.api.errors import InvalidQuery
from project.api.fields import PageQuery
from project.api.responses import not_modified, success, unchanged
from project.listings import Listing

SIGNATURE_BYTES = 16

Place = Callable[[dict[str, Any]], Any]


class Cursors:
    """Writes cursors with one secret; reads those of earlier ones, too."""

    def __init__(self, *secrets: str) -> None:
        self._keys = [hashlib.sha256(b"cursors " + secret.encode()).digest() for secret in secrets]

    def encode(self, listing: str, place: str) -> str:
        """Return the cursor for a place in a list, in lower-case hex."""
        return (_signature(self._keys[0], listing, place) + place.encode()).hex()

    def decode(self, listing: str, cursor: str) -> str:
        """Return the place that a cursor names; raise InvalidQuery where it is not of this list."""
        try:
            raw = bytes.fromhex(cursor)
            signature, place = raw[:SIGNATURE_BYTES], raw[SIGNATURE_BYTES:].decode()
        except ValueError:
            signature, place = b"", ""
        signatures = (_signature(key, listing, place) for key in self._keys)
        if not any(hmac.compare_digest(signature, ours) for ours in signatures):
            raise InvalidQuery({"cursor": ["This cursor does not belong to this list."]})
        return place


def _signature(key: bytes, listing: str, place: str) -> bytes:
    message = f"{listing}\n{place}".encode()
    return hmac.digest(key, message, "sha256")[:SIGNATURE_BYTES]


class Page:
    """One page of a list: where it begins, how long it may be, and the answer made of it."""

    def __init__(self, query: PageQuery, **whose: int) -> None:
        self._filters = query.model_dump(
            mode="json", exclude={"limit", "cursor"}, exclude_none=True
        )
        self.limit = query.limit
        owned = sorted((self._filters | whose).items())
        self._listing = f"{request.path}?{urlencode(owned)}"
        self.after = self._cursors.decode(self._listing, query.cursor) if query.cursor else None

    @property
    def _cursors(self) -> Cursors:
        cursors: Cursors = current_app.extensions["cursors"]
        return cursors

    def answer(self, name: str, listing: Listing, place: Place) -> Response:
        """Return the rows as `data.<name>`, with the cursor and the link to the next page.

        `place` tells by the last row where the next page begins.
        """
        if listing.rows is None:
            return not_modified(listing.etag)
        headers = {"ETag": f'"{listing.etag}"'}
        cursor = None
        if listing.last is not None:
            cursor = self._cursors.encode(self._listing, str(place(listing.last)))
            following = urlencode(self._filters | {"limit": self.limit, "cursor": cursor})
            headers["Link"] = (
                f'<{request.root_path}{request.path}?{following}>; rel="next"'  # RFC 8288
            )
        data = {name: orjson.Fragment(listing.rows), "next_cursor": cursor}
        return unchanged(listing.etag) or success(data, headers=headers)
