"""A log in which an outage is a line, and not one for each request that met it."""

import logging
import time
from threading import Lock

SECONDS = 60
MOST_KNOWN = 100


class Seldom(logging.Filter):
    """Lets a warning through, and the same text again only after a while.

    That line says how many were kept back. Errors all pass: each is a mistake with a trace of
    its own.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        super().__init__()
        self._seconds = seconds
        self._lock = Lock()
        # For each text: when it may pass again, and how often it was kept back until now.
        self._known: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is to be logged."""
        if record.levelno != logging.WARNING:
            return True
        text, now = record.getMessage(), time.monotonic()
        with self._lock:
            passes_at, kept_back = self._known.get(text, (now, 0))
            if now < passes_at:
                self._known[text] = (passes_at, kept_back + 1)
                return False
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[text] = (now + self._seconds, 0)
        if kept_back:
            record.msg, record.args = "%s (%d times more since then)", (text, kept_back)
        return True
