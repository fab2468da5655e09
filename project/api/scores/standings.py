"""Where learners and exercises stand, as of the moment: read off scores and their sums."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from project import listings
from project.api.scores.time_zones import Offsets
from project.extensions import db
from project.listings import Listing
from project.statements import Row, Statement

Tie = Literal["competition", "dense", "ordinal"]

# Most solved first; of those with as many, who solved the last of them first.
ORDER = "-solved, last_solved_at, user_id"

# Everyone's standing is a row of user_totals, and how many stand above a number of solved
# exercises is a sum over solved_counts: no rank is found by counting users, but for the places of
# those who share a number.
KEPT = f"""
    WITH chosen AS ({{chosen}}), counts AS (
        SELECT solved, sum(users) AS users
          FROM solved_counts
         WHERE solved >= (SELECT min(solved) FROM chosen)
         GROUP BY solved
        HAVING sum(users) > 0
    ), places AS (
        SELECT solved,
               1 + sum(users) OVER (ORDER BY solved DESC) - users AS competition,
               row_number() OVER (ORDER BY solved DESC) AS dense
          FROM counts
    )
    SELECT CAST({{rank}} AS bigint) AS rank, user_id, solved, {listings.time("last_solved_at")}
      FROM chosen
      JOIN places
     USING (solved)
     ORDER BY {ORDER}
"""

# Of those who solved as many as the first who was chosen, some may stand before the page.
ORDINAL = f"""
    competition - 1 + row_number() OVER (PARTITION BY solved ORDER BY {ORDER})
    + CASE WHEN solved = (SELECT max(solved) FROM chosen) THEN
          (SELECT count(*)
             FROM user_totals AS t,
                  (SELECT * FROM chosen ORDER BY {ORDER} LIMIT 1) AS first
            WHERE t.solved > 0 AND -t.solved = -first.solved
              AND (t.last_solved_at, t.user_id) < (first.last_solved_at, first.user_id))
      ELSE 0 END
"""
KEPT_RANKS = {"competition": "competition", "dense": "dense", "ordinal": ORDINAL}

STANDINGS = "SELECT user_id, solved, last_solved_at FROM user_totals WHERE solved > 0"
FIRST_PAGE = f"{STANDINGS} ORDER BY {ORDER} LIMIT :limit + 1"
NEXT_PAGE = f"""
    {STANDINGS} AND ({ORDER}) > (-CAST(:solved AS bigint), :last_solved_at, :user_id)
     ORDER BY {ORDER}
     LIMIT :limit + 1
"""
# LATERAL, since only a bound of its own makes the index begin at the user.
NEIGHBOURS = f"""
    WITH me AS ({STANDINGS} AND user_id = :user_id)
    SELECT * FROM me
     UNION ALL
    SELECT before.*
      FROM me, LATERAL (
           SELECT t.user_id, t.solved, t.last_solved_at
             FROM user_totals AS t
            WHERE t.solved > 0
              AND (-t.solved, t.last_solved_at, t.user_id)
                < (-me.solved, me.last_solved_at, me.user_id)
            ORDER BY -t.solved DESC, t.last_solved_at DESC, t.user_id DESC
            LIMIT :span) AS before
     UNION ALL
    SELECT behind.*
      FROM me, LATERAL (
           SELECT t.user_id, t.solved, t.last_solved_at
             FROM user_totals AS t
            WHERE t.solved > 0
              AND (-t.solved, t.last_solved_at, t.user_id)
                > (-me.solved, me.last_solved_at, me.user_id)
            ORDER BY -t.solved, t.last_solved_at, t.user_id
            LIMIT :span) AS behind
"""

# For a window of time no sums are kept: its scores are counted. A window ends now, by the clock of
# the database; a score that was stored with a time in the future is not in it.
COUNTED = f"""
    WITH standings AS (
        SELECT user_id, count(*) AS solved, max(solved_at) AS last_solved_at
          FROM scores
         WHERE solved_at >= :since AND solved_at <= now()
         GROUP BY user_id
    ), ranked AS (
        SELECT {{rank}} AS rank, user_id, solved, last_solved_at,
               row_number() OVER (ORDER BY {ORDER}) AS place
          FROM {{ranked}}
    )
    SELECT rank, user_id, solved, {listings.time("last_solved_at")}
      FROM ranked
     WHERE {{chosen}}
     ORDER BY place
     LIMIT :limit + 1
"""
COUNTED_RANKS = {
    "competition": "rank() OVER (ORDER BY solved DESC)",
    "dense": "dense_rank() OVER (ORDER BY solved DESC)",
    "ordinal": f"row_number() OVER (ORDER BY {ORDER})",
}
EVERYONE = "standings"
# Nobody stands above the first page: its own ranks are right.
TOP = f"(SELECT * FROM standings ORDER BY {ORDER} LIMIT :limit + 1) AS top"
COUNTED_FIRST_PAGE = "true"
COUNTED_NEXT_PAGE = f"({ORDER}) > (-CAST(:solved AS bigint), :last_solved_at, :user_id)"
COUNTED_NEIGHBOURS = """
    abs(place - (SELECT place FROM ranked WHERE user_id = :user_id)) <= :span
"""

# The date of a moment in the time zone of :offsets; see Offsets.
DATE = """
    CAST({moment} AT TIME ZONE 'UTC'
         + make_interval(secs => (CAST(:offsets AS integer[]))[
               1 + width_bucket(CAST(floor(extract(epoch FROM {moment})) AS bigint),
                                CAST(:since AS bigint[]))])
         AS date)
"""

PROGRESS = Statement(
    f"""
    WITH mine AS (
        SELECT attempts, correct_attempts, solved_at
          FROM scores
         WHERE user_id = :user_id
    ), days AS (
        SELECT {DATE.format(moment="solved_at")} AS day, count(*) AS solved
          FROM mine
         WHERE solved_at <= now()
         GROUP BY day
    ), streaks AS (
        SELECT min(day) AS first, max(day) AS last, count(*) AS length
          FROM (SELECT day, day - CAST(row_number() OVER (ORDER BY day) AS integer) AS island
                  FROM days) AS islands
         GROUP BY island
    ), today AS (
        SELECT {DATE.format(moment="now()")} AS today
    )
    SELECT count(solved_at) AS solved,
           count(*) AS attempted,
           CAST(coalesce(sum(attempts), 0) AS bigint) AS attempts,
           CAST(sum(correct_attempts) AS double precision) / CAST(sum(attempts) AS double precision)
               AS accuracy,
           json_build_object(
               'current', coalesce((SELECT max(length)
                                      FROM streaks, today
                                     WHERE today BETWEEN first AND last + 1), 0),
               'longest', coalesce((SELECT max(length) FROM streaks), 0)) AS streak,
           coalesce((SELECT json_object_agg(day, solved ORDER BY day) FROM days), '{{}}') AS days
      FROM mine
""",
    user_id="bigint",
    since="bigint[]",
    offsets="integer[]",
)

STATS = Statement(
    f"""
    SELECT CAST(coalesce(sum(attempted), 0) AS bigint) AS attempted,
           CAST(coalesce(sum(solved), 0) AS bigint) AS solved,
           CAST(coalesce(sum(attempts), 0) AS bigint) AS attempts,
           CAST(sum(solved) AS double precision)
               / CAST(nullif(sum(attempted), 0) AS double precision) AS pass_rate,
           (SELECT json_build_object('user_id', user_id, 'at', {listings.time_text("solved_at")})
              FROM scores
             WHERE exercise_id = :exercise_id AND solved_at IS NOT NULL
             ORDER BY solved_at, user_id
             LIMIT 1) AS first_solved
      FROM exercise_totals
     WHERE exercise_id = :exercise_id
""",
    exercise_id="bigint",
)


class Standing(NamedTuple):
    """A place on the leaderboard: behind it the next page begins."""

    solved: int
    last_solved_at: datetime
    user_id: int


def select_leaderboard(
    *,
    tie: Tie,
    since: datetime | None,
    after: Standing | None,
    limit: int,
    known: Sequence[str],
) -> Listing:
    """Return the standings behind `after`; by what was solved since a time, or ever."""
    values = after._asdict() if after else {}
    if since is None:
        rows = KEPT.format(chosen=NEXT_PAGE if after else FIRST_PAGE, rank=KEPT_RANKS[tie])
        return listings.read(rows, limit=limit, known=known, **values)
    ranked, chosen = (EVERYONE, COUNTED_NEXT_PAGE) if after else (TOP, COUNTED_FIRST_PAGE)
    rows = COUNTED.format(ranked=ranked, chosen=chosen, rank=COUNTED_RANKS[tie])
    return listings.read(rows, limit=limit, known=known, since=since, **values)


def select_neighbours(
    user_id: int, span: int, *, tie: Tie, since: datetime | None, known: Sequence[str]
) -> Listing:
    """Return the standing of a user and the `span` before and behind; nothing where it has none."""
    values: dict[str, Any] = {"user_id": user_id, "span": span, "limit": 2 * span + 1}
    if since is None:
        rows = KEPT.format(chosen=NEIGHBOURS, rank=KEPT_RANKS[tie])
        return listings.read(rows, known=known, **values)
    rows = COUNTED.format(ranked=EVERYONE, chosen=COUNTED_NEIGHBOURS, rank=COUNTED_RANKS[tie])
    return listings.read(rows, known=known, since=since, **values)


def select_progress(user_id: int, zone: Offsets) -> Row:
    """Return what a user achieved, by the days of a time zone."""
    [row] = db.read(PROGRESS, user_id=user_id, **zone._asdict())
    return row


def select_stats(exercise_id: int) -> Row:
    """Return how an exercise went with everybody."""
    [row] = db.read(STATS, exercise_id=exercise_id)
    return row
