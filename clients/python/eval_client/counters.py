"""The endpoints of counters."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Literal
from urllib.parse import quote, urlencode

from eval_client.models import Audit, Counter, Point, read
from eval_client.transport import Answer, Transport

ANY_VERSION = "*"


class Counters:
    """How often anything happened.

    Without a token, `public:home` and every existing counter whose name begins with `public:`
    may be incremented by 1; only administrators subtract from these. `key` is the
    Idempotency-Key, to repeat a write from elsewhere; without it each call has its own.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def increment(self, name: str, by: int = 1, *, key: str | None = None) -> int:
        """Add to a counter, which exists from then on, and return its value."""
        path = f"{_path(name)}/increment"
        value: int = self._transport.write("POST", path, {"by": by}, key).data["value"]
        return value

    def increment_many(
        self, increments: Mapping[str, int], *, key: str | None = None
    ) -> dict[str, int]:
        """Add to counters and return their values.

        Up to 1000 are incremented all or none; more are sent in chunks of 1000, which succeed
        and fail as those of `Scores.upsert_many()` do.
        """
        values: dict[str, int] = {}
        for answer in self._transport.write_many(
            "/counters/increment", "increments", increments, key
        ):
            values |= answer.data["counters"]
        return values

    def get(self, name: str) -> Counter:
        """Return a counter with its ETag, or raise CounterNotFound."""
        return _counter(self._transport.call("GET", _path(name)))

    def find(self, *, prefix: str | None = None, page_size: int | None = None) -> Iterator[Counter]:
        """Give the counters whose names begin so, in the order of their names; without ETags."""
        return self._transport.pages(
            Counter, "counters", "/counters", prefix=prefix, limit=page_size
        )

    def create(self, name: str, value: int, *, key: str | None = None) -> Counter:
        """Make a counter, or raise PreconditionFailed where it exists; administrators."""
        return self._put(name, value, key, {"If-None-Match": "*"})

    def set(self, name: str, value: int, *, if_match: str, key: str | None = None) -> Counter:
        """Set a counter where its `etag` is still this one, or ANY_VERSION; administrators.

        Raise PreconditionFailed where it is another one.
        """
        return self._put(name, value, key, {"If-Match": if_match})

    def delete(self, name: str) -> None:
        """Delete a counter with its history; administrators. Sent once, since it has no key."""
        self._transport.call("DELETE", _path(name))

    def delete_prefix(self, prefix: str) -> int:
        """Delete all counters whose names begin so, with their histories; return how many.

        Administrators only. It is sent once; if it fails, call it again for the rest.
        """
        path = f"/counters?{urlencode({'prefix': prefix})}"
        deleted: int = self._transport.call("DELETE", path).data["deleted"]
        return deleted

    def history(
        self,
        name: str,
        *,
        interval: Literal["hour", "day"] = "day",
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[Point]:
        """Return by how much a counter grew in each hour or day, in UTC and without gaps."""
        path = f"{_path(name)}/history"
        told = self._transport.get(path, interval=interval, since=since, until=until)
        return [read(Point, point) for point in told["points"]]

    def audit(self, name: str) -> Audit:
        """Hold a counter's value against the sum of its ledger."""
        return read(Audit, self._transport.get(f"{_path(name)}/audit"))

    def _put(self, name: str, value: int, key: str | None, condition: dict[str, str]) -> Counter:
        body = {"value": value}
        return _counter(self._transport.write("PUT", _path(name), body, key, condition))


def _path(name: str) -> str:
    return f"/counters/{quote(name, safe='')}"


def _counter(answer: Answer) -> Counter:
    return replace(read(Counter, answer.data), etag=answer.etag)
