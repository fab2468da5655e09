"""Every statement about scores; none of them sees a request."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
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
EARLIEST = datetime.min.replace(tzinfo=UTC)

# One row for each score that the statement writes, with the answers to add to it. `answered_at` is
# the time of the latest of these answers, or NULL if that one is given now. now() is taken once,
# in FROM: a distributed PostgreSQL refuses it in CASE.
SENT = """
    sent AS (
        SELECT s.*,
               coalesce(first_given_at, moment) AS created_at,
               greatest(moment, latest_given_at) AS updated_at,
               CASE WHEN correct_attempts > 0
                    THEN coalesce(first_correct_at, greatest(moment, latest_given_at))
               END AS solved_at
          FROM unnest(CAST(:user_ids AS bigint[]), CAST(:exercise_ids AS bigint[]),
                      CAST(:score_ids AS bigint[]), CAST(:corrects AS boolean[]),
                      CAST(:attempts AS bigint[]), CAST(:correct_attempts AS bigint[]),
                      CAST(:answered_ats AS timestamptz[]), CAST(:first_given_ats AS timestamptz[]),
                      CAST(:latest_given_ats AS timestamptz[]),
                      CAST(:first_correct_ats AS timestamptz[]))
               WITH ORDINALITY
               AS s (user_id, exercise_id, score_id, correct, attempts, correct_attempts,
                     answered_at, first_given_at, latest_given_at, first_correct_at, place),
               now() AS moment
    )
"""

# How a score `s` takes in the answers of a row `{new}`, in whichever order answers arrive:
# `correct` is the answer that is latest by its time, `created_at` the time of the earliest one and
# `solved_at` that of the earliest correct one. An answer that is given now (`answered_at` is NULL)
# is the latest, and `updated_at` never decreases, even if the clock was set back.
TAKE_IN = """
    correct = CASE WHEN {new}.answered_at < coalesce(s.answered_at, s.updated_at)
                   THEN s.correct ELSE {new}.correct END,
    attempts = s.attempts + {new}.attempts,
    correct_attempts = s.correct_attempts + {new}.correct_attempts,
    solved_at = least(s.solved_at,
                      CASE WHEN {new}.answered_at IS NULL AND {new}.solved_at = {new}.updated_at
                           THEN greatest(s.updated_at, {new}.updated_at)
                           ELSE {new}.solved_at END),
    answered_at = CASE WHEN {new}.answered_at IS NOT NULL
                       THEN greatest(coalesce(s.answered_at, s.updated_at), {new}.answered_at) END,
    created_at = CASE WHEN {new}.answered_at IS NULL AND {new}.created_at = {new}.updated_at
                      THEN s.created_at ELSE least(s.created_at, {new}.created_at) END,
    updated_at = greatest(s.updated_at, {new}.updated_at)
"""
TAKE_IN_EXCLUDED = TAKE_IN.format(new="excluded")

# Sorted by key: two processes that write the same scores lock them in the same order and cannot
# deadlock.
INSERTED = """
    INSERT INTO scores AS s (user_id, exercise_id, correct, attempts, correct_attempts, solved_at,
                             answered_at, created_at, updated_at)
    SELECT user_id, exercise_id, correct, attempts, correct_attempts, solved_at, answered_at,
           created_at, updated_at
      FROM sent
     ORDER BY user_id, exercise_id
        ON CONFLICT (user_id, exercise_id)
"""
UPSERTED = f"{INSERTED} DO UPDATE SET {TAKE_IN_EXCLUDED}"
UPDATED = f"""
    UPDATE scores AS s
       SET {TAKE_IN.format(new="locked")}
      FROM (SELECT sent.*
              FROM sent
              JOIN scores
             USING (user_id, exercise_id)
             WHERE id = score_id
             ORDER BY user_id, exercise_id
               FOR UPDATE OF scores) AS locked
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
               AND w.correct_attempts = sent.correct_attempts AS is_solved_now,
               w.correct_attempts > sent.correct_attempts
               AND w.solved_at = sent.first_correct_at AS is_solved_earlier
          FROM written AS w
          JOIN sent
            ON sent.user_id = w.user_id AND sent.exercise_id = w.exercise_id
           AND coalesce(sent.score_id, w.id) = w.id
    )
"""

LOGGED = """
    logged AS (
        INSERT INTO attempts (user_id, exercise_id, seq, actor, at, recorded_at, correct)
        SELECT g.user_id, g.exercise_id, g.attempts - added + turn, actor,
               coalesce(given_at, updated_at),
               CASE WHEN given_at IS NOT NULL THEN updated_at END,
               made.correct
          FROM gained AS g
          JOIN unnest(CAST(:places AS bigint[]), CAST(:turns AS bigint[]),
                      CAST(:actors AS bigint[]), CAST(:answers AS boolean[]),
                      CAST(:given_ats AS timestamptz[]))
               AS made (place, turn, actor, correct, given_at)
         USING (place)
    )
"""


def _recording(written: str) -> Statement:
    """Return the statement that writes scores in this way, their attempts and all sums."""
    return Statement(
        f"""
        WITH {SENT}, written AS ({written}), {GAINED}, {totals.GAINED}, {LOGGED}
        SELECT place, correct_before, is_solved_earlier, {SHOWN}
          FROM gained
""",
        user_ids="bigint[]",
        exercise_ids="bigint[]",
        score_ids="bigint[]",
        corrects="boolean[]",
        attempts="bigint[]",
        correct_attempts="bigint[]",
        answered_ats="timestamptz[]",
        first_given_ats="timestamptz[]",
        latest_given_ats="timestamptz[]",
        first_correct_ats="timestamptz[]",
        places="bigint[]",
        turns="bigint[]",
        actors="bigint[]",
        answers="boolean[]",
        given_ats="timestamptz[]",
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
    # Each write of a score adds an attempt, whose times are indexed. An index of
    # scores.updated_at would triple the cost of a write: PostgreSQL could no longer update a row
    # without touching all other indexes (HOT).
    "updated_since": """updated_at >= :updated_since
       AND (user_id, exercise_id) IN
           (SELECT user_id, exercise_id FROM attempts WHERE at >= :updated_since
             UNION ALL
            SELECT user_id, exercise_id FROM attempts WHERE recorded_at >= :updated_since)""",
}

HISTORY = f"""
    SELECT seq, a.correct, actor, {listings.time("at")}
      FROM attempts AS a
      JOIN scores AS s
     USING (user_id, exercise_id)
     WHERE s.id = :score_id AND {{after}}
     ORDER BY a.at, seq
     LIMIT :limit + 1
"""
FIRST_OF_HISTORY = HISTORY.format(after="true")
NEXT_OF_HISTORY = HISTORY.format(after="(a.at, seq) > (:at, :seq)")

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

# How far ahead of the clock of the database the time of an answer may be.
MAX_AHEAD = timedelta(minutes=5)
LATEST_ACCEPTED = Statement("SELECT now() + CAST(:ahead AS interval) AS at", ahead="interval")

# For each attempt the score after it, or None if the attempt was refused.
Recorded = list[ScoreRow | None]

ScoreKey = tuple[int, int, int | None]


class NewAttempt(NamedTuple):
    """An answer of a user to an exercise, sent by `actor`, for the score of the pair.

    `at` is the time of the answer; None means the time of the write.
    """

    user_id: int
    exercise_id: int
    correct: bool
    actor: int
    score_id: int | None = None
    at: datetime | None = None

    @property
    def score(self) -> ScoreKey:
        """The score that the answer is for."""
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


class AnswerPosition(NamedTuple):
    """Position of an answer in a history."""

    at: datetime
    seq: int


def select_history(
    score_id: int, *, after: AnswerPosition | None, limit: int, known: Sequence[str]
) -> Listing:
    """Return the answers after a position, in order of their times; of one time, as they came."""
    values = after._asdict() if after else {}
    rows = NEXT_OF_HISTORY if after else FIRST_OF_HISTORY
    return listings.read(rows, limit=limit, known=known, score_id=score_id, **values)


def insert_scores(connection: Connection, attempts: Sequence[NewAttempt]) -> Recorded:
    """Record the first attempt of each pair that has no score; refuse the others."""
    return _record(connection, INSERT, attempts, most=1)


def upsert_scores(connection: Connection, attempts: Sequence[NewAttempt]) -> Recorded:
    """Record each attempt in the score of its pair; the score is new where `attempts` is 1."""
    return _record(connection, UPSERT, attempts)


def find_future(connection: Connection, attempts: Sequence[NewAttempt]) -> list[int]:
    """Return the indexes of attempts whose times are too far ahead of the database's clock."""
    [latest] = LATEST_ACCEPTED.run(connection, ahead=MAX_AHEAD)
    return [
        index
        for index, attempt in enumerate(attempts)
        if attempt.at is not None and attempt.at > latest.at
    ]


def update_scores(connection: Connection, attempts: Sequence[NewAttempt]) -> Recorded:
    """Record each attempt whose id is that of the score of its pair; refuse the others."""
    return _record(connection, UPDATE, attempts)


def _record(
    connection: Connection,
    statement: Statement,
    attempts: Sequence[NewAttempt],
    most: int | None = None,
) -> Recorded:
    """Record attempts as if they came one after the other, at most `most` for each score.

    Attempts of one score are one write; the state after each of them is computed here.
    """
    by_score: dict[ScoreKey, list[NewAttempt]] = {}
    for attempt in attempts:
        by_score.setdefault(attempt.score, []).append(attempt)
    # Answers with times come before those that are given now.
    writes = [
        sorted(of_score[:most], key=lambda attempt: attempt.at is None)
        for of_score in by_score.values()
    ]
    rows = {row.place: row for row in statement.run(connection, **_arrays(writes))}
    solved_earlier = [row.user_id for row in rows.values() if row.is_solved_earlier]
    if solved_earlier:
        totals.recompute_last_solved(connection, solved_earlier)
    came_to = {
        write[0].score: _in_turn(rows[place], write)
        for place, write in enumerate(writes, start=1)
        if place in rows
    }
    return [next(came_to.get(attempt.score, iter(())), None) for attempt in attempts]


def _arrays(writes: Sequence[Sequence[NewAttempt]]) -> dict[str, list[Any]]:
    """Return the values of a recording statement; a write is the attempts of one score."""
    user_ids, exercise_ids, score_ids = zip(*(write[0].score for write in writes), strict=True)
    made = [
        (place, turn, attempt.actor, attempt.correct, attempt.at)
        for place, write in enumerate(writes, start=1)
        for turn, attempt in enumerate(write, start=1)
    ]
    places, turns, actors, answers, given_ats = zip(*made, strict=True)
    latest = [_latest(write) for write in writes]
    times = [_Times.of(write) for write in writes]
    return {
        "user_ids": list(user_ids),
        "exercise_ids": list(exercise_ids),
        "score_ids": list(score_ids),
        "corrects": [attempt.correct for attempt in latest],
        "attempts": [len(write) for write in writes],
        "correct_attempts": [sum(attempt.correct for attempt in write) for write in writes],
        "answered_ats": [attempt.at for attempt in latest],
        "first_given_ats": [each.first for each in times],
        "latest_given_ats": [each.latest for each in times],
        "first_correct_ats": [each.first_correct for each in times],
        "places": list(places),
        "turns": list(turns),
        "actors": list(actors),
        "answers": list(answers),
        "given_ats": list(given_ats),
    }


def _latest(write: Sequence[NewAttempt]) -> NewAttempt:
    """Return the attempt that is latest by its time; of several, the one that came last."""
    if write[-1].at is None:
        return write[-1]
    return max(reversed(write), key=lambda attempt: attempt.at or EARLIEST)


class _Times(NamedTuple):
    """The times that were sent with the attempts of a write."""

    first: datetime | None = None
    latest: datetime | None = None
    first_correct: datetime | None = None

    @classmethod
    def of(cls, write: Sequence[NewAttempt]) -> "_Times":
        if write[0].at is None:  # those without a time come last
            return NO_TIMES
        given = [attempt.at for attempt in write if attempt.at is not None]
        correct = [attempt.at for attempt in write if attempt.correct and attempt.at is not None]
        return cls(min(given), max(given), min(correct, default=None))


NO_TIMES = _Times()


def _in_turn(row: Row, write: Sequence[NewAttempt]) -> Iterator[ScoreRow]:
    """Yield the score after each of the attempts that brought it to its present state."""
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
