"""Rate limits of a client address: an IPv4 address, or an IPv6 /64.

By `limits`, on which Flask-Limiter is built: the extension's hooks would cost every request,
and only few requests are limited.
"""

import logging
import math
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from flask import Response, current_app, request
from limits import WindowStats, parse
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from project.api.addresses import client_network
from project.api.errors import RateLimited
from project.users import User

logger = logging.getLogger(__name__)

Operation = Callable[..., bool]

View = TypeVar("View", bound=Callable[..., Response])


class AddressLimit:
    """Rate limit for each client address."""

    def __init__(
        self, policy: str, limit: str, storage_uri: str, message: str | None = None
    ) -> None:
        """Allow each address `limit`, such as "600/minute", counted in the storage.

        `policy` is its name in the header fields, and `message` explains a 429. Raise ValueError
        if the limit or the address of the storage is wrong.
        """
        self._policy = policy
        self._message = message
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
        return self._apply(SlidingWindowCounterRateLimiter.hit, address)

    def check(self, address: str | None) -> None:
        """Raise RateLimited if no request of the address is left; do not count one."""
        self._apply(SlidingWindowCounterRateLimiter.test, address)

    def _apply(self, operation: Operation, address: str | None) -> dict[str, str]:
        client = client_network(address)
        try:
            allowed, stats = self._ask(self._shared, operation, client)
        except self._storage.base_exceptions:
            logger.warning("The storage of rate limits is away; this process counts alone.")
            allowed, stats = self._ask(self._own, operation, client)
        seconds = max(1, math.ceil(stats.reset_time - time.time()))
        amount, window = self._limit.amount, self._limit.get_expiry()
        fields = {
            "RateLimit-Policy": f'"{self._policy}";q={amount};w={window}',
            "RateLimit": f'"{self._policy}";r={stats.remaining};t={seconds}',
        }
        if not allowed:
            raise RateLimited(message=self._message, headers=fields | {"Retry-After": str(seconds)})
        return fields

    def _ask(
        self, limiter: SlidingWindowCounterRateLimiter, operation: Operation, client: str
    ) -> tuple[bool, WindowStats]:
        allowed = operation(limiter, self._limit, self._policy, client)
        return allowed, limiter.get_window_stats(self._limit, self._policy, client)


def count_address() -> dict[str, str]:
    """Count the current request for its address; return the RateLimit fields.

    Raise RateLimited if the address is over its limit.
    """
    limit: AddressLimit = current_app.extensions["anonymous_limit"]
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
