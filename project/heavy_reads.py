"""Expensive reads: single-flight, short reuse of results, and a bulkhead.

Some reads aggregate many rows and take PostgreSQL seconds. Without a limit, a few clients that
request them occupy all threads and all processors, and writes are rejected.

- Concurrent equal reads share one query, and its result is reused for REUSE_SECONDS. So a result
  may be older than the request by that time and by the time of its query. Only reads for which
  that is documented are shared.
- Half of the request slots of a process, at most, are for expensive reads. The excess is rejected
  immediately, because a request that waits would occupy the slot of a write.
- At most MAX_QUERIES of these queries run at once in a process. The other requests within the
  bulkhead wait up to WAIT_SECONDS for their turn, then they are rejected.

If a query fails, all requests that share it fail, each with an exception of its own.
"""

from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from copy import copy
from threading import BoundedSemaphore, Lock
from typing import Any, TypeVar, cast

from cachetools import TTLCache
from flask import current_app

MAX_QUERIES = 2
REUSE_SECONDS = 1.0
WAIT_SECONDS = 1.0
# How long a request waits for the query of another request.
SHARED_WAIT_SECONDS = 2.5
MAX_RESULTS = 32

Result = TypeVar("Result")


class TooManyHeavyReads(Exception):
    """Too many expensive reads run in this process."""


class HeavyReads:
    """Runs expensive reads, few at a time, and shares their results."""

    def __init__(self, callers: int, reuse_seconds: float = REUSE_SECONDS) -> None:
        """Allow `callers` requests at a time to run, share or wait for an expensive read."""
        self._callers = BoundedSemaphore(callers)
        self._queries = BoundedSemaphore(MAX_QUERIES)
        # The lock guards the two below.
        self._lock = Lock()
        self._running: dict[Hashable, Future[Any]] = {}
        self._recent: TTLCache[Hashable, Future[Any]] = TTLCache(MAX_RESULTS, reuse_seconds)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot for an expensive read that is not shared; raise TooManyHeavyReads if full."""
        with _acquired(self._callers, timeout=0), _acquired(self._queries, timeout=WAIT_SECONDS):
            yield

    def share(self, query: Callable[..., Result], *args: Hashable) -> Result:
        """Return `query(*args)`, from a running or a recent call with equal arguments if any.

        Raise TooManyHeavyReads if the bulkhead is full or the result takes too long.
        """
        key = (query, args)
        with self._lock:
            future = self._recent.get(key)
        if future is not None:
            return cast(Result, future.result())
        with _acquired(self._callers, timeout=0):
            with self._lock:
                future = self._recent.get(key) or self._running.get(key)
                leads = future is None
                if future is None:
                    future = self._running[key] = Future()
            if leads:
                return self._run(future, query, args)
            return cast(Result, _wait(future))

    def _run(self, future: Future[Any], query: Callable[..., Result], args: Any) -> Result:
        key = (query, args)
        try:
            with _acquired(self._queries, timeout=WAIT_SECONDS):
                result = query(*args)
        except BaseException as error:
            future.set_exception(error)
            raise
        else:
            future.set_result(result)
            with self._lock:
                self._recent[key] = future
            return result
        finally:
            with self._lock:
                del self._running[key]


@contextmanager
def _acquired(slots: BoundedSemaphore, timeout: float) -> Iterator[None]:
    """Hold a slot during the block; raise TooManyHeavyReads if none is free within `timeout`."""
    if not slots.acquire(timeout=timeout):
        raise TooManyHeavyReads
    try:
        yield
    finally:
        slots.release()


def _wait(future: Future[Any]) -> Any:
    """Return the result of another request's query, or raise a copy of its exception."""
    try:
        error = future.exception(SHARED_WAIT_SECONDS)
    except TimeoutError:
        raise TooManyHeavyReads from None
    if error is not None:
        raise copy(error) from error
    return future.result()


def heavy_reads() -> HeavyReads:
    """Return the expensive reads of the current app."""
    reads: HeavyReads = current_app.extensions["heavy_reads"]
    return reads
