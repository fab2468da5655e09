"""Rate limit for increments without a token: by IPv4 address, or by IPv6 /64.

By `limits`, on which Flask-Limiter is built: the extension's hooks would cost every request,
and only increments without a token are limited.
"""

import logging
import math
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from flask import Response, current_app, request
from limits import parse
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from project.api.addresses import client_network
from project.api.errors import RateLimited
from project.users import User

logger = logging.getLogger(__name__)

POLICY = "anonymous"

View = TypeVar("View", bound=Callable[..., Response])


class AnonymousLimit:
    """Limits the requests without a token of each client address."""

    def __init__(self, limit: str, storage_uri: str) -> None:
        """Allow each address `limit`, say "600/minute"; `storage_uri` is where that is counted.

        Raise ValueError where one of them makes no sense.
        """
        self._limit = parse(limit)
        self._storage = storage_from_string(storage_uri)
        self._shared = SlidingWindowCounterRateLimiter(self._storage)
        # Counts while the storage is away: a lost Redis should neither open nor close the door.
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())

    def count(self, address: str | None) -> dict[str, str]:
        """Count a request of the address; return the header fields that say how many are left.

        Raise RateLimited if none is left. The fields are those of the IETF draft
        "RateLimit header fields for HTTP".
        """
        client = client_network(address)
        try:
            allowed, reset_at, remaining = self._hit(self._shared, client)
        except self._storage.base_exceptions:
            logger.warning("The storage of rate limits is away; this process counts alone.")
            allowed, reset_at, remaining = self._hit(self._own, client)
        seconds = max(1, math.ceil(reset_at - time.time()))
        fields = {
            "RateLimit-Policy": f'"{POLICY}";q={self._limit.amount};w={self._limit.get_expiry()}',
            "RateLimit": f'"{POLICY}";r={remaining};t={seconds}',
        }
        if not allowed:
            raise RateLimited(headers=fields | {"Retry-After": str(seconds)})
        return fields

    def _hit(
        self, limiter: SlidingWindowCounterRateLimiter, client: str
    ) -> tuple[bool, float, int]:
        allowed = limiter.hit(self._limit, POLICY, client)
        stats = limiter.get_window_stats(self._limit, POLICY, client)
        return allowed, stats.reset_time, stats.remaining


def count_address() -> dict[str, str]:
    """Count the current request for its address; return the RateLimit fields.

    Raise RateLimited if the address is over its limit.
    """
    limit: AnonymousLimit = current_app.extensions["anonymous_limit"]
    return limit.count(request.remote_addr)


def limit_anonymous(view: View) -> View:
    """Count a request without a token before its body is read; put it below `@authenticate…`."""

    @wraps(view)
    def limited(caller: User | None, **kwargs: Any) -> Response:
        if caller is not None:
            return view(caller, **kwargs)
        fields = count_address()
        response = view(caller, **kwargs)
        response.headers.update(fields)
        return response

    return cast(View, limited)
