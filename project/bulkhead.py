"""Fair bulkhead: limits concurrent work in total, and the share of each client."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition


class BulkheadFull(Exception):
    """No slot became free in time; the work was not begun."""


class FairBulkhead:
    """Bulkhead that no client can fill: each may use some of the slots, in order of arrival."""

    def __init__(self, slots: int, slots_per_client: int, reserved: int = 0) -> None:
        """Allow so many callers at a time; `reserved` slots are for preferred callers only."""
        self._slots = slots
        self._reserved = reserved
        self._slots_per_client = slots_per_client
        self._changed = Condition()
        self._used: Counter[str] = Counter()
        self._waiting: defaultdict[str, list[object]] = defaultdict(list)

    @contextmanager
    def slot(
        self, client: str, timeout_seconds: float, *, preferred: bool = False
    ) -> Iterator[None]:
        """Hold a slot during the block; raise BulkheadFull if none is free in time."""
        self._acquire(client, timeout_seconds, preferred)
        try:
            yield
        finally:
            self._release(client)

    def _acquire(self, client: str, timeout_seconds: float, preferred: bool) -> None:
        caller = object()
        slots = self._slots if preferred else self._slots - self._reserved
        with self._changed:
            self._waiting[client].append(caller)
            try:
                if not self._changed.wait_for(
                    lambda: self._is_next(client, caller, slots), timeout_seconds
                ):
                    raise BulkheadFull
                self._used[client] += 1
            finally:
                self._waiting[client].remove(caller)
                if not self._waiting[client]:
                    del self._waiting[client]
                self._changed.notify_all()

    def _release(self, client: str) -> None:
        with self._changed:
            self._used[client] -= 1
            if not self._used[client]:
                del self._used[client]
            self._changed.notify_all()

    def _is_next(self, client: str, caller: object, slots: int) -> bool:
        return (
            self._waiting[client][0] is caller
            and self._used[client] < self._slots_per_client
            and self._used.total() < slots
        )
