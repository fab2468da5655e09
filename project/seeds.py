"""Believable data: learners who differ in skill, exercises that differ in difficulty."""

import math
import random
from collections.abc import Iterator
from functools import partial

from project.api.counter import queries as counters
from project.api.scores import queries as scores
from project.api.scores.queries import NewAttempt
from project.extensions import db

EXERCISES = 60
BATCH = 1000
COUNTERS = {"public:home": 1204, "visits": 5310, "lessons:started": 2210, "lessons:finished": 1490}


def sow(count: int) -> None:
    """Write `count` scores and a few counters; the same every time."""
    answers = _answers(count)
    while batch := [score for score, _ in zip(answers, range(BATCH), strict=False)]:
        db.transact(partial(scores.upsert_scores, attempts=batch))
    counters.add_many(COUNTERS)


def _answers(count: int) -> Iterator[NewAttempt]:
    """Yield one answer for each pair: learners begin at the front and give up somewhere."""
    chance = random.Random(count)  # noqa: S311  not for secrets
    user_id, left = 0, count
    while left:
        user_id += 1
        skill = chance.gauss(0, 1)
        for exercise_id in range(1, min(left, chance.randint(1, EXERCISES)) + 1):
            difficulty = 3 * exercise_id / EXERCISES - 2
            solved = chance.random() < 1 / (1 + math.exp(difficulty - skill))
            yield NewAttempt(user_id, exercise_id, solved, user_id)
            left -= 1
