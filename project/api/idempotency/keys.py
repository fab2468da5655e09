"""What a write asks before it writes: whether it was done already.

A key is claimed, the effect applied and the answer kept in one transaction, so that a write
with a key happens exactly once, whatever dies in between. Other requests with the key get the
kept answer. The header is that of the IETF draft "The Idempotency-Key HTTP Header Field".
"""

import hashlib
import re
from collections import Counter as Multiset
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

import orjson
from flask import Response, current_app, request

from project.api import errors
from project.api.addresses import client_address
from project.api.errors import ApiError, RateLimited
from project.api.idempotency import queries
from project.api.idempotency.queries import Kept, Key
from project.api.quotas import quota_exceeded, quota_principal
from project.api.responses import Answer, to_json
from project.config import Settings
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
# Bytes of a response with one item, or of an error.
MAX_ENVELOPE_SIZE = 512

QUOTA_EXCEEDED = (
    "You have sent as many requests with an Idempotency-Key as may be stored for you in a day. "
    "Repeat this one after midnight UTC."
)

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


def sent_key(caller: User | None, response_size: int) -> Key | None:
    """Return the key of the current request, or None if it has none.

    Raise InvalidPayload if the header is not a key.
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
    return Key(principal, key, _fingerprint(), quota_principal(caller), response_size)


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
    claimed = [key for key in keys if key.name not in used]
    over_quota = _over_quota(connection, claimed) if keys else set()
    settled: list[Outcome | None] = [
        _settled(write.key, used, over_quota) if write.key else None for write in writes
    ]
    commands = [write.command for write, known in zip(writes, settled, strict=True) if not known]
    outcomes = iter(effect(connection, commands) if commands else ())
    all_outcomes = [known or next(outcomes) for known in settled]
    _store(
        connection,
        [
            (write.key, outcome)
            for write, outcome in zip(writes, all_outcomes, strict=True)
            if write.key and write.key.name not in used
        ],
    )
    return all_outcomes


def _over_quota(connection: Connection, claimed: Sequence[Key]) -> set[tuple[str, str]]:
    """Return the names of the claimed keys whose responses would exceed a quota."""
    settings: Settings = current_app.extensions["settings"]
    usage = queries.charge(connection, claimed)
    responses = Multiset({row.principal: row.responses for row in usage})
    sizes = Multiset({row.principal: row.bytes for row in usage})
    charged = [key for key in claimed if key.payer is not None]
    responses.subtract(key.payer for key in charged)
    for key in charged:
        sizes[key.payer] -= key.response_size
    over: set[tuple[str, str]] = set()
    for key in charged:
        if (
            responses[key.payer] + 1 > settings.stored_responses_per_day
            or sizes[key.payer] + key.response_size > settings.stored_response_bytes_per_day
        ):
            over.add(key.name)
        else:
            responses[key.payer] += 1
            sizes[key.payer] += key.response_size
    return over


def _settled(
    key: Key, used: Mapping[tuple[str, str], Row], over_quota: Set[tuple[str, str]]
) -> Outcome | None:
    """Return the outcome of a write that must not be applied, or None."""
    if key.name in over_quota:
        return quota_exceeded(QUOTA_EXCEEDED)
    row = used.get(key.name)
    if row is None:
        return None
    same = bytes(row.fingerprint) == key.fingerprint
    return _again(row) if same else errors.IdempotencyKeyReused()


def _store(connection: Connection, outcomes: Sequence[tuple[Key, Outcome]]) -> None:
    """Store the outcomes of claimed keys; release those whose requests should be repeated later."""
    kept = [_kept(key, result) for key, result in outcomes if not isinstance(result, RateLimited)]
    if kept:
        queries.store(connection, kept)
    released = [key for key, outcome in outcomes if isinstance(outcome, RateLimited)]
    if released:
        queries.release(connection, released)


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
    command: Command,
    caller: User | None,
    write: Callable[[Write[Command]], Outcome],
    *,
    response_size: int = 0,
) -> Response:
    """Have the current request's command written by `write`, once, and return the response.

    An error is stored as well, so the same request gets it again; 429 is not. `response_size`
    is the largest number of bytes that the items of the response can have.
    """
    key = sent_key(caller, MAX_ENVELOPE_SIZE + response_size)
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
