"""What we measure, and how it is told: /metrics, summed over all workers.

Each worker keeps its numbers in files of one folder, which all workers read. A file belongs to
a place in the row of workers, not to a process: who takes a place that a dead worker has left
counts on where that one stopped. So a sum never falls because a worker died, and there are
never more files than there were workers at once. What is true only of the living, like how many
connections are in use, is read from places that are taken; the lock of a place tells, and
the kernel gives that back however its holder died.
"""

import fcntl
import os
import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
    values,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import REGISTRY, Collector
from sqlalchemy import QueuePool

from project.users import Observer

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FOLDER = "PROMETHEUS_MULTIPROC_DIR"
DOUBLE_BYTES = 8

# Seconds: from a flush to a fast disk to the longest that a statement may take.
SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2.5)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

# Anybody may invent a method; each that is told here costs room for ever.
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
NO_ROUTE = "none"


# --- where the numbers are kept ----------------------------------------------------------------


class Places:
    """The row of workers that share a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self) -> int:
        """Take the first place that is free, until this process ends; return its number."""
        number = 0
        while not self._lock(number):
            number += 1
        # What its last holder said of itself is no longer so.
        for gone in self._folder.glob(f"gauge_*_{number}.db"):
            gone.unlink()
        return number

    def files(self) -> list[str]:
        """Return the files to sum up: all that was counted, and how it is with the living."""
        return [
            str(path)
            for path in sorted(self._folder.glob("*.db"))
            if not path.name.startswith("gauge") or self._is_taken(path.stem.rpartition("_")[2])
        ]

    def _lock(self, number: int) -> bool:
        # Left open: whoever has it open and locked has the place.
        handle = os.open(self._folder / f"{number}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        return True

    def _is_taken(self, number: str) -> bool:
        handle = os.open(self._folder / f"{number}.lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False


@cache
def _own_place() -> int:
    """Return the place of this process, taken with its first number."""
    return Places(Path(os.environ[FOLDER])).take()


def is_first_worker() -> bool:
    """Return whether this process measures what is the same for all workers."""
    return _own_place() == 0


@cache
def _own_file(kind: str) -> MmapedDict:
    return MmapedDict(str(Path(os.environ[FOLDER], f"{kind}_{_own_place()}.db")))  # type: ignore[no-untyped-call]


class SharedValue:
    """One number in this worker's file, as prometheus_client has its own.

    That one asks for the process's number and packs bytes with each increment, under one lock
    for all numbers; this one has the number's place in memory, and costs a tenth of it.
    """

    _multiprocess = True
    _making = Lock()

    def __init__(
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Iterable[str],
        labelvalues: Iterable[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_: Any,
    ) -> None:
        key = mmap_key(metric_name, name, list(labelnames), list(labelvalues), help_text)
        with self._making:
            file = _own_file(f"{typ}_{multiprocess_mode}" if typ == "gauge" else typ)
            file.read_value(key)  # type: ignore[no-untyped-call]  # makes room where there is none
            self._at = file._positions[key] // DOUBLE_BYTES
            # Where the file grows it is mapped anew; this view stays one of the same file.
            self._numbers = memoryview(file._m).cast("d")
        self._lock = Lock()

    def inc(self, amount: float) -> None:
        """Add to the number."""
        with self._lock:
            self._numbers[self._at] += amount

    def set(self, value: float, _timestamp: float | None = None) -> None:
        """Set the number."""
        with self._lock:
            self._numbers[self._at] = value

    def get(self) -> float:
        """Return the number."""
        number: float = self._numbers[self._at]
        return number

    def set_exemplar(self, _exemplar: Any) -> None:
        """Keep no exemplar: these files have no room for them."""

    def get_exemplar(self) -> None:
        """Return no exemplar."""


if FOLDER in os.environ:
    values.ValueClass = SharedValue


class QuickHistogram(Histogram):
    """A histogram that finds the bucket by bisection, and keeps no exemplars."""

    def observe(self, amount: float, _exemplar: Any = None) -> None:
        """Note one."""
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)
        self._sum.inc(amount)


# --- what is measured --------------------------------------------------------------------------

REQUEST_SECONDS = QuickHistogram(
    "eval_http_request_seconds", "Requests, and how long they took.",
    ["route", "method", "status"], buckets=SECONDS,
)  # fmt: skip

BATCH_SIZE = QuickHistogram(
    "eval_batch_size", "Writes that shared one commit.", ["combiner"], buckets=SIZES
)
QUEUE_SECONDS = QuickHistogram(
    "eval_batch_queue_seconds", "How long a batch's first write waited.", ["combiner"],
    buckets=SECONDS,
)  # fmt: skip
FLUSH_SECONDS = QuickHistogram(
    "eval_batch_flush_seconds", "How long a batch's statement and commit took.", ["combiner"],
    buckets=SECONDS,
)  # fmt: skip

POOL_CONNECTIONS = Gauge(
    "eval_pool_connections", "Connections to PostgreSQL: in use by a thread, or idle.",
    ["pool", "state"], multiprocess_mode="livesum",
)  # fmt: skip
POOL_LIMIT = Gauge(
    "eval_pool_limit", "Connections that the pools may open.", ["pool"], multiprocess_mode="livesum"
)
POOL_TIMEOUTS = Counter("eval_pool_timeouts", "Requests that got no connection in time.")

USERS_SECONDS = QuickHistogram(
    "eval_users_question_seconds", "Questions to users-service, and how long they took.",
    ["answer"], buckets=SECONDS,
)  # fmt: skip
USERS_CACHE_HITS = Counter("eval_users_cache_hits", "Tokens that were in the cache.")
USERS_REFUSED = Counter("eval_users_refused", "Questions not asked, as the breaker was open.")
LOOKUPS_REJECTED = Counter(
    "eval_users_lookups_rejected",
    "Token lookups rejected because too many wait (queue), or after too many invalid tokens of an"
    " address (rate_limit).",
    ["reason"],
)
USERS_BREAKER_OPEN = Gauge(
    "eval_users_breaker_open", "Workers whose breaker is open: users-service is away.",
    multiprocess_mode="livesum",
)  # fmt: skip

LOG_LINES_LOST = Counter("eval_log_lines_lost", "Lines of the log that nobody took in time.")

WORKERS = Gauge("eval_workers", "Worker processes that live.", multiprocess_mode="livesum")
MEMORY = Gauge(
    "eval_resident_memory_bytes", "Memory of the workers, in bytes.", multiprocess_mode="livesum"
)
OPEN_FILES = Gauge(
    "eval_open_files", "Open files and sockets of the workers.", multiprocess_mode="livesum"
)

# With labels, so that they are absent, and not 0, before the first sample.
TABLE_ROWS = Gauge(
    "eval_table_rows", "Rows of a table, estimated at its last vacuum or analyze.", ["table"],
    multiprocess_mode="livemax",
)  # fmt: skip
TABLE_BYTES = Gauge(
    "eval_table_bytes", "Size of a table with its indexes.", ["table"], multiprocess_mode="livemax"
)
DATABASE_BYTES = Gauge(
    "eval_database_bytes", "Size of the database.", ["database"], multiprocess_mode="livemax"
)

_PROCESS = ProcessCollector(registry=None)
_OF_PROCESS = {"process_resident_memory_bytes": MEMORY, "process_open_fds": OPEN_FILES}


class RequestMetrics:
    """What is told of requests."""

    def __init__(self) -> None:
        # Looked up once: by label it costs more than to observe.
        self._observe: dict[tuple[str | None, str, int], Callable[[float], None]] = {}

    def observe(self, route: str | None, method: str, status: int, seconds: float) -> None:
        """Note one request; `route` is that which its path matched, or None."""
        observe = self._observe.get((route, method, status))
        if observe is None:
            told = method if method in METHODS else "other"
            observe = REQUEST_SECONDS.labels(route or NO_ROUTE, told, str(status)).observe
            if told == method:
                self._observe[route, method, status] = observe
        observe(seconds)


class BatchMetrics:
    """What a combiner tells of its flushes."""

    def __init__(self, combiner: str) -> None:
        self._size = BATCH_SIZE.labels(combiner)
        self._queue = QUEUE_SECONDS.labels(combiner)
        self._flush = FLUSH_SECONDS.labels(combiner)

    def observe(self, size: int, queue_seconds: float, flush_seconds: float) -> None:
        """Note one flush."""
        self._size.observe(size)
        self._queue.observe(queue_seconds)
        self._flush.observe(flush_seconds)


class UsersMetrics(Observer):
    """Measures the client of users-service."""

    def __init__(self) -> None:
        self._seconds = {answer: USERS_SECONDS.labels(answer) for answer in ("yes", "no", "none")}

    def on_cache_hit(self) -> None:
        """Count a token that was in the cache."""
        USERS_CACHE_HITS.inc()

    def on_short_circuit(self) -> None:
        """Count a lookup that the circuit breaker rejected."""
        USERS_REFUSED.inc()

    def on_queue_timeout(self) -> None:
        """Count a lookup whose turn did not come in time."""
        LOOKUPS_REJECTED.labels("queue").inc()

    def on_lookup(self, answer: str, seconds: float) -> None:
        """Measure a lookup whose answer was "yes", "no", or "none"."""
        self._seconds[answer].observe(seconds)

    def on_state_change(self, *, is_open: bool) -> None:
        """Note that the circuit breaker has opened or closed."""
        USERS_BREAKER_OPEN.set(is_open)


def look_around(pools: Mapping[str, QueuePool]) -> None:
    """Note how this process is at the moment: its pools, its memory, and that it lives."""
    for name, pool in pools.items():
        POOL_CONNECTIONS.labels(name, "in use").set(pool.checkedout())
        POOL_CONNECTIONS.labels(name, "idle").set(pool.checkedin())
        POOL_LIMIT.labels(name).set(pool.size())
    for family in _PROCESS.collect():
        gauge = _OF_PROCESS.get(family.name)
        if gauge is not None:
            gauge.set(family.samples[0].value)
    WORKERS.set(1)


# --- how it is told ----------------------------------------------------------------------------


class _BuildInfo(Collector):
    """Which version this is."""

    def __init__(self, version: str) -> None:
        self._version = version

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "eval_build_info", "Always 1; which version this is.", labels=["version", "python"]
        )
        family.add_metric([self._version, platform.python_version()], 1)
        yield family


class _AllWorkers(Collector):
    """The numbers of all workers, summed up."""

    def collect(self) -> Iterable[Metric]:
        files = Places(Path(os.environ[FOLDER])).files()
        families: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return families


def exposition(version: str) -> bytes:
    """Return every metric in Prometheus' text format, of all workers where there are several."""
    registry = CollectorRegistry()
    registry.register(_BuildInfo(version))
    if FOLDER in os.environ:
        registry.register(_AllWorkers())
        return generate_latest(registry)
    return generate_latest(registry) + generate_latest(REGISTRY)
