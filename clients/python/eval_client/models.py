"""What the service tells, as dataclasses. Fields that only a newer service has are left out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import date, datetime
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Score:
    """Whether a user solved an exercise; `solved_at` is when it was correct the first time."""

    id: int
    user_id: int
    exercise_id: int
    correct: bool
    attempts: int
    solved_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class NewScore:
    """A score of a batch, as it is sent.

    `at` is when the answer was given, with a time zone; None means now. Answers may be sent in any
    order of time.
    """

    user_id: int
    exercise_id: int
    correct: bool
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A score of a batch, as it was written."""

    id: int
    created: bool


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at an exercise; `actor` wrote it, or nobody did where it was imported."""

    seq: int
    correct: bool
    actor: int | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Entry:
    """A place on the leaderboard."""

    rank: int
    user_id: int
    solved: int
    last_solved_at: datetime


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The entries around a user, and its own, where it has a rank."""

    entries: list[Entry]
    me: Entry | None


@dataclass(frozen=True, slots=True)
class Streak:
    """For how many days in a row something was solved; the current row ends today or yesterday."""

    current: int
    longest: int


@dataclass(frozen=True, slots=True)
class Progress:
    """What a user has achieved; `days` tells how much was solved on which."""

    solved: int
    attempted: int
    attempts: int
    accuracy: float | None
    streak: Streak
    days: dict[date, int]


@dataclass(frozen=True, slots=True)
class FirstSolved:
    """Who solved an exercise first, and when."""

    user_id: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Stats:
    """How an exercise went with everybody."""

    attempted: int
    solved: int
    attempts: int
    pass_rate: float | None
    first_solved: FirstSolved | None


@dataclass(frozen=True, slots=True)
class ActivityPoint:
    """How much happened in the interval that begins at a time."""

    at: datetime
    attempts: int
    solved: int


@dataclass(frozen=True, slots=True)
class Today:
    """How much happened since midnight in UTC, and by how many users."""

    attempts: int
    correct: int
    users: int
    solved: int


@dataclass(frozen=True, slots=True)
class Activity:
    """How much happened over time, and today."""

    points: list[ActivityPoint]
    today: Today


@dataclass(frozen=True, slots=True)
class FailedExercise:
    """An exercise, and how many of the attempts at it were wrong."""

    exercise_id: int
    failed: int
    attempts: int


@dataclass(frozen=True, slots=True)
class Counter:
    """A counter; `etag` is its version, for who wants to set it only where it is still so."""

    name: str
    value: int
    created_at: datetime
    updated_at: datetime
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """By how much a counter grew in the hour or day that begins at a time."""

    at: datetime
    added: int


@dataclass(frozen=True, slots=True)
class Audit:
    """A counter's value against the sum of its ledger."""

    value: int
    ledger_sum: int
    consistent: bool


def read(kind: Callable[..., T], told: Mapping[str, Any]) -> T:
    """Return what was told as one of the classes above."""
    known = _types(kind)
    return kind(**{name: _value(known[name], told[name]) for name in known if name in told})


@cache
def _types(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _value(declared: Any, told: Any) -> Any:
    if told is None:
        return None
    arguments = get_args(declared)
    if isinstance(told, list):
        return [_value(arguments[0], item) for item in told]
    if declared == dict[date, int]:
        return {date.fromisoformat(day): count for day, count in told.items()}
    plain: Any
    [plain] = [kind for kind in arguments if kind is not type(None)] or [declared]
    if plain is datetime:
        return datetime.fromisoformat(told)
    return read(plain, told) if isinstance(told, dict) else told
