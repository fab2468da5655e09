"""Every statement about scores; none of them sees a request."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row, select, text

from project.api.scores.models import Score
from project.extensions import db

# What an answer shows, in its order.
SHOWN = (
    Score.id,
    Score.user_id,
    Score.exercise_id,
    Score.correct,
    Score.attempts,
    Score.solved_at,
    Score.created_at,
    Score.updated_at,
)
RETURNED = ", ".join(column.key for column in SHOWN)

# Sorted by key: two processes that write the same scores lock them in the same order, so
# neither can wait for the other in a circle. The time stands in FROM, where it is taken once:
# a distributed PostgreSQL refuses now() in CASE. It never runs backwards in a row, whichever
# way the clock is set.
UPSERT = text(f"""
    INSERT INTO scores AS s (user_id, exercise_id, correct, solved_at)
    SELECT user_id, exercise_id, correct, CASE WHEN correct THEN moment END
      FROM unnest(CAST(:user_ids AS bigint[]), CAST(:exercise_ids AS bigint[]),
                  CAST(:corrects AS boolean[]))
           AS sent (user_id, exercise_id, correct),
           now() AS moment
     ORDER BY user_id, exercise_id
        ON CONFLICT (user_id, exercise_id) DO UPDATE
       SET correct = excluded.correct,
           attempts = s.attempts + 1,
           solved_at = coalesce(s.solved_at, excluded.solved_at),
           updated_at = greatest(s.updated_at, excluded.updated_at)
 RETURNING {RETURNED}
""")  # noqa: S608  the names of our own columns

# The unique key decides, so of two requests at once only one can win.
INSERT = text(f"""
    INSERT INTO scores (user_id, exercise_id, correct, solved_at)
    SELECT :user_id, :exercise_id, :correct, CASE WHEN :correct THEN moment END
      FROM now() AS moment
        ON CONFLICT (user_id, exercise_id) DO NOTHING
 RETURNING {RETURNED}
""")  # noqa: S608

UPDATE = text(f"""
    UPDATE scores AS s
       SET correct = :correct,
           attempts = s.attempts + 1,
           solved_at = coalesce(s.solved_at, CASE WHEN :correct THEN moment END),
           updated_at = greatest(s.updated_at, moment)
      FROM now() AS moment
     WHERE user_id = :user_id AND exercise_id = :exercise_id AND id = :score_id
 RETURNING {RETURNED}
""")  # noqa: S608

DELETE = text("DELETE FROM scores WHERE id = :score_id RETURNING id")

ScoreRow = Row[Any]


class NewScore(NamedTuple):
    """An answer of a user to an exercise."""

    user_id: int
    exercise_id: int
    correct: bool


def _first(rows: Sequence[ScoreRow]) -> ScoreRow | None:
    return rows[0] if rows else None


def select_score(score_id: int, user_id: int | None = None) -> ScoreRow | None:
    """Return a score, or None where there is none, or it is not that user's."""
    statement = select(*SHOWN).where(Score.id == score_id)
    if user_id is not None:
        statement = statement.where(Score.user_id == user_id)
    return _first(db.read(statement))


def select_page(
    *,
    after: int,
    limit: int,
    user_id: int | None = None,
    exercise_id: int | None = None,
    correct: bool | None = None,
    updated_since: datetime | None = None,
) -> Sequence[ScoreRow]:
    """Return the scores behind the id `after` that pass the filters, in the order of their ids."""
    statement = select(*SHOWN).where(Score.id > after).order_by(Score.id).limit(limit)
    if user_id is not None:
        statement = statement.where(Score.user_id == user_id)
    if exercise_id is not None:
        statement = statement.where(Score.exercise_id == exercise_id)
    if correct is not None:
        statement = statement.where(Score.correct == correct)
    if updated_since is not None:
        statement = statement.where(Score.updated_at >= updated_since)
    return db.read(statement)


def insert_score(user_id: int, exercise_id: int, correct: bool) -> ScoreRow | None:
    """Insert a score and return it, or None where the user has one for the exercise."""
    return _first(db.write(INSERT, user_id=user_id, exercise_id=exercise_id, correct=correct))


def update_score(score_id: int, user_id: int, exercise_id: int, correct: bool) -> ScoreRow | None:
    """Update a score and return it, or None where this is not the user's score for the exercise."""
    return _first(
        db.write(
            UPDATE, score_id=score_id, user_id=user_id, exercise_id=exercise_id, correct=correct
        )
    )


def upsert_scores(scores: Sequence[NewScore]) -> Sequence[ScoreRow]:
    """Insert or update scores, each pair once; return them in any order.

    A score is new where its `attempts` is 1.
    """
    user_ids, exercise_ids, corrects = zip(*scores, strict=True)
    return db.write(
        UPSERT,
        user_ids=list(user_ids),
        exercise_ids=list(exercise_ids),
        corrects=list(corrects),
    )


def delete_score(score_id: int) -> bool:
    """Delete a score; return whether there was one."""
    return bool(db.write(DELETE, score_id=score_id))
