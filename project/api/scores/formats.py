"""The files of scores: their two forms, and how a row stands in a line of CSV or JSON Lines."""

import csv
import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

import orjson
from click import ClickException
from pydantic_core import SchemaValidator
from pydantic_core import core_schema as core

from project.api.fields import LARGEST_BIGINT

ANSWER = ("user_id", "exercise_id", "correct")
TIMES = ("solved_at", "created_at", "updated_at")
SCORE = ("id", *ANSWER, "attempts", "correct_attempts", *TIMES)
NULLABLE = {"at", "solved_at"}
# The largest id is one that the sequence of ids can still go past.
MOST = dict.fromkeys(SCORE, LARGEST_BIGINT) | {"id": LARGEST_BIGINT - 1}
LEAST = dict.fromkeys(SCORE, 1) | {"correct_attempts": 0}

# RFC 3339, with offsets as far as PostgreSQL knows them.
TIME = (
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?"
    "([Zz]|[+-](0[0-9]|1[0-5]):[0-5][0-9])$"
)

# Put together by PostgreSQL. The texts of times are those of RFC 3339 but for the minutes of the
# offset and a space for the T, and quicker than to_char(). No other space is sent, so the T is
# put there on the way into the file, where a core is idle.
TEXTS_OF_TIMES = "SET LOCAL DateStyle TO ISO; SET LOCAL timezone TO 'UTC'"
RFC_3339 = "CAST({name} AS text) || ':00'"
T_FOR_SPACE = bytes.maketrans(b" ", b"T")
# In a file, `updated_at` is the time of the latest answer.
SCORES = """
    SELECT id, user_id, exercise_id, correct, attempts, correct_attempts, solved_at, created_at,
           coalesce(answered_at, updated_at) AS updated_at
      FROM scores
     ORDER BY id
"""
EXPORT_CSV = f"""
    COPY (SELECT id, user_id, exercise_id, CAST(correct AS text) AS correct, attempts,
                 correct_attempts, {", ".join(f"{RFC_3339.format(name=n)} AS {n}" for n in TIMES)}
            FROM ({SCORES}) AS sorted)
      TO STDOUT (FORMAT csv, HEADER)
"""
MEMBERS = ["id", "user_id", "exercise_id", "CAST(correct AS text)", "attempts", "correct_attempts"]
MEMBERS += [f"coalesce('\"' || {RFC_3339.format(name=name)} || '\"', 'null')" for name in TIMES]
EXPORT_JSONL = f"""
    COPY (SELECT concat('{{{
    ", ',".join(f'"{name}":' + f"', {member}" for name, member in zip(SCORE, MEMBERS, strict=True))
}, '}}')
            FROM ({SCORES}) AS sorted)
      TO STDOUT
"""

# Bytes of CSV that need no closer look: most cells of most files.
PLAIN_ID = b"[1-9][0-9]{0,17}"
PLAIN_TIME = (
    b"[1-9][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
    b"T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:[.][0-9]{1,6})?(?:Z|[+]00:00)"
)
PLAIN = dict.fromkeys(SCORE, PLAIN_ID) | {
    "correct": b"(?:true|false)",
    "correct_attempts": b"(?:0|%b)" % PLAIN_ID,
    "created_at": PLAIN_TIME,
    "updated_at": PLAIN_TIME,
    "solved_at": b"(?:%b)?" % PLAIN_TIME,
    "at": b"(?:%b)?" % PLAIN_TIME,
}

Row = Sequence[Any]


def _said(schema: core.CoreSchema, message: str) -> core.CoreSchema:
    return core.custom_error_schema(schema, "refused", custom_error_message=message)


def _written(pattern: str, schema: core.CoreSchema) -> core.CoreSchema:
    return core.chain_schema([core.str_schema(pattern=pattern, strict=True), schema])


def rows_of(format_: "Format", columns: Sequence[str]) -> SchemaValidator:
    """Return what checks rows of these columns."""
    cells = [_cell(name, is_text=format_.has_header) for name in columns]
    return SchemaValidator(core.list_schema(core.tuple_schema(cells)))


def _cell(name: str, *, is_text: bool) -> core.CoreSchema:
    """Return what a cell of this column may be; in a format where all is text, or a JSON value.

    In pydantic's own terms, so that it runs no Python for each of millions of cells.
    """
    if name == "correct":
        boolean = (
            core.literal_schema(["true", "false"]) if is_text else core.bool_schema(strict=True)
        )
        return _said(boolean, "Input should be true or false")
    if name in LEAST and name not in TIMES:
        integer = core.int_schema(ge=LEAST[name], le=MOST[name], strict=not is_text)
        message = f"Input should be an integer from {LEAST[name]} to {MOST[name]}"
        return _said(_written("^[0-9]{1,19}$", integer) if is_text else integer, message)
    message = "Input should be a time as RFC 3339 writes it, like 2026-11-20T08:30:00Z"
    time = _written(TIME, core.datetime_schema(tz_constraint="aware"))
    if name in NULLABLE:
        null = core.literal_schema([""]) if is_text else core.none_schema()
        return _said(core.union_schema([null, time]), f"{message}, or null")
    return _said(time, message)


class Format(Protocol):
    """How rows stand in lines."""

    has_header: bool
    export: str

    def columns(self, line: bytes) -> list[str]:
        """Return the columns that the first line tells."""

    def plain(self, columns: Sequence[str]) -> re.Pattern[bytes]:
        """Return what lines match that PostgreSQL can have as they are."""

    def row(self, line: bytes, columns: Sequence[str]) -> Row:
        """Return the values of a line by column, or raise ValueError with the reason."""

    def text(self, row: Row) -> str:
        """Return a good row as CSV for PostgreSQL."""


class Csv:
    """A header and then cells, by commas."""

    has_header = True
    export = EXPORT_CSV

    def columns(self, line: bytes) -> list[str]:
        """Return the cells of the header."""
        return self._cells(line)

    def plain(self, columns: Sequence[str]) -> re.Pattern[bytes]:
        """Return what lines match whose every cell is plainly right."""
        return re.compile(b",".join(PLAIN[name] for name in columns))

    def row(self, line: bytes, columns: Sequence[str]) -> Row:
        """Return the cells, as many as there are columns."""
        cells = self._cells(line)
        if len(cells) != len(columns):
            raise ValueError(f"There are {len(cells)} cells for {len(columns)} columns")
        return cells

    def text(self, row: Row) -> str:
        """Return the cells as they were, but for quotes: a good one needs none."""
        return ",".join(row)

    def _cells(self, line: bytes) -> list[str]:
        text = _decoded(line)
        if '"' not in text:
            return text.split(",")
        try:
            [cells] = csv.reader([text], strict=True)
        except csv.Error as error:
            raise ValueError(f"The line is not CSV: {error}") from None
        return cells


class JsonLines:
    """An object in each line, all with the same keys."""

    has_header = False
    export = EXPORT_JSONL

    def columns(self, line: bytes) -> list[str]:
        """Return the keys of the first object, also those that stand there twice."""
        pairs = json.loads(_decoded(line), object_pairs_hook=lambda pairs: pairs)
        if not line.lstrip().startswith(b"{"):
            raise ValueError("The line is not a JSON object")
        return [name for name, _ in pairs]

    def plain(self, columns: Sequence[str]) -> re.Pattern[bytes]:  # noqa: ARG002  as of its kind
        """Return what no line matches: PostgreSQL cannot have JSON as it is."""
        return re.compile(b"(?!)")

    def row(self, line: bytes, columns: Sequence[str]) -> Row:
        """Return the values in the order of the columns."""
        try:
            members = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"The line is not JSON: {error}") from None
        if not isinstance(members, dict):
            raise ValueError("The line is not a JSON object")  # noqa: TRY004  like all its kind
        try:
            row = [members[name] for name in columns]
        except KeyError as error:
            raise ValueError(f"{error.args[0]}: Field required") from None
        if len(members) != len(columns):
            unknown = min(members.keys() - set(columns))
            raise ValueError(f"{unknown!r} is no key of the first line")
        return row

    def text(self, row: Row) -> str:
        """Return the values as PostgreSQL reads them; a good one has no comma."""
        return ",".join("" if value is None else str(value) for value in row)


FORMATS: dict[str, Format] = {"csv": Csv(), "jsonl": JsonLines()}


def refuse_other_forms(columns: Sequence[str]) -> None:
    """Raise ClickException where these are the columns of neither form."""
    named = set(columns)
    is_answers = not named & set(SCORE[:1] + SCORE[4:])
    known, optional = ((*ANSWER, "at"), "at") if is_answers else (SCORE, "id")
    for name in columns:
        if columns.count(name) > 1:
            raise ClickException(f"The column {name} stands there twice.")
        if name not in known:
            raise ClickException(f"The column {name!r} is unknown; known are {', '.join(known)}.")
    for name in known:
        if name not in named and name != optional:
            raise ClickException(f"The column {name} is missing.")


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise ValueError("The line is not UTF-8") from None
