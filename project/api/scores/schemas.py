"""What comes in and goes out about scores; the API document is made from it."""

from datetime import date, datetime
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, PlainValidator
from werkzeug.routing import BaseConverter

from project.api.errors import ApiError, NotFound, ScoreNotFound
from project.api.fields import (
    LARGEST_BIGINT,
    Id,
    Omittable,
    PageQuery,
    QueryBoolean,
    QueryId,
    QueryTime,
    Strict,
    Time,
    at_most,
    to_integer,
)
from project.api.scores import time_zones

MOST_SCORES = 1000


class ScoreId(BaseConverter):
    """The id of a score in a path; what cannot be one is a score that does not exist."""

    missing: ClassVar[type[ApiError]] = ScoreNotFound
    # These have paths of their own, and their own methods.
    regex = "(?!(?:activity|batch|exercise|failures|leaderboard|user)$)[^/]+"

    def to_python(self, value: str) -> int:
        """Return the id; raise what is said of the missing where the text is none."""
        if (
            value.isascii()
            and value.isdigit()
            and len(value) < 20
            and 0 < int(value) <= LARGEST_BIGINT
        ):
            return int(value)
        raise self.missing


class ExerciseId(ScoreId):
    """The id of an exercise in a path."""

    missing = NotFound
    regex = "[^/]+"


class NewScore(Strict):
    """A score as the caller sends it; whose it is comes from the token."""

    exercise_id: Id
    correct: bool
    user_id: Omittable[Id] = Field(
        description="For whom: admins and services may name any user, others only themselves."
    )


class NewScoreOf(Strict):
    """A score as a service sends it, for any user."""

    user_id: Id
    exercise_id: Id
    correct: bool
    at: Omittable[Time] = Field(
        description="When the answer was given; now, if left out. Times of more than 5 minutes "
        "ahead are rejected. Answers may arrive in any order."
    )


class NewScores(Strict):
    """Scores as a service sends them, to be written all or none."""

    scores: Annotated[list[NewScoreOf], at_most(MOST_SCORES, "List")] = Field(
        min_length=1, max_length=MOST_SCORES
    )


class OwnScoreFilter(PageQuery):
    """Which of the caller's scores a list shows."""

    exercise_id: Omittable[QueryId] = Field(description="Only those of that exercise.")
    correct: Omittable[QueryBoolean] = Field(
        description="Only those whose latest answer was correct (`true`) or wrong (`false`)."
    )
    updated_since: Omittable[QueryTime] = Field(
        description="Only scores that were written at this time or later."
    )


class ScoreFilter(OwnScoreFilter):
    """Which scores a list shows."""

    user_id: Omittable[QueryId] = Field(description="Only those of that user.")


def _time_zone(name: str) -> str:
    found = time_zones.find(name)
    if found is None:
        raise ValueError("Write the name of a time zone of the IANA database, like Europe/Berlin")
    return found


class ProgressQuery(Strict):
    """The time zone that days of progress are counted in."""

    tz: Annotated[str, Field(max_length=64), AfterValidator(_time_zone)] = Field(
        "UTC", description="A time zone of the IANA database, like Europe/Berlin, in any case."
    )


def _around(text: str) -> str | int:
    number = to_integer(text)
    if text != "me" and not (isinstance(number, int) and 0 < number <= LARGEST_BIGINT):
        raise ValueError("Input should be me, or the id of a user")
    return "me" if text == "me" else number


Around = Annotated[
    str | int,
    PlainValidator(_around, json_schema_input_type=Literal["me"] | Id),
]
Span = Annotated[int, Field(ge=0, le=100), BeforeValidator(to_integer)]


class LeaderboardQuery(PageQuery):
    """Which part of the leaderboard is asked for."""

    limit: Annotated[int, Field(ge=1, le=1000), BeforeValidator(to_integer)] = Field(
        100, description="How many entries a page has at most; ignored with `around`."
    )
    window: Literal["all", "month", "week", "day"] = Field(
        "all", description="What was solved ever, or in the last 30 days, 7 days or 24 hours."
    )
    tie: Literal["competition", "dense", "ordinal"] = Field(
        "competition",
        description="What follows two users of rank 1: 3 (`competition`) or 2 (`dense`). With "
        "`ordinal` no two share a rank.",
    )
    around: Omittable[Around] = Field(
        description="`me` or the id of a user, to see its neighbours instead of a page."
    )
    span: Omittable[Span] = Field(
        description="With `around`: how many neighbors before and behind each; 5 if not given. "
        "Ignored without `around`."
    )


class ActivityQuery(Strict):
    """Which time is looked at."""

    window: Literal["day", "week", "month"] = Field(
        "day", description="The last 24 hours, 7 days or 30 days."
    )


class FailuresQuery(ActivityQuery):
    """Which time is looked at, and how many exercises are shown."""

    limit: Annotated[int, Field(ge=1, le=100), BeforeValidator(to_integer)] = Field(
        10, description="How many exercises at most."
    )


class ScoreAnswer(BaseModel):
    """A score."""

    id: Id
    user_id: Id
    exercise_id: Id
    correct: bool = Field(description="Whether the answer that was given last was correct.")
    attempts: int = Field(ge=1, description="Number of answers.")
    solved_at: datetime | None = Field(description="When the earliest correct answer was given.")
    created_at: datetime = Field(description="When the earliest answer was given.")
    updated_at: datetime = Field(description="When the last answer was recorded.")


class OneScore(BaseModel):
    """The envelope of one score."""

    status: Literal["success"]
    message: str | None = None
    data: ScoreAnswer


class ScorePage(BaseModel):
    """A page of scores, and where the next one begins."""

    scores: list[ScoreAnswer]
    next_cursor: str | None


class ManyScores(BaseModel):
    """The envelope of a page of scores."""

    status: Literal["success"]
    data: ScorePage


class WrittenScore(BaseModel):
    """A score of a batch: its id, and whether it is new."""

    id: Id
    created: bool


class WrittenScores(BaseModel):
    """The scores of a batch, in the order in which they were sent."""

    results: list[WrittenScore]


class Written(BaseModel):
    """The envelope of a batch."""

    status: Literal["success"]
    data: WrittenScores


class AttemptAnswer(BaseModel):
    """One attempt at an exercise."""

    seq: int = Field(ge=1, description="Number of the answer in order of arrival, from 1.")
    correct: bool
    actor: Id | None = Field(description="The user that sent it; null if it was imported.")
    at: datetime = Field(description="When the answer was given.")


class AttemptPage(BaseModel):
    """A page of attempts, and where the next one begins."""

    attempts: list[AttemptAnswer]
    next_cursor: str | None


class ManyAttempts(BaseModel):
    """The envelope of a page of attempts."""

    status: Literal["success"]
    data: AttemptPage


class Entry(BaseModel):
    """A place on the leaderboard."""

    rank: int = Field(ge=1)
    user_id: Id
    solved: int = Field(ge=1)
    last_solved_at: datetime


class Entries(BaseModel):
    """A page of the leaderboard, and where the next one begins; or the neighbours of a user."""

    entries: list[Entry]
    next_cursor: str | None
    me: Entry | None = Field(
        default_factory=lambda: None,
        description="With `around` only: the user's own entry, or null where it has no rank.",
    )


class Leaderboard(BaseModel):
    """The envelope of the leaderboard."""

    status: Literal["success"]
    data: Entries


class Streak(BaseModel):
    """For how many days in a row at least one exercise was solved."""

    current: int = Field(ge=0, description="The row that ends today or yesterday.")
    longest: int = Field(ge=0)


class ProgressAnswer(BaseModel):
    """What a user has achieved."""

    solved: int = Field(ge=0)
    attempted: int = Field(ge=0, description="Exercises, solved or not.")
    attempts: int = Field(ge=0)
    accuracy: float | None = Field(
        ge=0, le=1, description="The share of attempts that were correct; null before the first."
    )
    streak: Streak
    days: dict[date, int] = Field(description="How many exercises were solved on which day.")


class Progress(BaseModel):
    """The envelope of progress."""

    status: Literal["success"]
    data: ProgressAnswer


class FirstSolved(BaseModel):
    """Who solved an exercise first, and when."""

    user_id: Id
    at: datetime


class StatsAnswer(BaseModel):
    """How an exercise went with everybody."""

    attempted: int = Field(ge=0, description="By how many users.")
    solved: int = Field(ge=0, description="By how many of them.")
    attempts: int = Field(ge=0)
    pass_rate: float | None = Field(
        ge=0, le=1, description="The share of users who solved it; null where nobody tried."
    )
    first_solved: FirstSolved | None


class Stats(BaseModel):
    """The envelope of the statistics of an exercise."""

    status: Literal["success"]
    data: StatsAnswer


class ActivityPoint(BaseModel):
    """What happened in the interval that begins at a time."""

    at: datetime
    attempts: int = Field(ge=0)
    solved: int = Field(ge=0, description="How many scores were solved for the first time.")


class Today(BaseModel):
    """What happened since midnight in UTC."""

    attempts: int = Field(ge=0)
    correct: int = Field(ge=0, description="How many of the attempts were correct.")
    users: int = Field(ge=0, description="By how many users they were.")
    solved: int = Field(ge=0, description="How many scores were solved for the first time.")


class ActivityAnswer(BaseModel):
    """What happened when."""

    points: list[ActivityPoint]
    today: Today


class Activity(BaseModel):
    """The envelope of what happened when."""

    status: Literal["success"]
    data: ActivityAnswer


class FailedExercise(BaseModel):
    """An exercise, and how often it was answered wrongly."""

    exercise_id: Id
    failed: int = Field(ge=1, description="How many of the attempts were wrong.")
    attempts: int = Field(ge=1)


class FailedExercises(BaseModel):
    """The exercises with the most wrong answers, the worst first."""

    exercises: list[FailedExercise]


class Failures(BaseModel):
    """The envelope of the exercises with the most wrong answers."""

    status: Literal["success"]
    data: FailedExercises
