"""What comes in and goes out about scores; the API document is made from it."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field
from werkzeug.routing import BaseConverter

from project.api.errors import ScoreNotFound
from project.api.fields import (
    LARGEST_BIGINT,
    Id,
    Omittable,
    PageQuery,
    QueryBoolean,
    QueryId,
    QueryTime,
    Strict,
)


class ScoreId(BaseConverter):
    """The id of a score in a path; what cannot be one is a score that does not exist."""

    def to_python(self, value: str) -> int:
        """Return the id; raise ScoreNotFound where the text is none."""
        if (
            value.isascii()
            and value.isdigit()
            and len(value) < 20
            and 0 < int(value) <= LARGEST_BIGINT
        ):
            return int(value)
        raise ScoreNotFound


class NewScore(Strict):
    """A score as the caller sends it; whose it is comes from the token."""

    exercise_id: Id
    correct: bool
    user_id: Omittable[Id] = Field(
        description="For whom: admins and services may name any user, others only themselves."
    )


class ScoreFilter(PageQuery):
    """Which scores a list shows."""

    user_id: Omittable[QueryId]
    exercise_id: Omittable[QueryId]
    correct: Omittable[QueryBoolean]
    updated_since: Omittable[QueryTime] = Field(description="Only what was written then or later.")


class OwnScoreFilter(PageQuery):
    """Which of the caller's scores a list shows."""

    exercise_id: Omittable[QueryId]
    correct: Omittable[QueryBoolean]
    updated_since: Omittable[QueryTime]


class ScoreAnswer(BaseModel):
    """A score."""

    id: Id
    user_id: Id
    exercise_id: Id
    correct: bool = Field(description="Whether the latest answer was correct.")
    attempts: int = Field(ge=1, description="How often it was written.")
    solved_at: datetime | None = Field(description="When it was correct for the first time.")
    created_at: datetime
    updated_at: datetime


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
