"""What is measured: the service in three ways, and what else one could do."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.apps import users_token
from benchmarks.load import Failed, Measurement, http_request, pgbench, write_requests, wrk
from benchmarks.servers import Place

NAMES = 1000
USERS = 1000
EXERCISES = 50
# Each user about as often, on exercises by chance, in an order that is always the same.
ATTEMPTS = 20_000

SETTLED_SECONDS = 0.05
WARM_UP_SECONDS = 1
WARM_UP_CONNECTIONS = 16

Load = Callable[[Place, int, float], Measurement]


@dataclass(frozen=True)
class Candidate:
    """One thing to measure."""

    key: str
    title: str
    load: Load
    # A statement that tells how much is stored of what was answered.
    stored: str | None = None
    may_lose: bool = False
    # How long to warm up before each measurement; the others do so once.
    warm_up_seconds: int = 0
    # How many rows a request writes; what a load acknowledges are rows.
    rows: int = 1
    # What is on its way when the load stops is stored after no longer than that.
    settled_seconds: float = SETTLED_SECONDS

    def warm_up(self, place: Place) -> None:
        """Have connections opened, statements prepared and caches filled."""
        self.load(place, WARM_UP_CONNECTIONS, self.warm_up_seconds or WARM_UP_SECONDS)

    def measure(self, place: Place, connections: int, seconds: float) -> Measurement:
        """Return how it does; raise Failed where it stored other than it answered.

        What is on its way when the load stops is stored perhaps, and not answered.
        """
        if self.warm_up_seconds:
            self.warm_up(place)
        before = self._settled(place)
        measured = self.load(place, connections, seconds)
        if self.stored is None:
            return measured
        stored = self._settled(place) - before
        if not (self.may_lose or 0 <= stored - measured.acknowledged <= connections * self.rows):
            raise Failed(f"{self.title}: answered {measured.acknowledged}, stored {stored}")
        return replace(measured, stored=stored)

    def _settled(self, place: Place) -> int:
        """Return what is stored, once that does not change any more."""
        if self.stored is None:
            return 0
        before, now = None, place.ask(self.stored)
        while now != before:
            time.sleep(self.settled_seconds)
            before, now = now, place.ask(self.stored)
        return int(now or 0)


def _empty(place: Place, connections: int, seconds: float) -> Measurement:
    requests = write_requests(place.folder, "empty", [http_request("GET", "/")])
    return wrk(place.empty, requests, connections, seconds)


def _hot(place: Place, connections: int, seconds: float) -> Measurement:
    return wrk(place.service, _increments(place, "hot"), connections, seconds)


def _spread(place: Place, connections: int, seconds: float) -> Measurement:
    names = [f"spread-{number}" for number in range(NAMES)]
    return wrk(place.service, _increments(place, *names), connections, seconds)


def _uncombined(place: Place, connections: int, seconds: float) -> Measurement:
    return wrk(place.uncombined, _increments(place, "alone"), connections, seconds)


def _increments(place: Place, *names: str) -> Path:
    token = place.service_token
    sent = [http_request("POST", f"/counters/{name}/increment", token) for name in names]
    return write_requests(place.folder, names[0], sent)


def _scores(place: Place, connections: int, seconds: float) -> Measurement:
    requests = place.folder / "scores.requests"
    if not requests.exists():
        write_requests(place.folder, "scores", _attempts())
    return wrk(place.service, requests, connections, seconds)


def _attempts() -> Iterator[bytes]:
    tokens = [users_token(user_id) for user_id in range(1, USERS + 1)]
    chance = random.Random(0)  # noqa: S311
    for number in range(ATTEMPTS):
        attempt = {
            "exercise_id": chance.randint(1, EXERCISES),
            "correct": chance.random() < 0.5,
        }
        yield http_request("PATCH", "/scores", tokens[number % USERS], attempt)


def _tutorial(place: Place, connections: int, seconds: float) -> Measurement:
    requests = write_requests(place.folder, "tutorial", [http_request("POST", "/")])
    return wrk(place.tutorial, requests, connections, seconds)


def _redis(place: Place, connections: int, seconds: float) -> Measurement:
    requests = write_requests(place.folder, "redis", [http_request("POST", "/")])
    return wrk(place.redis, requests, connections, seconds)


_VALUE = "SELECT value FROM {} WHERE name = '{}'"

CANDIDATES = [
    Candidate("empty", "an empty Flask route", _empty),
    Candidate("hot", "increments of one counter", _hot, _VALUE.format("counters", "hot")),
    Candidate(
        "spread",
        "increments over 1000 names",
        _spread,
        "SELECT sum(value) FROM counters WHERE name LIKE 'spread-%'",
    ),
    Candidate(
        "scores",
        "PATCH of scores by 1000 users",
        _scores,
        "SELECT sum(attempts) FROM scores",
        warm_up_seconds=2,  # the service forgets users after a while
    ),
    Candidate(
        "uncombined",
        "one counter, without the combiner",
        _uncombined,
        _VALUE.format("counters", "alone"),
    ),
    Candidate("pgbench", "pgbench, one row", pgbench, _VALUE.format("rivals.counters", "hot")),
    Candidate(
        "tutorial",
        "read, add one, write back",
        _tutorial,
        _VALUE.format("rivals.tutorial", "hot"),
        may_lose=True,
    ),
    Candidate("redis", "Flask and Redis INCR", _redis),
]
