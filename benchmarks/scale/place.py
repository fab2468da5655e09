"""A service that has very many scores, and what there is to ask it for."""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from urllib.parse import urlencode

from benchmarks.apps import service_token
from benchmarks.load import Failed
from benchmarks.servers import POSTGRES_SETTINGS, SETTINGS, NotReady, Place

SAMPLE = 20_000
PAGE = 1000

EXISTS = "SELECT FROM pg_database WHERE datname = %s"
COMMENT = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s"
SOME = "SELECT id, user_id, exercise_id FROM scores TABLESAMPLE BERNOULLI (%s) REPEATABLE (0)"

# Pairs that have no score, of users that are there and of some that are new.
NEW_PAIRS = """
    SELECT user_id, exercise_id, CASE WHEN random() < 0.6 THEN 'true' ELSE 'false' END AS correct
      FROM (SELECT DISTINCT 1 + floor(random() * 1.2 * {users})::bigint AS user_id,
                   1 + floor(random() * {exercises})::bigint AS exercise_id
              FROM generate_series(1, 1.2 * {count})) AS pairs
     WHERE NOT EXISTS (SELECT FROM scores AS s
                        WHERE s.user_id = pairs.user_id AND s.exercise_id = pairs.exercise_id)
     ORDER BY random()
     LIMIT {count}
"""


# Tells by a row where in its list it stands.
PlaceOf = Callable[[dict[str, Any]], Any]


class Seen(NamedTuple):
    """A score that some request is about."""

    score_id: int
    user_id: int
    exercise_id: int


class Leaf(NamedTuple):
    """A page of a list: by which cursor it is asked for, and which version of it was seen."""

    cursor: str | None
    etag: str
    # Behind which place of the list it begins; None on the first page.
    after: Any


@dataclass(frozen=True)
class Ran:
    """How long a command took, and how much memory its process had at most."""

    seconds: float
    mebibytes: float
    said: str


class FilledPlace(Place):
    """A service with that many scores.

    It has a copy of the database that was filled, so that each run begins with the same data.
    """

    database = "measured"
    # As for any PostgreSQL that has a database of gibibytes to keep, on a solid-state disk.
    postgres_settings = POSTGRES_SETTINGS | {
        "shared_buffers": "2GB",
        "max_wal_size": "8GB",
        "random_page_cost": "1.1",
    }

    def __init__(self, scores: int, keep: Path | None = None) -> None:
        super().__init__("plain", keep)
        self.scores = scores
        self.chance = Random(0)  # noqa: S311

    @property
    def _filled(self) -> str:
        """The database that is kept as it was filled."""
        return f"scores_{self.scores}"

    def _fill(self) -> None:
        cursor = self._connect("postgres").cursor()
        cursor.execute(EXISTS, (self._filled,))
        if not cursor.rowcount:
            cursor.execute("DROP DATABASE IF EXISTS seeding WITH (FORCE)")
            cursor.execute("CREATE DATABASE seeding")
            seconds = self._seed("seeding")
            cursor.execute(f"ALTER DATABASE seeding RENAME TO {self._filled}")
            cursor.execute(f"COMMENT ON DATABASE {self._filled} IS '{seconds:.1f}'")
        cursor.execute(f"DROP DATABASE IF EXISTS {self.database} WITH (FORCE)")
        copied = f"TEMPLATE {self._filled} STRATEGY file_copy"
        cursor.execute(f"CREATE DATABASE {self.database} {copied}")

    def _seed(self, database: str) -> float:
        """Fill a database; return how many seconds that took."""
        self.run("db", "upgrade", database=database)
        print(f"Seeding {self.scores} scores …", file=sys.stderr)
        seconds = self.run(
            "seed_db", "--force", "--scores", str(self.scores), database=database
        ).seconds
        # As PostgreSQL does by itself sooner or later, which would be during a measurement.
        with closing(self._connect(database)) as connection:
            connection.cursor().execute("VACUUM ANALYZE")
        return seconds

    @cached_property
    def seeding_seconds(self) -> float:
        """How long it took to fill the database, whenever that was."""
        return float(self.ask(COMMENT, self._filled))

    def run(self, *words: str, database: str | None = None) -> Ran:
        """Run a command of the service to its end; raise NotReady where it fails."""
        environment = self._environment | {"DATABASE_URL": self._url(database or self.database)}
        log = self.folder / "command.log"
        began = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "manage.py", *words],
                env={**os.environ, **environment},
                stdout=output,
                stderr=output,
            )
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                raise
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds, said = time.monotonic() - began, log.read_text()[-2000:]
        if process.returncode:
            raise NotReady(f"manage.py {' '.join(words)} failed:\n{said}")
        return Ran(seconds, usage.ru_maxrss / 1024, said)

    @cached_property
    def listing(self) -> str:
        """The address of the usual list, on the same scores."""
        return self._flask("apps:listing", environment=self._environment)

    @cached_property
    def sample(self) -> list[Seen]:
        """Scores by chance, all over the table."""
        percent = min(100, 100 * SAMPLE / self.scores)
        return [Seen(*row) for row in self.ask_all(SOME, percent)]

    @cached_property
    def exercises(self) -> int:
        """How many exercises there are, numbered from 1."""
        return int(self.ask("SELECT max(exercise_id) FROM exercise_totals"))

    @cached_property
    def tokens(self) -> dict[int, str]:
        """The tokens of the users of the sample, whom the service need not ask about."""
        secret = SETTINGS["SECRET_KEY"]
        return {seen.user_id: service_token(seen.user_id, secret) for seen in self.sample}

    @cached_property
    def pages(self) -> list[Leaf]:
        """Every page of the list of scores, once it is known that it shows each score once."""
        return self._walk("/scores", "scores", _place_of_score, "SELECT count(*) FROM scores")

    @cached_property
    def standings(self) -> list[Leaf]:
        """Every page of the leaderboard, once it is known that it shows each user once."""
        count = "SELECT count(*) FROM user_totals WHERE solved > 0"
        return self._walk("/scores/leaderboard", "entries", _place_of_standing, count)

    def _walk(self, path: str, name: str, place: PlaceOf, count: str) -> list[Leaf]:
        """Return the pages of a list; raise Failed where it is not in order, or not complete."""
        leaves, rows = [], 0
        for leaf, places in _pages(self.service, path, name, place):
            before = [] if leaf.after is None else [leaf.after]
            if any(one >= other for one, other in pairwise(before + places)):
                raise Failed(f"Page {len(leaves) + 1} of {path} is not in order")
            leaves.append(leaf)
            rows += len(places)
        if rows != (expected := self.ask(count)):
            raise Failed(f"{path} shows {rows} rows of {expected}")
        return leaves

    def write_new_scores(self, count: int) -> Path:
        """Return a file of scores of pairs that have none, to be imported."""
        path = self.folder / "import.csv"
        users = self.ask("SELECT max(user_id) FROM user_totals")
        pairs = NEW_PAIRS.format(users=users, exercises=self.exercises, count=count)
        with path.open("w") as file, self._connection.cursor() as cursor:
            cursor.copy_expert(f"COPY ({pairs}) TO STDOUT (FORMAT csv, HEADER)", file)
        return path


def _place_of_score(score: dict[str, Any]) -> Any:
    return score["id"]


def _place_of_standing(entry: dict[str, Any]) -> Any:
    return -entry["solved"], entry["last_solved_at"], entry["user_id"]


def _pages(address: str, path: str, name: str, place: PlaceOf) -> Iterator[tuple[Leaf, list[Any]]]:
    """Read a list over one connection; yield each page, and the places of its rows."""
    cursor, after = None, None
    with closing(http.client.HTTPConnection(address, timeout=30)) as connection:
        while True:
            query = {"limit": PAGE} | ({"cursor": cursor} if cursor else {})
            connection.request("GET", f"{path}?{urlencode(query)}")
            response = connection.getresponse()
            answer = json.load(response)
            if response.status != 200:
                raise Failed(f"{path} was answered {response.status}: {answer}")
            places = [place(row) for row in answer["data"][name]]
            yield Leaf(cursor, response.headers["ETag"], after), places
            cursor, after = answer["data"]["next_cursor"], places[-1]
            if cursor is None:
                return
