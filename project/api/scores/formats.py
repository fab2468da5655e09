"""Rows of scores in CSV and JSON Lines: their columns, their cells, and the exports."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from project.api.fields import LARGEST_BIGINT

ANSWER = ("user_id", "exercise_id", "correct", "at")
TIMES = ("solved_at", "created_at", "updated_at")
SCORE = ("id", "user_id", "exercise_id", "correct", "attempts", "correct_attempts", *TIMES)

# The service counts on from imported values: a new score gets an id above the largest, and the
# attempts at an exercise are added up over all learners. Both must stay within 64 bits.
MAX_ID = 2**62
MAX_ATTEMPTS = 10**9

DELIMITERS = ",;\t|"
BOOLEANS = {"true", "false", "t", "f", "yes", "no", "1", "0"}
DIGITS = re.compile("[0-9]{1,19}")
# RFC 3339, with the offsets that PostgreSQL supports.
TIME = re.compile(
    "[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,9})?"
    "([Zz]|[+-](0[0-9]|1[0-5]):[0-5][0-9])"
)


class Column(NamedTuple):
    """The cells of a column that PostgreSQL can read as they are."""

    json_type: type
    plain: str  # a regular expression; most values match it and need no other check
    is_valid: Callable[[str], bool]
    advice: str
    is_optional: bool = False

    @property
    def pattern(self) -> str:
        """A regular expression for most of the good cells."""
        return f"(?:{self.plain})?" if self.is_optional else f"(?:{self.plain})"

    def accepts(self, cell: str) -> bool:
        """Return whether a cell is good; an empty one is no value."""
        return self.is_valid(cell) if cell else self.is_optional


def _integer(least: int, most: int, *, is_optional: bool = False) -> Column:
    return Column(
        int,
        f"[1-9][0-9]{{0,{len(str(most)) - 2}}}" + ("" if least else "|0"),
        lambda cell: bool(DIGITS.fullmatch(cell)) and least <= int(cell) <= most,
        f"write a whole number from {least} to {most}",
        is_optional,
    )


def _time(*, is_optional: bool = False) -> Column:
    return Column(
        str,
        "[1-9][0-9]{3}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])"
        "T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:[.][0-9]{1,6})?(?:Z|[+]00:00)",
        _is_time,
        "write a time with its offset from UTC, like 2026-11-20T08:30:00Z"
        + (", or leave it out" if is_optional else ""),
        is_optional,
    )


def _is_time(cell: str) -> bool:
    try:
        return bool(TIME.fullmatch(cell) and datetime.fromisoformat(cell.upper()))
    except ValueError:  # a day that its month does not have
        return False


COLUMNS = {
    "id": _integer(1, MAX_ID, is_optional=True),
    "user_id": _integer(1, LARGEST_BIGINT),
    "exercise_id": _integer(1, LARGEST_BIGINT),
    "correct": Column(
        bool,
        "true|false|TRUE|FALSE|1|0",
        lambda cell: cell.lower() in BOOLEANS,
        "write true or false",
    ),
    "attempts": _integer(1, MAX_ATTEMPTS),
    "correct_attempts": _integer(0, MAX_ATTEMPTS),
    "solved_at": _time(is_optional=True),
    "created_at": _time(),
    "updated_at": _time(),
    "at": _time(is_optional=True),
}

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


class Csv:
    """The rows of a CSV file. Its header names the columns and shows the delimiter."""

    has_header = True
    export = EXPORT_CSV

    def __init__(self, header: bytes) -> None:
        """Raise ValueError if the columns are not those of answers or scores."""
        text = _decode(header)
        self._delimiter = next((mark for mark in DELIMITERS if mark in text), ",")
        self.delimiter = self._delimiter.encode()
        names = [name.lower() for name in self._split(text)]
        while names and not names[-1]:
            names.pop()
        for name in _form(names):
            if names.count(name) > 1:
                raise ValueError(f"The column {name} appears twice: remove one")
            if name not in names and not COLUMNS[name].is_optional:
                raise ValueError(f"The column {name} is missing: add it")
        self.columns: Sequence[str] = names
        # Rows that PostgreSQL can read as they are, but for the delimiter.
        self.plain = re.compile(
            re.escape(self._delimiter).join(COLUMNS[name].pattern for name in names).encode()
        )

    def row(self, line: bytes) -> str:
        """Return a row as PostgreSQL reads it, or raise ValueError with what to change."""
        cells = self._split(_decode(line))
        count = len(self.columns)
        if len(cells) < count or any(cells[count:]):
            raise ValueError(f"Write {count} cells, one for each column: these are {len(cells)}")
        return _checked(self.columns, cells[:count])

    def _split(self, text: str) -> list[str]:
        reader = csv.reader([text], delimiter=self._delimiter, skipinitialspace=True, strict=True)
        try:
            return [cell.strip() for cell in next(reader)]
        except csv.Error as error:
            raise ValueError(
                f"Write each row on one line and close its quotes there ({error})"
            ) from None


class JsonLines:
    """The rows of a JSON Lines file. The first object shows whether they are answers or scores."""

    has_header = False
    export = EXPORT_JSONL
    delimiter = b","
    plain = re.compile(b"(?!)")  # PostgreSQL can read none as it is

    def __init__(self, first: bytes) -> None:
        """Raise ValueError if the keys are not those of an answer or a score."""
        self.columns = _form(_object(first))

    def row(self, line: bytes) -> str:
        """Return a row as PostgreSQL reads it, or raise ValueError with what to change."""
        members = _object(line)
        _check_known(members, self.columns)
        cells = [_text(members.get(name), COLUMNS[name].json_type) for name in self.columns]
        return _checked(self.columns, cells)


Format = Csv | JsonLines
FORMATS: dict[str, type[Format]] = {"csv": Csv, "jsonl": JsonLines}


def _checked(columns: Sequence[str], cells: Sequence[str]) -> str:
    reasons = [
        f"{name}: {COLUMNS[name].advice}"
        for name, cell in zip(columns, cells, strict=True)
        if not COLUMNS[name].accepts(cell)
    ]
    if reasons:
        raise ValueError("; ".join(reasons))
    return ",".join(cells)


def _form(names: Iterable[str]) -> Sequence[str]:
    """Return the columns of answers or scores, whichever these belong to."""
    form = ANSWER if set(names).isdisjoint(set(SCORE) - set(ANSWER)) else SCORE
    _check_known(names, form)
    return form


def _check_known(names: Iterable[str], form: Sequence[str]) -> None:
    for name in names:
        if name not in form:
            raise ValueError(f"Unknown column {name!r}: the columns are {', '.join(form)}")


def _object(line: bytes) -> dict[str, Any]:
    try:
        members = DECODER.decode(_decode(line))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"Write one whole JSON object on each line ({error.msg} at character {error.pos + 1})"
        ) from None
    except RecursionError:
        members = None
    if not isinstance(members, dict):
        raise ValueError("Write one whole JSON object on each line")  # noqa: TRY004
    return members


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("A key appears twice: remove one")
    return members


DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _text(value: Any, expected: type) -> str:
    """Return a value as a cell; one of a wrong type becomes a cell that no column accepts."""
    if value is None:
        return ""
    return str(value) if type(value) is expected else "?"


def _decode(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise ValueError("The line is not UTF-8: save the file in UTF-8") from None
