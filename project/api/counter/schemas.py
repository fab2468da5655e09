"""What comes in and goes out about counters; the API document is made from it."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from project.api.counter.badge import COLORS
from project.api.fields import (
    LARGEST_BIGINT,
    MAX_NAME_LENGTH,
    NAME_PATTERN,
    Name,
    Omittable,
    PageQuery,
    QueryTime,
    Strict,
    at_most,
)

COLOR_PATTERN = f"^({'|'.join(COLORS)}|#?([0-9a-fA-F]{{3}}){{1,2}})$"
# XML 1.0, section 2.2, has no other characters, not even escaped; and a picture has one line.
LABEL_PATTERN = r"^[^\x00-\x1f\x7f-\x9f\ufffe\uffff]+$"
PREFIX_PATTERN = "^[A-Za-z0-9_.:-]{1,128}$"
PUBLIC_PREFIX = "public:"
HOME = "public:home"
LARGEST_STEP = 10**12
MOST_NAMES = 1000

Prefix = Annotated[str, Field(pattern=PREFIX_PATTERN)]
Value = Annotated[int, Field(ge=-LARGEST_BIGINT - 1, le=LARGEST_BIGINT)]


def _not_zero(step: int) -> int:
    if step == 0:
        raise ValueError("Input should not be 0")
    return step


Step = Annotated[
    int,
    Field(ge=-LARGEST_STEP, le=LARGEST_STEP, json_schema_extra={"not": {"const": 0}}),
    AfterValidator(_not_zero),
]


def is_name(name: str) -> bool:
    """Return whether a new counter may have this name."""
    return len(name) <= MAX_NAME_LENGTH and re.fullmatch(NAME_PATTERN, name) is not None


def may_exist(name: str) -> bool:
    """Return whether a counter may have this name; earlier versions took names of only dots."""
    return re.fullmatch(PREFIX_PATTERN, name) is not None


def is_public(name: str, **_path: Any) -> bool:
    """Return whether callers without a token may increment the counter of that name."""
    return name.startswith(PUBLIC_PREFIX)


class Increment(Strict):
    """By how much a counter is to change."""

    by: Step = 1


class Increments(Strict):
    """By how much each of several counters is to change, all of them or none."""

    increments: Annotated[dict[Name, Step], at_most(MOST_NAMES, "Dictionary")] = Field(
        min_length=1,
        max_length=MOST_NAMES,
        json_schema_extra={"additionalProperties": False},
    )


class NewValue(Strict):
    """The value that a counter is to have."""

    value: Value


class CounterFilter(PageQuery):
    """Which counters a list shows."""

    prefix: Omittable[Prefix] = Field(description="Only counters whose names begin with this.")


class PrefixQuery(Strict):
    """Which counters to delete."""

    prefix: Prefix = Field(description="All counters whose names begin with this.")


class HistoryQuery(Strict):
    """Which part of a counter's history is asked for."""

    interval: Literal["hour", "day"] = Field("day", description="How long an interval is.")
    since: Omittable[QueryTime] = Field(
        description="The first interval; without it, 24 hours or 30 days before the last."
    )
    until: Omittable[QueryTime] = Field(
        description="Where the last interval ends; without it, now."
    )


class BadgeQuery(Strict):
    """How a badge is to look."""

    label: Omittable[Annotated[str, Field(pattern=LABEL_PATTERN, max_length=64)]] = Field(
        description="What stands on the left; without it, the counter's name."
    )
    color: Annotated[str, Field(pattern=COLOR_PATTERN)] = Field(
        "brightgreen", description="A colour by its name, or in hexadecimal digits."
    )


class ValueAnswer(BaseModel):
    """A counter and its value after an increment."""

    name: Name
    value: Value


class CounterAnswer(ValueAnswer):
    """A counter."""

    created_at: datetime
    updated_at: datetime


class OneValue(BaseModel):
    """The envelope of an increment."""

    status: Literal["success"]
    data: ValueAnswer


class Values(BaseModel):
    """The values of several counters, by name."""

    counters: dict[Name, Value]


class ManyValues(BaseModel):
    """The envelope of increments of several counters."""

    status: Literal["success"]
    data: Values


class OneCounter(BaseModel):
    """The envelope of one counter."""

    status: Literal["success"]
    message: str | None = None
    data: CounterAnswer


class CounterPage(BaseModel):
    """A page of counters, and where the next one begins."""

    counters: list[CounterAnswer]
    next_cursor: str | None


class ManyCounters(BaseModel):
    """The envelope of a page of counters."""

    status: Literal["success"]
    data: CounterPage


class Deleted(BaseModel):
    """The number of deleted counters."""

    deleted: int = Field(ge=0)


class DeletedCounters(BaseModel):
    """The envelope of a deletion of several counters."""

    status: Literal["success"]
    message: str
    data: Deleted


class Point(BaseModel):
    """By how much a counter grew in the interval that begins at a time."""

    at: datetime
    added: int


class Points(BaseModel):
    """The history of a counter, without gaps."""

    points: list[Point]


class History(BaseModel):
    """The envelope of a history."""

    status: Literal["success"]
    data: Points


class AuditAnswer(BaseModel):
    """A counter's value against the sum of its ledger, of the same moment."""

    value: Value
    ledger_sum: int
    consistent: bool


class Audit(BaseModel):
    """The envelope of an audit."""

    status: Literal["success"]
    data: AuditAnswer
