"""How often an address may do what needs no token.

By `limits`, on which Flask-Limiter is built: the extension's hooks would cost every request,
and only increments without a token are limited.
"""

import logging
import math
import time

from limits import parse
from limits.storage import MemoryStorage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from project.api.errors import RateLimited

logger = logging.getLogger(__name__)

POLICY = "anonymous"


class AnonymousLimit:
    """Counts what addresses do without a token."""

    def __init__(self, limit: str, storage_uri: str) -> None:
        """Allow each address `limit`, say "600/minute"; `storage_uri` is where that is counted.

        Raise ValueError where one of them makes no sense.
        """
        self._limit = parse(limit)
        self._storage = storage_from_string(storage_uri)
        self._shared = SlidingWindowCounterRateLimiter(self._storage)
        # Counts while the storage is away: a lost Redis should neither open nor close the door.
        self._own = SlidingWindowCounterRateLimiter(MemoryStorage())

    def count(self, address: str) -> dict[str, str]:
        """Count one for the address; return the fields that say how many are left.

        Raise RateLimited where none is. The fields are those of the IETF draft
        "RateLimit header fields for HTTP".
        """
        try:
            allowed, reset_at, remaining = self._hit(self._shared, address)
        except self._storage.base_exceptions:
            logger.warning("The storage of rate limits is away; this process counts alone.")
            allowed, reset_at, remaining = self._hit(self._own, address)
        seconds = max(1, math.ceil(reset_at - time.time()))
        fields = {
            "RateLimit-Policy": f'"{POLICY}";q={self._limit.amount};w={self._limit.get_expiry()}',
            "RateLimit": f'"{POLICY}";r={remaining};t={seconds}',
        }
        if not allowed:
            raise RateLimited(headers=fields | {"Retry-After": str(seconds)})
        return fields

    def _hit(
        self, limiter: SlidingWindowCounterRateLimiter, address: str
    ) -> tuple[bool, float, int]:
        allowed = limiter.hit(self._limit, POLICY, address)
        stats = limiter.get_window_stats(self._limit, POLICY, address)
        return allowed, stats.reset_time, stats.remaining
