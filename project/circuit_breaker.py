"""Circuit breaker: stops requests to a dependency after some failures in a row.

closed      every request is allowed; `failures_to_open` failures in a row open it
open        no request is allowed for `open_seconds`
half-open   one request is allowed as a trial; its result closes or opens the breaker

See Michael Nygard, "Release It!".
"""

import math
import time
from collections.abc import Callable


class CircuitBreaker:
    """Circuit breaker. It is not thread-safe: the owner holds a lock during each call."""

    def __init__(
        self,
        failures_to_open: int,
        open_seconds: float,
        on_change: Callable[[bool, str | None], None],
    ) -> None:
        """Call `on_change` with whether it is open, and with the failure that opened it."""
        self._failures_to_open = failures_to_open
        self._open_seconds = open_seconds
        self._on_change = on_change
        self._failures = 0
        # A new generation begins whenever the breaker opens or closes. The result of a request of
        # an earlier generation does not count: it says nothing about now.
        self._generation = 0
        self._trial_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether it rejects requests, except one trial at a time."""
        return self._failures >= self._failures_to_open

    def allows(self, *, preferred: bool = True) -> bool:
        """Return whether a request would be admitted now."""
        patience = 0 if preferred else self._open_seconds
        return not self.is_open or time.monotonic() >= self._trial_at + patience

    def admit(self, *, preferred: bool = True) -> int | None:
        """Return the generation of a request, which must be reported, or None: do not send it."""
        if not self.allows(preferred=preferred):
            return None
        if self.is_open:
            self._trial_at = math.inf  # no second trial until this one is reported
        return self._generation

    def report(self, generation: int, failure: str | None) -> None:
        """Count the result of an admitted request; `failure` is None if it was answered."""
        if generation != self._generation:
            return
        was_open = self.is_open
        self._failures = 0 if failure is None else self._failures + 1
        self._trial_at = time.monotonic() + self._open_seconds
        if self.is_open != was_open:
            self._generation += 1
            self._on_change(self.is_open, failure)
