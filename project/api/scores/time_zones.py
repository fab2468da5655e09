"""Time zones of the IANA database, by the package tzdata: the same on every machine.

Neither PostgreSQL nor the operating system is asked: which names they know depends on how they
were installed, and PostgreSQL takes some of them (CET, EET) for abbreviations without summer time.
"""

from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from importlib import resources
from typing import NamedTuple
from zoneinfo import ZoneInfo

EPOCH = datetime.fromtimestamp(0, UTC)
SECOND = timedelta(seconds=1)
# No zone has changed its offset and changed it back within this time.
STEP = timedelta(days=7)


class Offsets(NamedTuple):
    """The offsets of a time zone from UTC, in seconds.

    `offsets[0]` holds before `since[0]` (seconds since 1970), `offsets[1]` from then on, and so on.
    """

    since: list[int]
    offsets: list[int]


@cache
def names() -> dict[str, str]:
    """Return the names of all time zones, by their lower-case form."""
    names = resources.files("tzdata").joinpath("zones").read_text().split()
    return {name.lower(): name for name in names}


def find(name: str) -> str | None:
    """Return the name of a time zone as the IANA database spells it, or None if there is none."""
    return names().get(name.lower())


def offsets(name: str) -> Offsets:
    """Return the offsets of a time zone from 1970 until the end of next year."""
    return _offsets(name, datetime.now(UTC).year + 2)


@lru_cache(maxsize=1000)
def _offsets(name: str, end_year: int) -> Offsets:
    zone = ZoneInfo(name)
    before, end = EPOCH, datetime(end_year, 1, 1, tzinfo=UTC)
    found = Offsets([], [_offset(zone, before)])
    while before < end:
        after = before + STEP
        if _offset(zone, after) != found.offsets[-1]:
            found.since.append(_change(zone, before, after))
            found.offsets.append(_offset(zone, after))
        before = after
    return found


def _change(zone: ZoneInfo, before: datetime, after: datetime) -> int:
    """Return the second since 1970 from which on the offset is that of `after`."""
    while after - before > SECOND:
        middle = before + (after - before) // SECOND // 2 * SECOND
        if _offset(zone, middle) == _offset(zone, before):
            before = middle
        else:
            after = middle
    return int(after.timestamp())


def _offset(zone: ZoneInfo, moment: datetime) -> int:
    offset = moment.astimezone(zone).utcoffset() or timedelta()
    return round(offset.total_seconds())
