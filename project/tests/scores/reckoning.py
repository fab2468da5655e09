"""Reference model: computes what the service should answer from the attempts and nothing else.

It does not follow the SQL of the service: if the two differ, one of them is wrong.
"""

from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import NamedTuple
from zoneinfo import ZoneInfo

TIES = ("competition", "dense", "ordinal")
WINDOWS = {
    "all": None,
    "month": timedelta(days=30),
    "week": timedelta(days=7),
    "day": timedelta(days=1),
}
DAY = timedelta(days=1)


class Attempt(NamedTuple):
    user_id: int
    exercise_id: int
    seq: int
    correct: bool
    at: datetime
    recorded_at: datetime

    @property
    def pair(self):
        return self.user_id, self.exercise_id


class Score(NamedTuple):
    user_id: int
    exercise_id: int
    correct: bool
    attempts: int
    correct_attempts: int
    solved_at: datetime | None
    created_at: datetime
    updated_at: datetime


class Entry(NamedTuple):
    rank: int
    user_id: int
    solved: int
    last_solved_at: datetime


def scores(attempts):
    """Return the score of each pair that was attempted."""
    in_order = sorted(attempts, key=lambda attempt: (attempt.pair, attempt.at, attempt.seq))
    return [_score(list(made)) for _, made in groupby(in_order, key=lambda attempt: attempt.pair)]


def _score(made):
    correct = [attempt for attempt in made if attempt.correct]
    return Score(
        *made[0].pair,
        correct=made[-1].correct,
        attempts=len(made),
        correct_attempts=len(correct),
        solved_at=correct[0].at if correct else None,
        created_at=made[0].at,
        updated_at=max(attempt.recorded_at for attempt in made),
    )


def totals(scores):
    """Return by user how many exercises it solved, and when the last of them."""
    solved_at = {}
    for score in scores:
        if score.solved_at is not None:
            solved_at.setdefault(score.user_id, []).append(score.solved_at)
    return {user_id: (len(times), max(times)) for user_id, times in solved_at.items()}


def leaderboard(scores, tie, window="all", now=None):
    """Return an entry for each user that solved something within the window."""
    length = WINDOWS[window]
    standings = totals(
        score
        for score in scores
        if length is None or (score.solved_at and now - length <= score.solved_at <= now)
    )
    order = sorted(
        standings.items(), key=lambda standing: (-standing[1][0], standing[1][1], standing[0])
    )
    numbers = [solved for _, (solved, _) in order]
    return [
        Entry(_rank(tie, numbers, place), user_id, solved, last_solved_at)
        for place, (user_id, (solved, last_solved_at)) in enumerate(order)
    ]


def _rank(tie, numbers, place):
    better = [number for number in numbers if number > numbers[place]]
    if tie == "competition":
        return 1 + len(better)
    return 1 + (len(set(better)) if tie == "dense" else place)


def neighbours(entries, user_id, span):
    """Return the entries from `span` before the user to `span` behind it; none without a rank."""
    for place, entry in enumerate(entries):
        if entry.user_id == user_id:
            return entries[max(0, place - span) : place + span + 1]
    return []


def progress(scores, user_id, time_zone, now):
    """Return what the user achieved, by the days of a time zone."""
    zone = ZoneInfo(time_zone)
    mine = [score for score in scores if score.user_id == user_id]
    solved = [score.solved_at for score in mine if score.solved_at]
    dates = [moment.astimezone(zone).date() for moment in solved if moment <= now]
    attempts = sum(score.attempts for score in mine)
    correct = sum(score.correct_attempts for score in mine)
    return {
        "solved": len(solved),
        "attempted": len(mine),
        "attempts": attempts,
        "accuracy": correct / attempts if attempts else None,
        "streak": _streak(set(dates), now.astimezone(zone).date()),
        "days": {day.isoformat(): dates.count(day) for day in sorted(set(dates))},
    }


def _streak(days, today):
    runs = []
    for day in sorted(days):
        if runs and runs[-1][-1] + DAY == day:
            runs[-1].append(day)
        else:
            runs.append([day])
    current = [run for run in runs if today in run] or [run for run in runs if today - DAY in run]
    return {
        "current": len(current[0]) if current else 0,
        "longest": max((len(run) for run in runs), default=0),
    }


def stats(scores, exercise_id):
    """Return how an exercise went with everybody."""
    tried = [score for score in scores if score.exercise_id == exercise_id]
    solved = sorted((score.solved_at, score.user_id) for score in tried if score.solved_at)
    return {
        "attempted": len(tried),
        "solved": len(solved),
        "attempts": sum(score.attempts for score in tried),
        "pass_rate": len(solved) / len(tried) if tried else None,
        "first_solved": (
            {"user_id": solved[0][1], "at": solved[0][0].astimezone(UTC)} if solved else None
        ),
    }
