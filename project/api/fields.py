"""What every schema is made of: strict models, ids, and the texts of a query string as values."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticKnownError

from project.api.errors import MAX_ERRORS

LARGEST_BIGINT = 2**63 - 1
# The name of a counter: not only dots, which clients and proxies resolve in a path.
NAME_PATTERN = r"^\.*[A-Za-z0-9_:-][A-Za-z0-9_.:-]*$"
MAX_NAME_LENGTH = 128

Id = Annotated[int, Field(ge=1, le=LARGEST_BIGINT)]
Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=MAX_NAME_LENGTH)]


class Strict(BaseModel):
    """A model that converts nothing and refuses by name what it does not know."""

    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _limit_unknown_fields(cls, sent: Any) -> Any:
        """Reject very many unknown fields with one error: pydantic makes one for each."""
        if isinstance(sent, dict) and len(sent) > len(cls.model_fields) + MAX_ERRORS:
            unknown = len(sent.keys() - cls.model_fields.keys())
            raise ValueError(f"There are {unknown} unknown fields. Remove them.")
        return sent


def at_most(count: int, kind: Literal["List", "Dictionary"]) -> BeforeValidator:
    """Count the items of a list or dictionary before any of them is validated."""

    def check(sent: Any) -> Any:
        if isinstance(sent, list | dict) and len(sent) > count:
            details = {"field_type": kind, "max_length": count, "actual_length": len(sent)}
            raise PydanticKnownError("too_long", details)
        return sent

    return BeforeValidator(check)


def _not_null(value: Any) -> Any:
    if value is None:
        raise ValueError("May be left out, but not null")
    return value


T = TypeVar("T")
# A field that may be left out: None then, but never null in JSON.
Omittable = Annotated[T | None, BeforeValidator(_not_null), Field(default=None)]


def to_integer(text: Any) -> Any:
    """Return the number that a query string writes in digits; anything else as it is."""
    return int(text) if isinstance(text, str) and re.fullmatch("[0-9]{1,19}", text) else text


def _boolean(text: Any) -> Any:
    return {"true": True, "false": False}.get(text, text)


EARLIEST = datetime.min.replace(tzinfo=UTC)
LATEST = datetime.max.replace(tzinfo=UTC)
# RFC 3339, section 5.6: always with the offset from UTC. No leap seconds, which PostgreSQL lacks.
RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?"
    r"([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)"
)
WRITE_A_TIME = "Write a time with its offset from UTC (RFC 3339), like 2026-11-20T08:30:00Z"


def _time(text: Any) -> Any:
    """Return the time that a text in the format of RFC 3339 means, in UTC."""
    if not isinstance(text, str) or not RFC_3339.fullmatch(text):
        raise ValueError(WRITE_A_TIME)
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:  # no such day
        raise ValueError(WRITE_A_TIME) from None
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # year 0 or 10 000 in UTC: before or after everything
        return EARLIEST if moment.year == 1 else LATEST


def _query_time(text: Any) -> Any:
    """Return the time; a `+` that was not escaped in the query string arrives as a space."""
    return _time(re.sub(r" (?=\d\d:\d\d$)", "+", text) if isinstance(text, str) else text)


Time = Annotated[AwareDatetime, BeforeValidator(_time)]

# Types of a query string, where everything is text.
QueryId = Annotated[Id, BeforeValidator(to_integer)]
QueryBoolean = Annotated[bool, BeforeValidator(_boolean)]
QueryTime = Annotated[AwareDatetime, BeforeValidator(_query_time)]


class PageQuery(Strict):
    """What every list takes: how many, and where the page before ended."""

    limit: Annotated[int, Field(ge=1, le=1000), BeforeValidator(to_integer)] = Field(
        1000, description="How many rows a page has at most."
    )
    cursor: Omittable[Annotated[str, Field(pattern="^[0-9a-f]+$", max_length=1000)]] = Field(
        description="Where the page begins: the `next_cursor` of the page before."
    )
