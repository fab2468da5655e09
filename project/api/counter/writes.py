"""What a write of counters does once it has its turn: commands in, answers out."""

from collections import Counter as Multiset
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from flask import current_app, request

from project.api import errors
from project.api.counter import queries
from project.api.counter.queries import CounterRow
from project.api.errors import ApiError
from project.api.idempotency.keys import Outcome, Write, write_once
from project.api.quotas import quota_exceeded
from project.api.responses import Answer
from project.combiner import Combiner
from project.extensions import AWAY, db
from project.metrics import BatchMetrics
from project.statements import Connection

QUOTA_EXCEEDED = (
    "You have created as many counters as you may create in a day. "
    "Increment counters that exist, or try again after midnight UTC."
)


class Addition(NamedTuple):
    """The amounts that one caller adds to counters.

    `several` is the form of the request. With `must_exist` it creates no counter. The counters that
    it creates count against the quota of the principal `creator`; None has no quota.
    """

    amounts: dict[str, int]
    several: bool = False
    must_exist: bool = False
    creator: str | None = None


class Setting(NamedTuple):
    """The value that a counter is to have."""

    name: str
    value: int


class KnownCounters:
    """Names of counters that this process has seen to exist.

    Increments of these need not ask PostgreSQL whether they would create a counter. If one has been
    deleted since, it is created again without counting against a quota.
    """

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._names: set[str] = set()

    def include(self, names: Set[str]) -> bool:
        """Return whether all of the counters are known."""
        return names <= self._names

    def add(self, names: Set[str]) -> None:
        """Add names; forget the others if there are too many."""
        if len(self._names) + len(names) > self._size:
            self._names = set()
        self._names |= names


def new_combiner() -> Combiner[Write[Addition], Outcome]:
    """Return what writes the additions of many callers together."""
    return Combiner(_flush, undivided=AWAY, observe=BatchMetrics("counters").observe)


def count(name: str) -> int:
    """Add 1 to a counter, together with the additions of other callers; return its value."""
    outcome = increment(Write(Addition({name: 1})))
    if isinstance(outcome, ApiError):
        raise outcome
    value: int = outcome.data["value"]
    return value


def increment(write: Write[Addition]) -> Outcome:
    """Have an addition written together with those of other callers."""
    increments: Combiner[Write[Addition], Outcome] = current_app.extensions["increments"]
    return increments.submit(write)


def _flush(writes: Sequence[Write[Addition]]) -> list[Outcome]:
    if _is_one_statement(writes):
        batch = [write.command for write in writes]
        outcomes = db.transact(
            lambda connection: _add_freely(connection, batch), one_statement=True
        )
        if outcomes is not None:
            return outcomes
    return db.transact(lambda connection: write_once(connection, writes, _add))


def _is_one_statement(writes: Sequence[Write[Addition]]) -> bool:
    """Return whether one statement does it all, and never has to be undone.

    Keys and locks take statements of their own. If some add and others subtract, the total may
    fit although a value on the way to it does not.
    """
    if any(write.key or write.command.must_exist for write in writes):
        return False
    steps = [step for write in writes for step in write.command.amounts.values()]
    return len(writes) == 1 or all(step > 0 for step in steps)


def _add(connection: Connection, batch: Sequence[Addition]) -> list[Outcome]:
    """Apply the additions; reject alone those that may not create their counters."""
    outcomes = None
    if not any(addition.must_exist for addition in batch):
        outcomes = _add_freely(connection, batch)
    return _add_within_limits(connection, batch) if outcomes is None else outcomes


def _add_freely(connection: Connection, batch: Sequence[Addition]) -> list[Outcome] | None:
    """Apply the additions in one statement if none of them creates a counter within a quota.

    Otherwise return None and change nothing.
    """
    amounts = [addition.amounts for addition in batch]
    names = {name for added in amounts for name in added}
    known: KnownCounters = current_app.extensions["known_counters"]
    may_create = known.include(names) or not any(addition.creator for addition in batch)
    values = queries.add_in_turn(connection, amounts, may_create=may_create)
    if values is None:
        return None
    if not may_create:
        known.add(names)
    return list(map(_answer, batch, values))


def _add_within_limits(connection: Connection, batch: Sequence[Addition]) -> list[Outcome]:
    """Apply the additions; reject alone those whose counters should exist, or exceed a quota.

    Locks keep existing counters from being deleted until the end of the transaction if an addition
    depends on them.
    """
    names = {name for addition in batch for name in addition.amounts}
    existing = queries.select_existing(connection, names)
    creators = {a.creator for a in batch if a.creator and not a.amounts.keys() <= existing}
    used = queries.charge(connection, dict.fromkeys(creators, 0)) if creators else {}
    if any(addition.must_exist for addition in batch):
        existing = queries.lock_existing(connection, names)
    created: Multiset[str] = Multiset()
    refusals = list(_refusals(batch, existing, used, created))
    if created:
        queries.charge(connection, created)
    amounts = [a.amounts for a, refusal in zip(batch, refusals, strict=True) if not refusal]
    values = iter(queries.add_in_turn(connection, amounts, may_create=True) or ())
    return [
        refusal or _answer(addition, next(values))
        for addition, refusal in zip(batch, refusals, strict=True)
    ]


def _refusals(
    batch: Sequence[Addition], existing: Set[str], used: Mapping[str, int], created: Multiset[str]
) -> Iterator[ApiError | None]:
    """Yield the error of each addition that may not create its counters, None for the others.

    An addition that must not create counters sees those that existed before the batch. What each
    principal creates is added to `created`.
    """
    quota = current_app.extensions["settings"].new_counters_per_day
    known = set(existing)
    for addition in batch:
        if addition.must_exist:
            yield None if addition.amounts.keys() <= existing else errors.CounterNotFound()
            continue
        new = addition.amounts.keys() - known
        if addition.creator and new:
            if used.get(addition.creator, 0) + created[addition.creator] + len(new) > quota:
                yield quota_exceeded(QUOTA_EXCEEDED)
                continue
            created[addition.creator] += len(new)
        known |= new
        yield None


def _answer(addition: Addition, values: dict[str, int]) -> Answer:
    return Answer({"counters": values} if addition.several else _only(values))


def _only(values: dict[str, int]) -> dict[str, Any]:
    [(name, value)] = values.items()
    return {"name": name, "value": value}


def create(connection: Connection, batch: Sequence[Setting]) -> list[Outcome]:
    """Create the one counter of the batch, where there is none."""
    [(name, value)] = batch
    counter = queries.create(connection, name, value)
    if counter is None:
        return [errors.PreconditionFailed()]
    return [shown(counter, "Counter was added!", 201)]


def replace(connection: Connection, batch: Sequence[Setting]) -> list[Outcome]:
    """Set the one counter of the batch, where it is as the request's If-Match says."""
    [(name, value)] = batch
    counter = queries.lock(connection, name)
    if counter is None or not request.if_match.contains(etag(counter)):
        return [errors.PreconditionFailed()]
    return [shown(queries.replace(connection, counter, value), "Counter was set!")]


def shown(counter: CounterRow, message: str | None = None, status: int = 200) -> Answer:
    """Return the answer that shows a counter."""
    data = {name: value for name, value in counter._asdict().items() if name != "version"}
    return Answer(data, message, status, {"ETag": f'"{etag(counter)}"'})


def etag(counter: CounterRow) -> str:
    """Return the counter's version; the time of its birth tells it from a deleted namesake."""
    return f"{counter.created_at.timestamp():.6f}-{counter.version}"
