"""What comes in and goes out about counters; the API document is made from it."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from project.api.fields import LARGEST_BIGINT, NAME_PATTERN, Name, Omittable, PageQuery, Strict

NAME = re.compile(NAME_PATTERN.strip("^$"))
PUBLIC_PREFIX = "public:"
LARGEST_STEP = 10**12

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


def is_public(name: str, **_path: Any) -> bool:
    """Return whether anyone may increment the counter of that name."""
    return name.startswith(PUBLIC_PREFIX)


class Increment(Strict):
    """By how much a counter is to change."""

    by: Step = 1


class CounterFilter(PageQuery):
    """Which counters a list shows."""

    prefix: Omittable[Name]


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


class OneCounter(BaseModel):
    """The envelope of one counter."""

    status: Literal["success"]
    data: CounterAnswer


class CounterPage(BaseModel):
    """A page of counters, and where the next one begins."""

    counters: list[CounterAnswer]
    next_cursor: str | None


class ManyCounters(BaseModel):
    """The envelope of a page of counters."""

    status: Literal["success"]
    data: CounterPage
