"""A call in, what the service answers out: connections, and when to ask again.

A read may be asked again whenever it failed. A write carries an Idempotency-Key, the same in
each attempt, so that the service does it once however often it arrives; without a key, as a
DELETE has none, it is sent once.
"""

import hashlib
import json
import random
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime
from http import HTTPStatus
from itertools import islice
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode, urlsplit

from urllib3 import BaseHTTPResponse, HTTPConnectionPool, Timeout, connection_from_url
from urllib3.exceptions import HTTPError

from eval_client.errors import EvalError, Unreachable, from_answer
from eval_client.models import read

Token = str | Callable[[], str] | None
T = TypeVar("T")

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 5.0
# How many items one request takes.
MAX_ITEMS = 1000


class Answer(NamedTuple):
    """What the service answers: `data` of its envelope, and its ETag."""

    data: Any
    etag: str | None


class Transport:
    """Sends calls over a pool of connections, and again where that is safe."""

    def __init__(
        self,
        url: str,
        token: Token,
        timeout_seconds: float,
        patience_seconds: float,
        pool_size: int,
    ) -> None:
        if urlsplit(url).scheme not in {"http", "https"}:
            raise ValueError(f"The address should begin with http:// or https://, not be {url!r}")
        timeout = Timeout(connect=timeout_seconds, read=timeout_seconds)
        self._pool: HTTPConnectionPool = connection_from_url(
            url, maxsize=pool_size, timeout=timeout, retries=False
        )
        self._root = urlsplit(url).path.rstrip("/")
        self._token = token
        self._patience_seconds = patience_seconds

    def speaking_for(self, token: Token) -> "Transport":
        """Return the same with another token."""
        other = object.__new__(Transport)
        other.__dict__.update(self.__dict__, _token=token)
        return other

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    def get(self, path: str, **query: Any) -> Any:
        """Return `data` of what is at a path; parameters that are None are left out."""
        return self.call("GET", _address(path, query)).data

    def write(
        self, method: str, path: str, body: Any, key: str | None, headers: Any = None
    ) -> Answer:
        """Send a write, with a new key unless there is one, and return its answer."""
        fields = {"Idempotency-Key": key or uuid.uuid4().hex} | (headers or {})
        return self.call(method, path, body, fields)

    def write_many(
        self, path: str, name: str, items: Collection[Any], key: str | None
    ) -> Iterator[Answer]:
        """Send the items in chunks of up to MAX_ITEMS and give the answer to each chunk.

        Each chunk has a key of its own that follows from that of the call, so a call that is
        repeated with the same key and items writes each chunk once. An EvalError says by
        `written` how many items the chunks before it had.
        """
        key = key or uuid.uuid4().hex
        for number, chunk in enumerate(_chunks(items)):
            try:
                answer = self.write("POST", path, {name: chunk}, _chunk_key(key, number))
            except EvalError as error:
                error.written = number * MAX_ITEMS
                raise
            yield answer

    def pages(self, kind: Callable[..., T], name: str, path: str, **query: Any) -> Iterator[T]:
        """Give the items of a list one by one; the next page is fetched when it is needed."""
        cursor: str | None = None
        while True:
            page = self.get(path, **query, cursor=cursor)
            for item in page[name]:
                yield read(kind, item)
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Return the answer to a call, or raise the EvalError that came of it.

        Pauses grow and vary, so that many clients do not come back at once, and are never
        shorter than the service asks for. What would take longer than the patience is not
        waited for.
        """
        fields = self._authorization() | dict(headers or {})
        may_repeat = method == "GET" or "Idempotency-Key" in fields
        sent = None if body is None else json.dumps(body, default=_plain).encode()
        if sent is not None:
            fields["Content-Type"] = "application/json"
        deadline = time.monotonic() + self._patience_seconds
        for pause in _pauses():
            try:
                return self._attempt(method, path, sent, fields)
            except EvalError as error:
                wait = pause + (error.retry_after_seconds or 0)
                in_time = time.monotonic() + wait <= deadline
                if not (may_repeat and error.may_pass and in_time):
                    raise
            time.sleep(wait)
        raise AssertionError("the pauses never end")

    def _authorization(self) -> dict[str, str]:
        """Return the field that says who calls; the same for each attempt, as the key is theirs."""
        token = self._token() if callable(self._token) else self._token
        if token is None:
            return {}
        if not (token.isascii() and token.isprintable()):
            raise ValueError("The token has characters that no token has, say a line's end.")
        return {"Authorization": f"Bearer {token}"}

    def _attempt(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> Answer:
        try:
            answer = self._pool.urlopen(method, self._root + path, body, headers, redirect=False)
        except (HTTPError, OSError) as error:
            raise Unreachable(f"{method} {path}: {type(error).__name__}: {error}") from error
        body = _json(answer)
        if answer.status >= HTTPStatus.MULTIPLE_CHOICES or not isinstance(body, dict):
            request_id = answer.headers.get("X-Request-ID")
            raise from_answer(answer.status, body, request_id, _retry_after(answer))
        return Answer(body.get("data"), answer.headers.get("ETag"))


def _chunks(items: Collection[Any]) -> Iterator[Any]:
    """Give the items in lists, or dictionaries, of up to MAX_ITEMS; an empty one for none."""
    kind = dict if isinstance(items, Mapping) else list
    left = iter(items.items() if isinstance(items, Mapping) else items)
    for _ in range(0, max(len(items), 1), MAX_ITEMS):
        yield kind(islice(left, MAX_ITEMS))


def _chunk_key(key: str, number: int) -> str:
    """Return the key of a chunk: that of the call for the first, a hash for the others."""
    return hashlib.sha256(f"{number} {key}".encode()).hexdigest() if number else key


def _pauses() -> Iterator[float]:
    """Give ever longer pauses, each up to twice as long as the one before."""
    longest = FIRST_PAUSE_SECONDS
    while True:
        yield random.uniform(longest / 2, longest)  # noqa: S311 - spreads clients, guards nothing
        longest = min(2 * longest, LONGEST_PAUSE_SECONDS)


def _retry_after(answer: BaseHTTPResponse) -> float | None:
    """Return for how long the service asks to wait; it says so in whole seconds."""
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isdigit() else None


def _json(answer: BaseHTTPResponse) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {name: field for name, field in asdict(value).items() if field is not None}
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON")


def _address(path: str, query: Mapping[str, Any]) -> str:
    given = {name: _text(value) for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _text(value: Any) -> str:
    """Return a parameter as the service reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime) else str(value)
