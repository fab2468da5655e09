"""More clients than the service has threads, and what it holds meanwhile.

    python -m project.tests.faults.flood --minutes 10

is the soak: it floods a service of two workers for so long, prints what they hold, and ends with
1 where that has grown since the first minute. `--clients 640` is ten times what it has threads for.
"""

import argparse
import asyncio
import os
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psycopg2

from project.tests.faults.harness import TOKEN, Postgres, Service, visitors

HEAD = (
    "POST /counters/hot/increment HTTP/1.1\r\nHost: service\r\n"
    f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
)
# Of the soak: by how much what is held may differ after the first minute.
MEGABYTES = 16
OTHERS = 4


class Flood(threading.Thread):
    """Clients who increment without a pause, and repeat at once whatever was refused."""

    def __init__(self, port, clients):
        super().__init__(daemon=True)
        self.port, self.clients = port, clients
        self.statuses = {}
        self.hasty = 0  # refusals that do not say when to come again
        self.stopping = False

    def run(self):
        asyncio.run(self.rush())

    async def rush(self):
        await asyncio.gather(*(self.repeat() for _ in range(self.clients)))

    async def repeat(self):
        while not self.stopping:
            with suppress(OSError, asyncio.IncompleteReadError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    while not self.stopping:
                        writer.write(f"{HEAD}\r\n".encode())
                        length = self.note(await reader.readuntil(b"\r\n\r\n"))
                        await reader.readexactly(length)
                finally:
                    writer.close()

    def note(self, head):
        """Count an answer, and return how long its body is."""
        fields = head.decode().lower().split("\r\n")
        status = int(fields[0].split()[1])
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if status == 503 and not any(field.startswith("retry-after:") for field in fields):
            self.hasty += 1
        return next(int(field[15:]) for field in fields if field.startswith("content-length:"))


@contextmanager
def flooded(service, clients):
    """Flood a service for as long as the block lasts."""
    flood = Flood(service.port, clients)
    flood.start()
    try:
        yield flood
    finally:
        flood.stopping = True
        flood.join(30)


class Held(NamedTuple):
    """What the workers of a service hold, all of them together."""

    megabytes: float
    descriptors: int
    threads: int


def held(service):
    workers = service.workers
    return Held(
        sum(worker.memory_info().rss for worker in workers) / 2**20,
        sum(worker.num_fds() for worker in workers),
        sum(worker.num_threads() for worker in workers),
    )


def soak(minutes, clients):
    """Flood a service and print what is held; return whether that stays as it is."""
    postgres = Postgres()
    service = Service(postgres, WORKERS="2")
    try:
        with flooded(service, clients) as flood, visitors(service, "/health") as visits:
            samples = list(_samples(service, postgres, flood, minutes))
    finally:
        service.stop()
        postgres.stop()
    slowest = sorted(visit.seconds for visit in visits)[len(visits) * 99 // 100]
    print(f"{flood.statuses} answers; the 99th percentile of /health: {slowest:.2f} s")
    _, first, *_, last = samples
    grown = [now - then for then, now in zip(first, last, strict=True)]
    print("grown since the first minute:", *(round(more, 1) for more in grown))
    return grown[0] < MEGABYTES and max(grown[1:]) < OTHERS


def _samples(service, postgres, flood, minutes):
    """Yield what is held at the beginning and after each minute, and print it."""
    url = postgres.url.replace("+psycopg2", "")
    folder = Path(service.workers[0].environ()["PROMETHEUS_MULTIPROC_DIR"])
    print("minute answers megabytes descriptors threads connections metrics-files")
    for minute in range(minutes + 1):
        if minute:
            time.sleep(60)
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'eval-service'"
            )
            [(connections,)] = cursor.fetchall()
        sample = (*held(service), connections, len(os.listdir(folder)))
        print(minute, sum(flood.statuses.values()), *(round(n) for n in sample), flush=True)
        yield sample


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--clients", type=int, default=64)
    options = parser.parse_args()
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}")
    sys.exit(0 if soak(max(2, options.minutes), options.clients) else 1)


if __name__ == "__main__":
    main()
