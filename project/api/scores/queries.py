"""Every statement about scores; none of them sees a request."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import select

from project.api.scores.models import Score
from project.extensions import db
from project.statements import Connection, Row, Statement

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

# What is sent, sorted by key: two processes that write the same scores lock them in the same
# order, so neither can wait for the other in a circle. The time stands in FROM, where it is
# taken once: a distributed PostgreSQL refuses now() in CASE. It never runs backwards in a row,
# whichever way the clock is set.
SENT = """
    SELECT user_id, exercise_id, correct, CASE WHEN correct THEN moment END AS solved_at
      FROM unnest(CAST(:user_ids AS bigint[]), CAST(:exercise_ids AS bigint[]),
                  CAST(:corrects AS boolean[]))
           AS sent (user_id, exercise_id, correct),
           now() AS moment
     ORDER BY user_id, exercise_id
"""

UPSERT = Statement(
    f"""
    INSERT INTO scores AS s (user_id, exercise_id, correct, solved_at) {SENT}
        ON CONFLICT (user_id, exercise_id) DO UPDATE
       SET correct = excluded.correct,
           attempts = s.attempts + 1,
           solved_at = coalesce(s.solved_at, excluded.solved_at),
           updated_at = greatest(s.updated_at, excluded.updated_at)
 RETURNING {RETURNED}
""",
    user_ids="bigint[]",
    exercise_ids="bigint[]",
    corrects="boolean[]",
)

# The unique key decides, so of two requests at once only one can win.
INSERT = Statement(
    f"""
    INSERT INTO scores (user_id, exercise_id, correct, solved_at) {SENT}
        ON CONFLICT (user_id, exercise_id) DO NOTHING
 RETURNING {RETURNED}
""",
    user_ids="bigint[]",
    exercise_ids="bigint[]",
    corrects="boolean[]",
)

UPDATE = Statement(
    f"""
    WITH sent AS (
        SELECT *
          FROM unnest(CAST(:score_ids AS bigint[]), CAST(:user_ids AS bigint[]),
                      CAST(:exercise_ids AS bigint[]), CAST(:corrects AS boolean[]))
               AS sent (score_id, user_id, exercise_id, correct)
    ), locked AS (
        SELECT sent.*
          FROM sent
          JOIN scores AS s
            ON s.user_id = sent.user_id AND s.exercise_id = sent.exercise_id
           AND s.id = sent.score_id
         ORDER BY user_id, exercise_id
           FOR UPDATE OF s
    )
    UPDATE scores AS s
       SET correct = locked.correct,
           attempts = s.attempts + 1,
           solved_at = coalesce(s.solved_at, CASE WHEN locked.correct THEN moment END),
           updated_at = greatest(s.updated_at, moment)
      FROM locked, now() AS moment
     WHERE s.user_id = locked.user_id AND s.exercise_id = locked.exercise_id
       AND s.id = locked.score_id
 RETURNING {", ".join(f"s.{column.key}" for column in SHOWN)}
""",
    score_ids="bigint[]",
    user_ids="bigint[]",
    exercise_ids="bigint[]",
    corrects="boolean[]",
)

DELETE = Statement("DELETE FROM scores WHERE id = :score_id RETURNING id", score_id="bigint")

ScoreRow = Row


Pair = tuple[int, int]
ScoresByPair = dict[Pair, ScoreRow]


class Attempt(NamedTuple):
    """An answer of a user to an exercise, to be recorded in the score of the pair."""

    user_id: int
    exercise_id: int
    correct: bool
    score_id: int | None = None

    @property
    def pair(self) -> Pair:
        """The key of the score."""
        return self.user_id, self.exercise_id


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


def insert_scores(connection: Connection, attempts: Sequence[Attempt]) -> ScoresByPair:
    """Insert a score for each pair that has none; return the new ones."""
    return _by_pair(connection, INSERT, attempts)


def upsert_scores(connection: Connection, attempts: Sequence[Attempt]) -> ScoresByPair:
    """Insert or update the scores of the pairs; one is new where its `attempts` is 1."""
    return _by_pair(connection, UPSERT, attempts)


def update_scores(connection: Connection, attempts: Sequence[Attempt]) -> ScoresByPair:
    """Update the scores that have the id and the pair of an attempt; return those."""
    return _by_pair(
        connection, UPDATE, attempts, score_ids=[attempt.score_id for attempt in attempts]
    )


def _by_pair(
    connection: Connection, statement: Statement, attempts: Sequence[Attempt], **more: Any
) -> ScoresByPair:
    """Run a statement with the attempts, each pair once, and return its scores by pair."""
    sent = {
        "user_ids": [attempt.user_id for attempt in attempts],
        "exercise_ids": [attempt.exercise_id for attempt in attempts],
        "corrects": [attempt.correct for attempt in attempts],
    }
    rows = statement.run(connection, **sent, **more)
    return {(row.user_id, row.exercise_id): row for row in rows}


def delete_score(score_id: int) -> bool:
    """Delete a score; return whether there was one."""
    return bool(db.transact(partial(DELETE.run, score_id=score_id), one_statement=True))
