"""Writes the same rows five hundred times, each time in another order; run by two at once."""

import random
import sys
from functools import partial

from project import create_app, db, migration
from project.api.counter import queries as counters
from project.api.scores import queries as scores
from project.api.scores.queries import NewAttempt

TIMES = 500
NAMES = [f"c{number:02}" for number in range(20)]
ATTEMPTS = [
    NewAttempt(user_id, exercise_id, correct=True, actor=user_id)
    for user_id in range(1, 6)
    for exercise_id in range(1, 5)
]


def add_to_counters(shuffled: random.Random) -> None:
    counters.add_many(dict.fromkeys(shuffled.sample(NAMES, len(NAMES)), 1))


def record_scores(shuffled: random.Random) -> None:
    attempts = shuffled.sample(ATTEMPTS, len(ATTEMPTS))
    db.transact(partial(scores.upsert_scores, attempts=attempts))


def main(what: str, seed: str) -> None:
    shuffled = random.Random(seed)
    write = {"counters": add_to_counters, "scores": record_scores}[what]
    with create_app("project.config.TestingConfig").app_context():
        migration.upgrade()
        for _ in range(TIMES):
            write(shuffled)
    print(f"{TIMES} done")


if __name__ == "__main__":
    main(*sys.argv[1:])
