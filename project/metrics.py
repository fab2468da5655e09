"""What we measure, and how it is told: /metrics, summed over all workers."""

import os

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Seconds: from a flush to a fast disk to the longest that a statement may take.
SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1, 2.5)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

BATCH_SIZE = Histogram(
    "eval_batch_size", "Writes that shared one commit.", ["combiner"], buckets=SIZES
)
QUEUE_SECONDS = Histogram(
    "eval_batch_queue_seconds", "How long a batch's first write waited.", ["combiner"],
    buckets=SECONDS,
)  # fmt: skip
FLUSH_SECONDS = Histogram(
    "eval_batch_flush_seconds", "How long a batch's statement and commit took.", ["combiner"],
    buckets=SECONDS,
)  # fmt: skip


class BatchMetrics:
    """What a combiner tells of its flushes."""

    def __init__(self, combiner: str) -> None:
        # Looked up once: by label it costs more than to observe.
        self._size = BATCH_SIZE.labels(combiner)
        self._queue = QUEUE_SECONDS.labels(combiner)
        self._flush = FLUSH_SECONDS.labels(combiner)

    def observe(self, size: int, queue_seconds: float, flush_seconds: float) -> None:
        """Note one flush."""
        self._size.observe(size)
        self._queue.observe(queue_seconds)
        self._flush.observe(flush_seconds)


def exposition() -> bytes:
    """Return every metric in Prometheus' text format, of all workers where there are several."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
    return generate_latest()
