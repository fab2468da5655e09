"""Every statement about scores; none of them sees a request."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from project import listings
from project.api.scores import totals
from project.extensions import db
from project.listings import Listing
from project.statements import Connection, Row, Statement


class ScoreRow(NamedTuple):
    """A score as an answer shows it."""

    id: int
    user_id: int
    exercise_id: int
    correct: bool
    attempts: int
    solved_at: datetime | None
    created_at: datetime
    updated_at: datetime


SHOWN = ", ".join(ScoreRow._fields)

# What a statement writes: a row for each score, with the attempts that it is to take in.
SENT = """
    sent AS (
        SELECT *
          FROM unnest(CAST(:user_ids AS bigint[]), CAST(:exercise_ids AS bigint[]),
                      CAST(:score_ids AS bigint[]), CAST(:corrects AS boolean[]),
                      CAST(:attempts AS bigint[]), CAST(:correct_attempts AS bigint[]))
               WITH ORDINALITY
               AS s (user_id, exercise_id, score_id, correct, attempts, correct_attempts, place)
    )
"""

# Sorted by key: two processes that write the same scores lock them in the same order, so neither
# can wait for the other in a circle. The time stands in FROM, where it is taken once: a
# distributed PostgreSQL refuses now() in CASE. It never runs backwards in a row, whichever way
# the clock is set.
INSERTED = """
    INSERT INTO scores AS s (user_id, exercise_id, correct, attempts, correct_attempts, solved_at)
    SELECT user_id, exercise_id, correct, attempts, correct_attempts,
           CASE WHEN correct_attempts > 0 THEN moment END
      FROM sent, now() AS moment
     ORDER BY user_id, exercise_id
        ON CONFLICT (user_id, exercise_id)
"""

UPSERTED = f"""
    {INSERTED} DO UPDATE
       SET correct = excluded.correct,
           attempts = s.attempts + excluded.attempts,
           correct_attempts = s.correct_attempts + excluded.correct_attempts,
           solved_at = coalesce(s.solved_at,
                                CASE WHEN excluded.correct_attempts > 0
                                     THEN greatest(s.updated_at, excluded.updated_at) END),
           updated_at = greatest(s.updated_at, excluded.updated_at)
"""

UPDATED = """
    UPDATE scores AS s
       SET correct = locked.correct,
           attempts = s.attempts + locked.attempts,
           correct_attempts = s.correct_attempts + locked.correct_attempts,
           solved_at = coalesce(s.solved_at,
                                CASE WHEN locked.correct_attempts > 0
                                     THEN greatest(s.updated_at, moment) END),
           updated_at = greatest(s.updated_at, moment)
      FROM (SELECT sent.*
              FROM sent
              JOIN scores
             USING (user_id, exercise_id)
             WHERE id = score_id
             ORDER BY user_id, exercise_id
               FOR UPDATE OF scores) AS locked,
           now() AS moment
     WHERE s.user_id = locked.user_id AND s.exercise_id = locked.exercise_id
       AND s.id = locked.score_id
"""

# What each write added to its score.
GAINED = """
    gained AS (
        SELECT place, w.*,
               sent.attempts AS added,
               w.attempts = sent.attempts AS is_new,
               w.correct_attempts - sent.correct_attempts AS correct_before,
               w.solved_at IS NOT NULL
               AND w.correct_attempts = sent.correct_attempts AS is_solved_now
          FROM written AS w
          JOIN sent
            ON sent.user_id = w.user_id AND sent.exercise_id = w.exercise_id
           AND coalesce(sent.score_id, w.id) = w.id
    )
"""

LOGGED = """
    logged AS (
        INSERT INTO attempts (user_id, exercise_id, seq, actor, at, correct)
        SELECT g.user_id, g.exercise_id, g.attempts - added + turn, actor, updated_at, made.correct
          FROM gained AS g
          JOIN unnest(CAST(:places AS bigint[]), CAST(:turns AS bigint[]),
                      CAST(:actors AS bigint[]), CAST(:answers AS boolean[]))
               AS made (place, turn, actor, correct)
         USING (place)
    )
"""


def _recording(written: str) -> Statement:
    """Return the statement that writes what is sent in this way, and all that follows from it."""
    return Statement(
        f"""
        WITH {SENT}, written AS ({written}), {GAINED}, {totals.GAINED}, {LOGGED}
        SELECT place, correct_before, {SHOWN}
          FROM gained
""",
        user_ids="bigint[]",
        exercise_ids="bigint[]",
        score_ids="bigint[]",
        corrects="boolean[]",
        attempts="bigint[]",
        correct_attempts="bigint[]",
        places="bigint[]",
        turns="bigint[]",
        actors="bigint[]",
        answers="boolean[]",
    )


UPSERT = _recording(f"{UPSERTED} RETURNING s.*")
# The unique key decides, so of two requests at once only one can win.
INSERT = _recording(f"{INSERTED} DO NOTHING RETURNING s.*")
UPDATE = _recording(f"{UPDATED} RETURNING s.*")

ONE = f"""
    SELECT {SHOWN}, CAST(hash_record_extended(ROW({SHOWN}), 0) AS text) AS etag
      FROM scores
     WHERE id = :score_id
"""
SELECT = Statement(ONE, score_id="bigint")
SELECT_OWN = Statement(f"{ONE} AND user_id = :user_id", score_id="bigint", user_id="bigint")

PAGE = f"""
    SELECT id, user_id, exercise_id, correct, attempts, {listings.time("solved_at")},
           {listings.time("created_at")}, {listings.time("updated_at")}
      FROM scores
     WHERE id > :after AND {{filters}}
     ORDER BY id
     LIMIT :limit + 1
"""

FILTERS = {
    "user_id": "user_id = :user_id",
    "exercise_id": "exercise_id = :exercise_id",
    "correct": "correct = :correct",
    # Each write of a score is an attempt, and of those there is an index by time: one of the
    # scores would have to be written anew with each of them.
    "updated_since": """updated_at >= :updated_since
       AND (user_id, exercise_id) IN
           (SELECT user_id, exercise_id FROM attempts WHERE at >= :updated_since)""",
}

HISTORY = f"""
    SELECT seq, a.correct, actor, {listings.time("at")}
      FROM attempts AS a
      JOIN scores AS s
     USING (user_id, exercise_id)
     WHERE s.id = :score_id AND seq > :after
     ORDER BY seq
     LIMIT :limit + 1
"""

DELETE = Statement(
    """
    DELETE FROM scores
     WHERE id = :score_id
 RETURNING user_id, exercise_id, attempts, solved_at IS NOT NULL AS solved
""",
    score_id="bigint",
)
DELETE_ATTEMPTS = Statement(
    "DELETE FROM attempts WHERE user_id = :user_id AND exercise_id = :exercise_id",
    user_id="bigint",
    exercise_id="bigint",
)

# By attempt, the score as it was after it, or None where the attempt was refused.
Recorded = list[ScoreRow | None]


ScoreKey = tuple[int, int, int | None]


class NewAttempt(NamedTuple):
    """An answer of a user to an exercise, as `actor` brings it, for the score of the pair."""

    user_id: int
    exercise_id: int
    correct: bool
    actor: int
    score_id: int | None = None

    @property
    def score(self) -> ScoreKey:
        """Which score it is for, as its sender names it."""
        return self.user_id, self.exercise_id, self.score_id


def select_score(score_id: int, user_id: int | None = None) -> tuple[ScoreRow, str] | None:
    """Return a score and its ETag, or None where there is none, or it is not that user's."""
    rows = db.read(SELECT if user_id is None else SELECT_OWN, score_id=score_id, user_id=user_id)
    return (ScoreRow._make(rows[0][:-1]), rows[0].etag) if rows else None


def select_page(*, after: int, limit: int, known: Sequence[str], **filters: Any) -> Listing:
    """Return the scores behind the id `after` that pass the FILTERS, in the order of their ids."""
    given = {name: value for name, value in filters.items() if value is not None}
    rows = PAGE.format(filters=" AND ".join(FILTERS[name] for name in given) or "true")
    return listings.read(rows, limit=limit, known=known, after=after, **given)


def select_history(score_id: int, *, after: int, limit: int, known: Sequence[str]) -> Listing:
    """Return the attempts behind the one numbered `after`, in their order."""
    return listings.read(HISTORY, limit=limit, known=known, after=after, score_id=score_id)


def insert_scores(connection: Connection, attempts: Sequence[NewAttempt]) -> Recorded:
    """Record the first attempt of each pair that has no score; refuse the others."""
    return _record(connection, INSERT, attempts, most=1)


def upsert_scores(connection: Connection, attempts: Sequence[NewAttempt]) -> Recorded:
    """Record each attempt in the score of its pair; the score is new where `attempts` is 1."""
    return _record(connection, UPSERT, attempts)


def update_scores(connection: Connection, attempts: Sequence[NewAttempt]) -> Recorded:
    """Record each attempt whose id is that of the score of its pair; refuse the others."""
    return _record(connection, UPDATE, attempts)


def _record(
    connection: Connection,
    statement: Statement,
    attempts: Sequence[NewAttempt],
    most: int | None = None,
) -> Recorded:
    """Record attempts as if they came one after the other, of each score not more than `most`.

    Those of one score are one write: what each by itself came to is reckoned here.
    """
    by_score: dict[ScoreKey, list[NewAttempt]] = {}
    for attempt in attempts:
        by_score.setdefault(attempt.score, []).append(attempt)
    writes = [of_score[:most] for of_score in by_score.values()]
    rows = {row.place: row for row in statement.run(connection, **_arrays(writes))}
    came_to = {
        write[0].score: _in_turn(rows[place], write)
        for place, write in enumerate(writes, start=1)
        if place in rows
    }
    return [next(came_to.get(attempt.score, iter(())), None) for attempt in attempts]


def _arrays(writes: Sequence[Sequence[NewAttempt]]) -> dict[str, list[Any]]:
    """Return what a recording statement takes, a write being the attempts of one score."""
    user_ids, exercise_ids, score_ids = zip(*(write[0].score for write in writes), strict=True)
    made = [
        (place, turn, attempt.actor, attempt.correct)
        for place, write in enumerate(writes, start=1)
        for turn, attempt in enumerate(write, start=1)
    ]
    places, turns, actors, answers = zip(*made, strict=True)
    return {
        "user_ids": list(user_ids),
        "exercise_ids": list(exercise_ids),
        "score_ids": list(score_ids),
        "corrects": [write[-1].correct for write in writes],
        "attempts": [len(write) for write in writes],
        "correct_attempts": [sum(attempt.correct for attempt in write) for write in writes],
        "places": list(places),
        "turns": list(turns),
        "actors": list(actors),
        "answers": list(answers),
    }


def _in_turn(row: Row, write: Sequence[NewAttempt]) -> Iterator[ScoreRow]:
    """Yield the score as it was after each of the attempts that brought it where it is now."""
    score = ScoreRow._make(row[-len(ScoreRow._fields) :])
    if len(write) == 1:
        yield score
        return
    before, solved = score.attempts - len(write), row.correct_before > 0
    for turn, attempt in enumerate(write, start=1):
        solved = solved or attempt.correct
        yield score._replace(
            correct=attempt.correct,
            attempts=before + turn,
            solved_at=score.solved_at if solved else None,
        )


def delete_score(score_id: int) -> bool:
    """Delete a score with its attempts; return whether there was one."""

    def delete(connection: Connection) -> bool:
        for score in DELETE.run(connection, score_id=score_id):
            pair = {"user_id": score.user_id, "exercise_id": score.exercise_id}
            DELETE_ATTEMPTS.run(connection, **pair)
            totals.lose(connection, **pair, solved=score.solved, attempts=score.attempts)
            return True
        return False

    return db.transact(delete)
