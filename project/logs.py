"""The log: one line for each request, and for whatever else is worth one.

In development it is text to read, elsewhere JSON, one object a line. A request must never wait for
whoever reads the log: it leaves what is to be said in a queue, and a thread writes it a moment
later, many lines at once. Where nobody reads, the queue fills up, and lines are lost and counted.
No line holds a token: neither headers nor query strings nor bodies are logged.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from logging.config import dictConfig
from typing import Any, NamedTuple

import orjson
from flask import has_request_context, request

from project.metrics import LOG_LINES_LOST
from project.seldom import Seldom

STDERR = 2
MOST_LINES = 20_000
WRITE_SECONDS = 0.05


class Served(NamedTuple):
    """What the log says of one request."""

    at: float  # when it was answered, in seconds since 1970
    request_id: str
    trace_id: str | None
    method: str
    route: str | None
    status: int
    seconds: float
    user_id: int | None

    def as_json(self) -> bytes:
        """Return the line for programs."""
        line = {
            "time": _utc(self.at),
            "level": "INFO",
            "message": "request",
            "request_id": self.request_id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "milliseconds": round(self.seconds * 1000, 3),
            "user_id": self.user_id,
        }
        if self.trace_id is not None:
            line["trace_id"] = self.trace_id
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)

    def as_text(self) -> bytes:
        """Return the line for people."""
        who = f" user {self.user_id}" if self.user_id is not None else ""
        what = f"{self.status} {self.method} {self.route or '(no such path)'}"
        took = f"{self.seconds * 1000:.1f} ms"
        return f"{_clock(self.at)} INFO {what}, {took}{who} [{self.request_id}]\n".encode()


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object, with the id of the request that it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        line: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname,
            "message": record.getMessage(),
            "logger": record.name,
        }
        if has_request_context():
            line["request_id"] = request.id  # type: ignore[attr-defined]
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class TextFormatter(logging.Formatter):
    """Writes a record for people."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")


class Log:
    """Lines on their way to stderr; a thread writes them."""

    def __init__(self, write: Callable[[bytes], None], *, as_json: bool) -> None:
        self._write = write
        self._line = Served.as_json if as_json else Served.as_text
        self._waiting: deque[Served | bytes] = deque()

    def start(self) -> None:
        """Write from now on, until the main thread has ended and nothing is left to write."""
        # No daemon: an interpreter that ends waits for it, and so the last lines are written.
        threading.Thread(target=self._keep_writing, name="log", daemon=False).start()

    def note(self, line: Served | bytes) -> None:
        """Have one line written."""
        if len(self._waiting) < MOST_LINES:
            self._waiting.append(line)
        else:
            LOG_LINES_LOST.inc()

    def _keep_writing(self) -> None:
        while threading.main_thread().is_alive():
            time.sleep(WRITE_SECONDS)
            self.flush()
        self.flush()

    def flush(self) -> None:
        """Write what waits at the moment."""
        waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if waiting:
            lines = (self._line(one) if isinstance(one, Served) else one for one in waiting)
            self._write(b"".join(lines))


class _Queued(logging.Handler):
    """Gives records to the log's thread."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._log.note(f"{self.format(record)}\n".encode())
        except Exception:  # noqa: BLE001  as logging itself does: a log stops no request
            self.handleError(record)


def configuration(level: str, *, as_json: bool) -> dict[str, Any]:
    """Return what logging.config.dictConfig() takes: every record, in one form, to stderr."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": JsonFormatter if as_json else TextFormatter}},
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "line",
                "stream": "ext://sys.stderr",
            }
        },
        "loggers": {
            name: {"level": level, "handlers": [], "propagate": True}
            for name in ("_granian", "granian.access", "project")
        },
        # Libraries speak where something is wrong; of what they do all day nobody wants to hear.
        "root": {"level": "WARNING", "handlers": ["stderr"]},
    }


def start(level: str, *, as_json: bool) -> Callable[[Served], None] | None:
    """Write through a queue from now on; return what notes a request, or None below INFO."""
    dictConfig(configuration(level, as_json=as_json))
    log = Log(write_all, as_json=as_json)
    queued = _Queued(log)
    queued.setFormatter(JsonFormatter() if as_json else TextFormatter())
    queued.addFilter(Seldom())
    logging.getLogger().handlers = [queued]
    log.start()
    return log.note if logging.getLogger("project").isEnabledFor(logging.INFO) else None


def write_all(lines: bytes) -> None:
    """Write to stderr, however much it takes at a time; where it is closed there is nobody."""
    left = memoryview(lines)
    try:
        while left:
            left = left[os.write(STDERR, left) :]
    except OSError:
        LOG_LINES_LOST.inc(bytes(left).count(b"\n"))
