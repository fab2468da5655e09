"""What is asked of a service with very many scores."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from benchmarks.candidates import Candidate
from benchmarks.load import Measurement, http_request, write_requests, wrk
from benchmarks.scale.place import PAGE, FilledPlace, Seen
from benchmarks.servers import Place

# As many as are answered in two seconds or more; the next measurement has others.
REQUESTS = 10_000
BATCHES = 400
WARM_UP_SECONDS = 2
BATCH = 200
TOP = 100
LAST_PAGES = 100

# Every write of a score is an attempt, and these are its sums; the audit tells whether they are.
WRITTEN = "SELECT sum(attempts) FROM exercise_totals"

Ask = Callable[[FilledPlace], bytes]


@dataclass(frozen=True)
class Question(Candidate):
    """One thing to measure, by that many connections."""

    connections: int = 1
    # A batch may take that long.
    settled_seconds: float = 2

    def warm_up(self, place: Place) -> None:
        """Have caches filled, by no more connections than are measured: some questions are hard."""
        self.load(place, self.connections, WARM_UP_SECONDS)


def _question(key: str, title: str, ask: Ask, *, of: str = "service", **further: Any) -> Question:
    """Return the question that a server is asked by requests, each about something else."""
    rows = further.get("rows", 1)
    count = REQUESTS if rows == 1 else BATCHES

    def load(place: FilledPlace, connections: int, seconds: float) -> Measurement:
        address, requests = getattr(place, of), (ask(place) for _ in range(count))
        path = write_requests(place.folder, key, requests)
        measured = wrk(address, path, connections, seconds)
        return replace(measured, acknowledged=measured.acknowledged * rows)

    return Question(key, title, load, **further)


def _get(path: str, token: str | None = None, **query: Any) -> bytes:
    return http_request("GET", f"{path}?{urlencode(query)}" if query else path, token)


def _some(place: FilledPlace) -> Seen:
    return place.chance.choice(place.sample)


def _score(place: FilledPlace) -> bytes:
    return _get(f"/scores/{_some(place).score_id}")


def _first_page(_: FilledPlace) -> bytes:
    return _get("/scores", limit=PAGE)


def _last_page(place: FilledPlace) -> bytes:
    # The very last one may have fewer rows.
    leaf = place.chance.choice(place.pages[1:-1][-LAST_PAGES:])
    return _get("/scores", limit=PAGE, cursor=leaf.cursor)


def _page(place: FilledPlace) -> bytes:
    return _get("/scores", limit=TOP, cursor=place.chance.choice(place.pages[1:]).cursor)


def _page_of_the_orm(place: FilledPlace) -> bytes:
    return _get("/", limit=TOP, after=place.chance.choice(place.pages[1:]).after)


def _unchanged(place: FilledPlace) -> bytes:
    leaf = place.chance.choice(place.pages[1:-1])
    path = f"/scores?{urlencode({'limit': PAGE, 'cursor': leaf.cursor})}"
    return http_request("GET", path, further={"If-None-Match": leaf.etag})


def _of_a_user(place: FilledPlace) -> bytes:
    return _get("/scores", user_id=_some(place).user_id)


def _of_an_exercise(place: FilledPlace) -> bytes:
    return _get("/scores", exercise_id=_some(place).exercise_id)


def _of_the_last_minute(place: FilledPlace) -> bytes:
    since = datetime.now(UTC) - timedelta(seconds=60 + place.chance.random())
    return _get("/scores", updated_since=since.isoformat())


def _history(place: FilledPlace) -> bytes:
    return _get(f"/scores/{_some(place).score_id}/history", place.service_token)


def _leaderboard(**query: Any) -> Ask:
    return lambda _: _get("/scores/leaderboard", limit=TOP, **query)


def _standings(place: FilledPlace) -> bytes:
    cursor = place.chance.choice(place.standings[1:]).cursor
    return _get("/scores/leaderboard", limit=TOP, cursor=cursor)


def _neighbours(**query: Any) -> Ask:
    def ask(place: FilledPlace) -> bytes:
        token = place.tokens[_some(place).user_id]
        return _get("/scores/leaderboard", token, around="me", **query)

    return ask


def _progress(place: FilledPlace) -> bytes:
    return _get("/scores/user/progress", place.tokens[_some(place).user_id], tz="Europe/Berlin")


def _stats(place: FilledPlace) -> bytes:
    return _get(f"/scores/exercise/{_some(place).exercise_id}/stats")


def _answer(place: FilledPlace) -> dict[str, Any]:
    exercise_id = place.chance.randint(1, place.exercises)
    return {"exercise_id": exercise_id, "correct": place.chance.random() < 0.5}


def _write(place: FilledPlace) -> bytes:
    return http_request("PATCH", "/scores", place.tokens[_some(place).user_id], _answer(place))


def _batch(place: FilledPlace) -> bytes:
    scores = [{"user_id": _some(place).user_id, **_answer(place)} for _ in range(BATCH)]
    return http_request("POST", "/scores/batch", place.service_token, {"scores": scores})


QUESTIONS = [
    _question("score", "one score", _score),
    _question("first", f"page 1 of the list, {PAGE} scores", _first_page),
    _question("last", f"the last {LAST_PAGES} pages by cursor, {PAGE} scores", _last_page),
    _question("unchanged", f"a page of {PAGE} that is unchanged: 304", _unchanged),
    _question("page", f"a page of {TOP} scores", _page, connections=32),
    _question(
        "orm",
        f"the same {TOP} scores by ORM and jsonify",
        _page_of_the_orm,
        of="listing",
        connections=32,
    ),
    _question("user", "the scores of a user", _of_a_user),
    _question("exercise", "the scores of an exercise", _of_an_exercise),
    _question("minute", "`updated_since` a minute ago", _of_the_last_minute),
    _question("history", "the attempts at a score", _history),
    _question("top", f"leaderboard, the first {TOP}", _leaderboard()),
    _question(
        "ordinal", f"leaderboard, the first {TOP}, `tie=ordinal`", _leaderboard(tie="ordinal")
    ),
    _question("middle", f"leaderboard, {TOP} somewhere by cursor", _standings),
    _question("around", "leaderboard, `around=me`", _neighbours()),
    _question(
        "around_ordinal", "leaderboard, `around=me`, `tie=ordinal`", _neighbours(tie="ordinal")
    ),
    _question("week", f"leaderboard of the week, the first {TOP}", _leaderboard(window="week")),
    _question("month", f"leaderboard of the month, the first {TOP}", _leaderboard(window="month")),
    _question("around_week", "leaderboard of the week, `around=me`", _neighbours(window="week")),
    _question("progress", "progress of a user", _progress),
    _question("stats", "statistics of an exercise", _stats),
    _question("write", "PATCH of a score", _write, stored=WRITTEN, connections=32),
    _question(
        "batch",
        f"batches of {BATCH}, by row",
        _batch,
        stored=WRITTEN,
        rows=BATCH,
        connections=4,
    ),
]
