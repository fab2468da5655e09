"""The sums over scores: how they are kept, held against the scores, and mended.

Whatever changes scores changes their sums in the same transaction, in this order: scores,
sums of exercises, sums of users, each sorted by key. So no two transactions wait for each other
in a circle.
"""

from collections.abc import Sequence

from project.extensions import db
from project.statements import Connection, Row, Statement

# Every process of PostgreSQL writes sums into a shard of its own: else all writers would wait for
# each other there. (Those with the same number of the 16 do.)
SHARD = "CAST(mod(pg_backend_pid(), 16) AS smallint)"

# Adds `exercise_shifts` (exercise_id, attempted, solved, attempts) to the sums of exercises.
EXERCISES_SHIFTED = f"""
    exercises_shifted AS (
        INSERT INTO exercise_totals AS t (exercise_id, shard, attempted, solved, attempts)
        SELECT exercise_id, {SHARD}, attempted, solved, attempts
          FROM exercise_shifts
         ORDER BY exercise_id
            ON CONFLICT (exercise_id, shard) DO UPDATE
           SET attempted = t.attempted + excluded.attempted,
               solved = t.solved + excluded.solved,
               attempts = t.attempts + excluded.attempts
    )
"""

# Adds `user_shifts` (user_id, solved, last_solved_at) to the sums of users, and counts them where
# they are now: how many users solved how many exercises is what a rank is read from. Each row of
# `moves` has its other half; FULL keeps the planner, which expects one row or two, from comparing
# all of a batch with all.
USERS_SHIFTED = f"""
    users_shifted AS (
        INSERT INTO user_totals AS t (user_id, solved, last_solved_at)
        SELECT user_id, solved, last_solved_at
          FROM user_shifts
         ORDER BY user_id
            ON CONFLICT (user_id) DO UPDATE
           SET solved = t.solved + excluded.solved,
               last_solved_at = greatest(t.last_solved_at, excluded.last_solved_at)
     RETURNING user_id, t.solved AS after
    ), moves AS (
        SELECT after, after - solved AS before
          FROM users_shifted
          FULL JOIN user_shifts
         USING (user_id)
    ), counts_shifted AS (
        INSERT INTO solved_counts AS c (solved, shard, users)
        SELECT solved, {SHARD}, sum(users)
          FROM (SELECT after AS solved, 1 AS users FROM moves
                 UNION ALL
                SELECT before, -1 FROM moves) AS steps
         WHERE solved > 0
         GROUP BY solved
        HAVING sum(users) <> 0
         ORDER BY solved
            ON CONFLICT (solved, shard) DO UPDATE SET users = c.users + excluded.users
    )
"""

# Adds to the sums what scores gained by attempts, as `gained` (user_id, exercise_id, is_new, added,
# is_solved_now, is_solved_earlier, solved_at) says. The written rows tell how much that is, so no
# other transaction can have come in between. A user whose score was solved earlier than known
# before gains nothing; its row is only locked, for RECOMPUTE_LAST_SOLVED.
GAINED = f"""
    exercise_shifts AS (
        SELECT exercise_id, count(*) FILTER (WHERE is_new) AS attempted,
               count(*) FILTER (WHERE is_solved_now) AS solved, sum(added) AS attempts
          FROM gained
         GROUP BY exercise_id
    ), user_shifts AS (
        SELECT user_id, count(*) FILTER (WHERE is_solved_now) AS solved,
               max(solved_at) FILTER (WHERE is_solved_now) AS last_solved_at
          FROM gained
         WHERE is_solved_now OR is_solved_earlier
         GROUP BY user_id
    ),
    {USERS_SHIFTED}, {EXERCISES_SHIFTED}
"""

LOSE = Statement(
    f"""
    WITH exercise_shifts AS (
        SELECT CAST(:exercise_id AS bigint) AS exercise_id, -1 AS attempted, -:solved AS solved,
               -:attempts AS attempts
    ), user_shifts AS (
        SELECT CAST(:user_id AS bigint) AS user_id, -:solved AS solved,
               CAST(NULL AS timestamptz) AS last_solved_at
         WHERE :solved > 0
    ),
    {USERS_SHIFTED}, {EXERCISES_SHIFTED}
    SELECT
""",
    user_id="bigint",
    exercise_id="bigint",
    solved="bigint",
    attempts="bigint",
)

# A maximum cannot be decreased by adding, so it is computed again, grouped by user: for a max() of
# each user by itself, a planner without statistics reads the index by time from its end. Only for
# users whose sums this transaction has changed before, in another statement: it holds their rows
# and sees every score that was committed before it got them.
RECOMPUTE_LAST_SOLVED = """
    UPDATE user_totals AS t
       SET last_solved_at = found.last_solved_at
      FROM (SELECT user_id, max(solved_at) AS last_solved_at
              FROM user_totals
              LEFT JOIN scores
             USING (user_id)
             WHERE user_id {users}
             GROUP BY user_id) AS found
     WHERE t.user_id = found.user_id AND t.last_solved_at IS DISTINCT FROM found.last_solved_at
"""
RECOMPUTE_LAST_SOLVED_OF = Statement(
    RECOMPUTE_LAST_SOLVED.format(users="= ANY(CAST(:user_ids AS bigint[]))"), user_ids="bigint[]"
)

# One statement sees one snapshot, so scores and sums are of the same moment. `{among}` narrows it.
USER_DIFFERENCES = """
    SELECT user_id, coalesce(s.solved, 0) - coalesce(t.solved, 0) AS solved, s.last_solved_at,
           coalesce(t.solved, 0) AS stored
      FROM (SELECT user_id, count(solved_at) AS solved, max(solved_at) AS last_solved_at
              FROM scores
             WHERE user_id {among}
             GROUP BY user_id) AS s
      FULL JOIN (SELECT * FROM user_totals WHERE user_id {among}) AS t
     USING (user_id)
     WHERE coalesce(s.solved, 0) <> coalesce(t.solved, 0)
        OR s.last_solved_at IS DISTINCT FROM t.last_solved_at
"""

EXERCISE_DIFFERENCES = """
    SELECT exercise_id,
           coalesce(s.attempted, 0) - coalesce(t.attempted, 0) AS attempted,
           coalesce(s.solved, 0) - coalesce(t.solved, 0) AS solved,
           coalesce(s.attempts, 0) - coalesce(t.attempts, 0) AS attempts
      FROM (SELECT exercise_id, count(*) AS attempted, count(solved_at) AS solved,
                   sum(attempts) AS attempts
              FROM scores
             WHERE exercise_id {among}
             GROUP BY exercise_id) AS s
      FULL JOIN (SELECT exercise_id, sum(attempted) AS attempted, sum(solved) AS solved,
                        sum(attempts) AS attempts
                   FROM exercise_totals
                  WHERE exercise_id {among}
                  GROUP BY exercise_id) AS t
     USING (exercise_id)
     WHERE (coalesce(s.attempted, 0), coalesce(s.solved, 0), coalesce(s.attempts, 0))
        <> (coalesce(t.attempted, 0), coalesce(t.solved, 0), coalesce(t.attempts, 0))
"""

COUNT_DIFFERENCES = """
    SELECT solved, coalesce(t.users, 0) - coalesce(c.users, 0) AS users
      FROM (SELECT solved, count(*) AS users
              FROM user_totals
             WHERE solved > 0
             GROUP BY solved) AS t
      FULL JOIN (SELECT solved, sum(users) AS users FROM solved_counts GROUP BY solved) AS c
     USING (solved)
     WHERE coalesce(t.users, 0) <> coalesce(c.users, 0)
"""

MEND_EXERCISES = f"""
    WITH exercise_shifts AS ({EXERCISE_DIFFERENCES}), {EXERCISES_SHIFTED}
    SELECT
"""
MEND_USERS = f"""
    WITH user_shifts AS ({USER_DIFFERENCES}), {USERS_SHIFTED}
    INSERT INTO shifted_users
    SELECT user_id FROM user_shifts
"""
MEND_COUNTS = f"""
    INSERT INTO solved_counts AS c (solved, shard, users)
    SELECT solved, {SHARD}, users
      FROM ({COUNT_DIFFERENCES}) AS differences
     ORDER BY solved
        ON CONFLICT (solved, shard) DO UPDATE SET users = c.users + excluded.users
"""

EVERYONE = "IS NOT NULL"


def lose(
    connection: Connection, *, user_id: int, exercise_id: int, solved: bool, attempts: int
) -> None:
    """Take a deleted score out of the sums."""
    LOSE.run(
        connection,
        user_id=user_id,
        exercise_id=exercise_id,
        solved=int(solved),
        attempts=attempts,
    )
    if solved:
        recompute_last_solved(connection, [user_id])


def recompute_last_solved(connection: Connection, user_ids: Sequence[int]) -> None:
    """Set when users last solved an exercise, after this transaction has changed their sums."""
    RECOMPUTE_LAST_SOLVED_OF.run(connection, user_ids=list(user_ids))


def mend(connection: Connection, among: str | None = None) -> None:
    """Bring the sums to what the scores say.

    `among` is a table of (user_id, exercise_id): then of those users and exercises only. What
    others write meanwhile is neither lost nor taken twice: the differences are added.
    """
    users = f"IN (SELECT user_id FROM {among})" if among else EVERYONE
    exercises = f"IN (SELECT exercise_id FROM {among})" if among else EVERYONE
    with connection.cursor() as cursor:
        cursor.execute(MEND_EXERCISES.format(among=exercises))
        cursor.execute("CREATE TEMP TABLE shifted_users (user_id bigint) ON COMMIT DROP")
        cursor.execute(MEND_USERS.format(among=users))
        cursor.execute(RECOMPUTE_LAST_SOLVED.format(users="IN (SELECT user_id FROM shifted_users)"))
        if not among:
            cursor.execute(MEND_COUNTS)


def select_differences() -> list[str]:
    """Return a sentence for each sum that is not what the scores say."""
    users = _read(USER_DIFFERENCES, "user_id")
    exercises = _read(EXERCISE_DIFFERENCES, "exercise_id")
    counts = _read(COUNT_DIFFERENCES, "solved")
    return (
        [
            f"user {row.user_id}: {row.stored} solved, "
            f"scores say {row.stored + row.solved}, the last at {row.last_solved_at}"
            for row in users
        ]
        + [
            f"exercise {row.exercise_id}: by the scores {row.attempted:+} attempted, "
            f"{row.solved:+} solved, {row.attempts:+} attempts"
            for row in exercises
        ]
        + [f"users with {row.solved} solved: by their totals {row.users:+}" for row in counts]
    )


def _read(differences: str, key: str) -> Sequence[Row]:
    statement = f"{differences.format(among=EVERYONE)} ORDER BY {key}"
    return db.read(Statement(statement))
