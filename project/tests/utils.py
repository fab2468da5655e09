"""What tests arrange with; everything that a test does not care about has a default."""

from datetime import datetime

from project import db
from project.api.counter import queries as counters
from project.api.scores.models import Score


def add_score(
    user_id: int = 1,
    exercise_id: int = 1,
    correct: bool = True,
    created_at: datetime | None = None,
) -> Score:
    """Add a score, as if by a single write, and return it."""
    times = {"created_at": created_at, "updated_at": created_at} if created_at else {}
    score = Score(user_id=user_id, exercise_id=exercise_id, correct=correct, **times)
    db.session.add(score)
    db.session.commit()
    return score


def add_counter(name: str = "visits", value: int = 1) -> int:
    """Add to a counter and return its value."""
    return counters.add_many({name: value})[name]
