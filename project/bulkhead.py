"""Fair bulkhead: limits concurrent work in total, and the share of each client."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class BulkheadFull(Exception):
    """No slot became free in time; the work was not begun."""


class FairBulkhead:
    """Bulkhead that no client can fill: each may use only some of the slots."""

    def __init__(self, slots: int, slots_per_client: int) -> None:
        self._slots = slots
        self._slots_per_client = slots_per_client
        self._released = Condition()
        self._used: Counter[str] = Counter()

    @contextmanager
    def slot(self, client: str, timeout_seconds: float) -> Iterator[None]:
        """Hold a slot during the block; raise BulkheadFull if none is free in time."""
        with self._released:
            if not self._released.wait_for(lambda: self._has_slot(client), timeout_seconds):
                raise BulkheadFull
            self._used[client] += 1
        try:
            yield
        finally:
            with self._released:
                self._used[client] -= 1
                if not self._used[client]:
                    del self._used[client]
                self._released.notify_all()

    def _has_slot(self, client: str) -> bool:
        return self._used.total() < self._slots and self._used[client] < self._slots_per_client
