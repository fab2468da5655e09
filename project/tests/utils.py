"""What tests arrange with; everything that a test does not care about has a default."""

from datetime import datetime

from sqlalchemy import func

from project import db
from project.api.counter import queries as counters
from project.api.scores import totals
from project.api.scores.models import Attempt, Score


def add_score(
    user_id: int = 1,
    exercise_id: int = 1,
    correct: bool = True,
    created_at: datetime | None = None,
) -> Score:
    """Add a score, as a single write does, or would have done at `created_at`, and return it."""
    at = created_at or db.session.scalar(func.now())
    pair = {"user_id": user_id, "exercise_id": exercise_id, "correct": correct}
    score = Score(
        **pair,
        correct_attempts=int(correct),
        solved_at=at if correct else None,
        created_at=at,
        updated_at=at,
    )
    db.session.add_all([score, Attempt(**pair, seq=1, actor=user_id, at=at)])
    db.session.commit()
    db.transact(totals.mend)
    return score


def add_counter(name: str = "visits", value: int = 1) -> int:
    """Add to a counter and return its value."""
    return counters.add_many({name: value})[name]
