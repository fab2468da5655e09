"""What happened when: attempts and solves in intervals of time, and where attempts failed."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from project.extensions import db
from project.statements import Row, Statement

# Each interval is counted by itself, in an index by time, without reading rows. All windows end
# now, by the clock of the database: times in the future do not count.
POINTS = Statement("""
    SELECT at,
           (SELECT count(*)
              FROM attempts AS a
             WHERE a.at >= point.at AND a.at < point.at + step AND a.at <= now()) AS attempts,
           (SELECT count(*)
              FROM scores
             WHERE solved_at >= point.at AND solved_at < point.at + step
               AND solved_at <= now()) AS solved
      FROM make_interval(secs => :seconds) AS step,
           generate_series(CAST(:since AS timestamptz), :until, step) AS point (at)
     ORDER BY at
""")

TODAY = Statement("""
    SELECT count(*) AS attempts,
           count(*) FILTER (WHERE correct) AS correct,
           count(DISTINCT user_id) AS users,
           (SELECT count(*)
              FROM scores
             WHERE solved_at >= :midnight AND solved_at <= now()) AS solved
      FROM attempts
     WHERE at >= :midnight AND at <= now()
""")

FAILURES = Statement("""
    SELECT exercise_id, count(*) FILTER (WHERE NOT correct) AS failed, count(*) AS attempts
      FROM attempts
     WHERE at >= :since AND at <= now()
     GROUP BY exercise_id
    HAVING NOT bool_and(correct)
     ORDER BY failed DESC, attempts, exercise_id
     LIMIT :limit
""")

Window = Literal["day", "week", "month"]


class Shape(NamedTuple):
    """How a window of time is cut: into how many intervals of which length."""

    intervals: int
    step: timedelta


SHAPES: dict[Window, Shape] = {
    "day": Shape(24, timedelta(hours=1)),
    "week": Shape(28, timedelta(hours=6)),
    "month": Shape(30, timedelta(hours=24)),
}
LENGTHS = {window: shape.intervals * shape.step for window, shape in SHAPES.items()}
MIDNIGHT = datetime.min.replace(tzinfo=UTC)


def intervals(window: Window, now: datetime) -> tuple[datetime, datetime]:
    """Return where the first and the last interval of a window begin: the last one holds `now`.

    They begin at whole hours of UTC, quarters of its days, or days.
    """
    count, step = SHAPES[window]
    last = now - (now - MIDNIGHT) % step
    return last - (count - 1) * step, last


def select_points(window: Window) -> Sequence[Row]:
    """Return how many attempts there were in each interval, and how many scores were solved."""
    first, last = intervals(window, datetime.now(UTC))
    seconds = SHAPES[window].step.total_seconds()
    return db.read(POINTS, since=first, until=last, seconds=seconds)


def select_today() -> Row:
    """Return what happened since midnight in UTC: attempts, by how many users, and solves."""
    now = datetime.now(UTC)
    [row] = db.read(TODAY, midnight=now - (now - MIDNIGHT) % timedelta(days=1))
    return row


def select_failures(window: Window, limit: int) -> Sequence[Row]:
    """Return the exercises with the most wrong answers in the window, most wrong answers first."""
    return db.read(FAILURES, since=datetime.now(UTC) - LENGTHS[window], limit=limit)
