"""What a write asks before it writes: whether it was done already.

A key is claimed, the effect applied and the answer kept in one transaction, so that a write
with a key happens exactly once, whatever dies in between. Other requests with the key get the
kept answer. The header is that of the IETF draft "The Idempotency-Key HTTP Header Field".
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

import orjson
from flask import Response, current_app, request

from project.api import errors
from project.api.addresses import client_address
from project.api.errors import ApiError
from project.api.idempotency import queries
from project.api.idempotency.queries import Kept, Key
from project.api.responses import Answer, to_json
from project.extensions import db
from project.statements import Connection, Row
from project.users import User

HEADER = "Idempotency-Key"
PRECONDITIONS = ("If-Match", "If-None-Match")
REPLAYED = {"Idempotency-Replayed": "true"}

# Bare, or as a string of RFC 9651, section 3.3.3.
BARE = re.compile(r"[\x21\x23-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
QUOTED = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])+)"')
LONGEST = 255

Command = TypeVar("Command")
# An effect returns an error where it refuses a command without harm to the others.
Outcome = Answer | ApiError


class Write(NamedTuple, Generic[Command]):
    """What is to be written, and the key that it was sent with."""

    command: Command
    key: Key | None = None


Effect = Callable[[Connection, Sequence[Command]], Sequence[Outcome]]


class KeysUnderway:
    """The keys that this process is working on."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._names: set[tuple[str, str]] = set()

    @contextmanager
    def holding(self, key: Key) -> Iterator[None]:
        """Hold the key for the block; raise RequestInProgress where somebody else does."""
        with self._lock:
            if key.name in self._names:
                raise errors.RequestInProgress
            self._names.add(key.name)
        try:
            yield
        finally:
            with self._lock:
                self._names.remove(key.name)


def sent_key(caller: User | None) -> Key | None:
    """Return the key of the current request, or None where it has none.

    Raise InvalidPayload where the header is no key.
    """
    header = request.environ.get("HTTP_IDEMPOTENCY_KEY")
    if header is None:
        return None
    quoted = QUOTED.fullmatch(header)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else header
    if not (quoted or BARE.fullmatch(header)) or len(key) > LONGEST:
        reason = f"A key has 1 to {LONGEST} printable ASCII characters, bare or in double quotes."
        raise errors.InvalidPayload({HEADER: [reason]})
    address = client_address(request.remote_addr)
    principal = f"user:{caller.user_id}" if caller else f"address:{address}"
    return Key(principal, key, _fingerprint())


def _fingerprint() -> bytes:
    """Return a hash of everything in the current request that decides what it does."""
    lines = [f"{request.method} {request.full_path}"]
    lines += [
        f"{name}: {request.headers[name]}" for name in PRECONDITIONS if name in request.headers
    ]
    head = "".join(f"{line}\n" for line in lines)
    return hashlib.sha256(head.encode() + request.get_data()).digest()


def write_once(
    connection: Connection, writes: Sequence[Write[Command]], effect: Effect[Command]
) -> list[Outcome]:
    """Apply the writes that were not applied before; return the outcome of each.

    `connection` is in a transaction of several statements where any of the writes has a key.
    """
    keys = [write.key for write in writes if write.key]
    used = queries.claim(connection, keys) if keys else {}
    fresh = [write for write in writes if not (write.key and write.key.name in used)]
    outcomes = iter(effect(connection, [write.command for write in fresh]) if fresh else ())
    settled: list[Outcome] = []
    kept: list[Kept] = []
    for write in writes:
        row = used.get(write.key.name) if write.key else None
        if row is not None and write.key is not None:
            same = bytes(row.fingerprint) == write.key.fingerprint
            settled.append(_again(row) if same else errors.IdempotencyKeyReused())
            continue
        outcome = next(outcomes)
        settled.append(outcome)
        if write.key is not None:
            kept.append(_kept(write.key, outcome))
    if kept:
        queries.store(connection, kept)
    return settled


def _kept(key: Key, outcome: Outcome) -> Kept:
    if isinstance(outcome, ApiError):
        return Kept(key, outcome.status, outcome.headers, to_json(errors.envelope(outcome)))
    return Kept(key, outcome.status, outcome.headers, outcome.body())


def _again(row: Row) -> Outcome:
    """Return the outcome that was kept."""
    headers, body = row.headers | REPLAYED, bytes(row.body)
    if row.status < 400:
        return Answer(status=row.status, headers=headers, kept=body)
    failure = errors.from_envelope(orjson.loads(body))
    failure.headers = headers
    return failure


def submit(
    command: Command, caller: User | None, write: Callable[[Write[Command]], Outcome]
) -> Response:
    """Have the current request's command written by `write`, once, and return the answer.

    A refusal is kept as well: the same request gets it again.
    """
    key = sent_key(caller)
    if key is None:
        return _respond(write(Write(command)))
    underway: KeysUnderway = current_app.extensions["keys_underway"]
    with underway.holding(key):
        try:
            outcome = write(Write(command, key))
        except errors.CounterOverflow as error:
            # The effect was rolled back, and the claim with it; the refusal is kept afterwards.
            outcome = alone(lambda *_, refusal=error: [refusal])(Write(command, key))
    return _respond(outcome)


def alone(effect: Effect[Command]) -> Callable[[Write[Command]], Outcome]:
    """Return what writes a single write, in a transaction of its own."""

    def write(sent: Write[Command]) -> Outcome:
        [outcome] = db.transact(lambda connection: write_once(connection, [sent], effect))
        return outcome

    return write


def _respond(outcome: Outcome) -> Response:
    if isinstance(outcome, ApiError):
        raise outcome
    return outcome.response()
