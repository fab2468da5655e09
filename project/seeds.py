"""Sample data: learners who differ in skill, exercises that differ in difficulty."""

import itertools
import math
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from project.api.counter import queries as counters
from project.api.scores import loading, transfer
from project.api.scores.loading import Load, Transaction

# An exercise is one of a course, which begins easy and becomes difficult.
COURSE = 60
SCORES_OF_EXERCISE = 1000
SCORES_OF_USER = 10
MOST_ATTEMPTS = 4
YEAR_SECONDS = 365 * 24 * 3600
BATCH = 10_000
COUNTED_DAYS = 30
COUNTERS = {"public:likes": 1204, "visits": 5310, "lessons:started": 2210, "lessons:finished": 1490}

COLUMNS = (
    "user_id",
    "exercise_id",
    "correct",
    "attempts",
    "correct_attempts",
    "solved_at",
    "created_at",
    "updated_at",
)


class Sown(NamedTuple):
    """How many scores and counters are new; the others existed."""

    scores: int
    counters: int


def sow(count: int) -> Sown:
    """Add `count` scores and a few counters, except those that exist, which stay as they are.

    Each call makes the same ones, except for their times, which end now.
    """
    with transfer.in_one_sentence("The database is as it was."), Transaction() as transaction:
        load = Load(transaction, COLUMNS)
        load.take(_blocks(count))
        scores_added = load.add().new
        transaction.commit()
    counters_added = sum(
        counters.create_past(name, history(name, value, datetime.now(UTC)))
        for name, value in COUNTERS.items()
    )
    loading.tidy()
    return Sown(scores_added, counters_added)


def history(name: str, value: int, now: datetime) -> dict[datetime, int]:
    """Return how a counter came to its value in the last days: more in the evening, less at night.

    Each hour is a whole number, and together they are the value.
    """
    chance = random.Random(name)  # noqa: S311  not for secrets
    this_hour = now.replace(minute=0, second=0, microsecond=0)
    hours = [this_hour - timedelta(hours=ago) for ago in reversed(range(24 * COUNTED_DAYS))]
    weights = [
        (1.1 - math.cos(math.tau * (hour.hour - 6) / 24)) * chance.uniform(0.5, 1.5)
        for hour in hours
    ]
    whole = sum(weights)
    reached = [round(value * part / whole) for part in itertools.accumulate(weights)]
    gains = (after - before for before, after in itertools.pairwise([0, *reached]))
    return dict(zip(hours, gains, strict=True))


def _blocks(count: int) -> Iterator[bytes]:
    """Yield the scores as CSV, each behind its number."""
    lines: list[str] = []
    for number, row in enumerate(scores(count, datetime.now(UTC).timestamp()), start=1):
        lines.append(f"{number},{row}\n")
        if len(lines) == BATCH:
            yield "".join(lines).encode()
            lines.clear()
    yield "".join(lines).encode()


def scores(count: int, now: float) -> Iterator[str]:
    """Yield scores as CSV: learners begin a course at the front and give up somewhere."""
    chance = random.Random(count)  # noqa: S311  not for secrets
    exercises = max(COURSE, count // SCORES_OF_EXERCISE)
    user_id, left = 0, count
    while left:
        user_id += 1
        skill = chance.gauss(-0.7, 1)
        first = COURSE * chance.randrange(math.ceil(exercises / COURSE))
        most = min(left, COURSE, exercises - first)
        done = min(most, 1 + int(chance.expovariate(1 / (SCORES_OF_USER - 0.5))))
        # Backwards from the last one, so that nothing lies ahead.
        ended_at = now - chance.random() * YEAR_SECONDS
        pause = chance.uniform(600, 6 * 3600)
        for place in range(1, done + 1):
            difficulty = 3 * place / COURSE - 1
            solved = 1 / (1 + math.exp(difficulty - skill))
            at = ended_at - (done - place) * pause
            yield f"{user_id},{first + place},{_outcome(chance, solved, at)}"
        left -= done


def _outcome(chance: random.Random, probability: float, ended_at: float) -> str:
    """Return how one to four attempts went, the last of them at a time."""
    answers = [chance.random() < probability]
    # Who has solved it seldom tries again, who has not gives up some time.
    while len(answers) < MOST_ATTEMPTS and chance.random() < (0.1 if answers[-1] else 0.7):
        answers.append(chance.random() < probability)
    begun_at = ended_at - 120 * (len(answers) - 1)
    solved_at = _text(begun_at + 120 * answers.index(True)) if True in answers else ""
    return (
        f"{str(answers[-1]).lower()},{len(answers)},{sum(answers)},{solved_at},"
        f"{_text(begun_at)},{_text(ended_at)}"
    )


def _text(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
