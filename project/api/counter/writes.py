"""What a write of counters does once it has its turn: commands in, answers out."""

from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

from flask import current_app, request

from project.api import errors
from project.api.counter import queries
from project.api.counter.queries import CounterRow
from project.api.errors import ApiError
from project.api.idempotency.keys import Outcome, Write, write_once
from project.api.responses import Answer
from project.combiner import Combiner
from project.extensions import AWAY, db
from project.metrics import BatchMetrics
from project.statements import Connection


class Addition(NamedTuple):
    """The amounts that one caller adds to counters.

    `several` is the form of the request. With `must_exist` it creates no counter.
    """

    amounts: dict[str, int]
    several: bool = False
    must_exist: bool = False


class Setting(NamedTuple):
    """The value that a counter is to have."""

    name: str
    value: int


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
    return db.transact(
        lambda connection: write_once(connection, writes, _add),
        one_statement=_is_one_statement(writes),
    )


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
    """Apply the additions; refuse those alone whose counters should exist and do not.

    Locks keep existing counters from being deleted until the end of the transaction.
    """
    existing: set[str] = set()
    if any(addition.must_exist for addition in batch):
        names = {name for addition in batch for name in addition.amounts}
        existing = queries.lock_existing(connection, names)
    accepted = [
        not addition.must_exist or addition.amounts.keys() <= existing for addition in batch
    ]
    amounts = [addition.amounts for addition in compress(batch, accepted)]
    values = iter(queries.add_in_turn(connection, amounts))
    return [
        _answer(addition, next(values)) if is_accepted else errors.CounterNotFound()
        for addition, is_accepted in zip(batch, accepted, strict=True)
    ]


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
