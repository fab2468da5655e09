"""The endpoints of counters: take apart, call, answer."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from apiflask import APIBlueprint
from flask import Response, make_response, render_template, request

from project.api import errors
from project.api.auth import authenticate, authenticate_unless, only_admin, requires
from project.api.counter import badge, queries, writes
from project.api.counter.queries import CounterRow
from project.api.counter.schemas import (
    HOME,
    Audit,
    BadgeQuery,
    CounterFilter,
    DeletedCounters,
    History,
    HistoryQuery,
    Increment,
    Increments,
    ManyCounters,
    ManyValues,
    NewValue,
    OneCounter,
    OneValue,
    PrefixQuery,
    is_name,
    is_public,
    may_exist,
)
from project.api.counter.writes import Addition, Setting
from project.api.documents import has_version, may_answer, shows_page, shows_picture, takes_key
from project.api.fields import EARLIEST
from project.api.idempotency.keys import alone, submit
from project.api.limits import count_address, limit_anonymous
from project.api.pagination import Page
from project.api.quotas import quota_principal
from project.api.responses import Done, integer, known_etags, success, unchanged
from project.pages import page, versioned
from project.users import User

counter_blueprint = APIBlueprint("counter", __name__)

MOST_POINTS = 1000
# Bytes of a counter in a response, besides its name: quotes, colon, comma, and 64 bits in decimal.
MAX_VALUE_SIZE = 24
INTERVAL = {"hour": timedelta(hours=1), "day": timedelta(days=1)}
# How far a history goes back where nobody says.
SPAN = {"hour": timedelta(hours=24), "day": timedelta(days=30)}


@counter_blueprint.get("/")
@page
@shows_page
def home() -> Response:
    """Count a visit and show how many there were.

    The counter is `public:home`. HEAD, prefetches, and visits beyond the rate limit of their
    address are not counted.
    """
    if _only_looks_ahead() or _is_over_limit():
        counter = queries.select_counter(HOME)
        visits = counter.value if counter else 0
    else:
        visits = writes.count(HOME)
    response = make_response(render_template("home.html", visits=visits))
    response.headers["Cache-Control"] = "no-store"  # a page from a cache would not be counted
    return response


def _only_looks_ahead() -> bool:
    """Return whether nobody sees the page: HEAD, or a browser that fetches it on suspicion."""
    purposes = (request.headers.get(name, "") for name in ("Sec-Purpose", "Purpose"))
    return request.method == "HEAD" or any("prefetch" in purpose.lower() for purpose in purposes)


def _is_over_limit() -> bool:
    """Count the request of this address; return whether it is over its limit."""
    try:
        count_address()
    except errors.RateLimited:
        return True
    return False


@counter_blueprint.post("/counters/<name>/increment")
@authenticate_unless(is_public)
@limit_anonymous
@counter_blueprint.input(Increment)
@counter_blueprint.output(OneValue)
@takes_key
@may_answer(errors.CounterOverflow, errors.CounterNotFound, errors.Forbidden, errors.RateLimited)
def increment_counter(caller: User | None, name: str, json_data: Increment) -> Response:
    """Add to a counter.

    A counter exists from its first increment. If its name begins with `public:`, a caller without a
    token may add 1 to it once it exists, and only administrators may subtract from it;
    `public:home` always exists.
    """
    _check_name(name)
    _check_public(caller, {name: json_data.by})
    must_exist = caller is None and name != HOME
    creator = quota_principal(caller) if caller else None
    addition = Addition({name: json_data.by}, must_exist=must_exist, creator=creator)
    return submit(addition, caller, writes.increment)


@counter_blueprint.post("/counters/increment")
@authenticate
@counter_blueprint.input(Increments)
@counter_blueprint.output(ManyValues)
@takes_key
@may_answer(errors.CounterOverflow, errors.Forbidden, errors.RateLimited)
def increment_counters(caller: User, json_data: Increments) -> Response:
    """Add to several counters, all of them or none.

    Up to 1000 names, each of them once. A counter exists from its first increment. Only
    administrators may subtract from counters whose names begin with `public:`.
    """
    _check_public(caller, json_data.increments)
    addition = Addition(json_data.increments, several=True, creator=quota_principal(caller))
    response_size = sum(len(name) + MAX_VALUE_SIZE for name in json_data.increments)
    return submit(addition, caller, writes.increment, response_size=response_size)


@counter_blueprint.get("/counters/<name>")
@counter_blueprint.output(OneCounter)
@has_version
@may_answer(errors.CounterNotFound)
def get_counter(name: str) -> Response:
    """Get one counter.

    Looking does not count.
    """
    counter = _existing(name)
    return unchanged(writes.etag(counter)) or writes.shown(counter).response()


@counter_blueprint.get("/counters")
@counter_blueprint.input(CounterFilter, location="query")
@counter_blueprint.output(ManyCounters)
@has_version
def list_counters(query_data: CounterFilter) -> Response:
    """List counters in the order of their names.

    The next page begins at `next_cursor`, or where the header `Link` leads.
    """
    listed = Page(query_data)
    listing = queries.select_page(
        after=listed.after or "",
        limit=listed.limit,
        known=known_etags(),
        prefix=query_data.prefix,
    )
    return listed.answer("counters", listing, place=lambda counter: counter["name"])


@counter_blueprint.put("/counters/<name>")
@authenticate
@requires(only_admin)
@counter_blueprint.input(NewValue)
@counter_blueprint.output(OneCounter)
@takes_key
@may_answer(
    errors.Forbidden,
    errors.PreconditionFailed,
    errors.PreconditionRequired,
    created=OneCounter,
    headers=("If-Match", "If-None-Match"),
)
def set_counter(caller: User, name: str, json_data: NewValue) -> Response:
    """Seed, set or reset a counter.

    Administrators only. `If-Match` with the ETag that you saw sets it only where it is still so,
    `If-Match: *` sets it however it is, `If-None-Match: *` creates it.
    """
    _check_name(name)
    if request.headers.get("If-None-Match") == "*":
        return submit(Setting(name, json_data.value), caller, alone(writes.create))
    if "If-Match" not in request.headers:
        raise errors.PreconditionRequired
    return submit(Setting(name, json_data.value), caller, alone(writes.replace))


@counter_blueprint.delete("/counters/<name>")
@authenticate
@counter_blueprint.output(Done)
@may_answer(errors.Forbidden, errors.CounterNotFound)
def delete_counter(caller: User, name: str) -> Response:
    """Delete a counter and its history.

    Administrators only. Its next increment makes a new one.
    """
    only_admin(caller)
    if not (may_exist(name) and queries.delete_counter(name)):
        raise errors.CounterNotFound
    return success(message="Counter was deleted!")


@counter_blueprint.delete("/counters")
@authenticate
@counter_blueprint.input(PrefixQuery, location="query")
@counter_blueprint.output(DeletedCounters)
@may_answer(errors.Forbidden)
def delete_counters(caller: User, query_data: PrefixQuery) -> Response:
    """Delete all counters whose names begin with a prefix, and their histories.

    Administrators only. Batches of 1000 counters are deleted, each in a transaction of its own; if
    the request fails, repeat it. A counter that is created meanwhile may stay.
    """
    only_admin(caller)
    deleted = queries.delete_prefix(query_data.prefix)
    return success({"deleted": deleted}, "Counters were deleted!")


@counter_blueprint.get("/counters/<name>/history")
@counter_blueprint.input(HistoryQuery, location="query")
@counter_blueprint.output(History)
@may_answer(errors.CounterNotFound)
def get_history(name: str, query_data: HistoryQuery) -> Response:
    """Tell by how much a counter grew in each hour or day, in UTC and without gaps.

    Values that were set, and not added, do not stand in it.
    """
    _existing(name)
    interval = query_data.interval
    until = query_data.until or datetime.now(UTC)
    since = _start_of(
        interval, query_data.since or max(until, EARLIEST + SPAN[interval]) - SPAN[interval]
    )
    if (until - since) / INTERVAL[interval] > MOST_POINTS:
        reason = f"A history has at most {MOST_POINTS} points."
        raise errors.InvalidQuery({"since": [reason]})
    points = queries.select_history(name, since=since, until=until, interval=interval)
    return success({"points": [{"at": at, "added": integer(added)} for at, added in points]})


@counter_blueprint.get("/counters/<name>/audit")
@counter_blueprint.output(Audit)
@may_answer(errors.CounterNotFound)
def audit_counter(name: str) -> Response:
    """Hold a counter's value against the sum of its ledger.

    Both are of the same moment.
    """
    found = queries.audit(name) if may_exist(name) else None
    if found is None:
        raise errors.CounterNotFound
    value, ledger_sum = found
    return success(
        {"value": value, "ledger_sum": integer(ledger_sum), "consistent": value == ledger_sum}
    )


@counter_blueprint.get("/counters/<name>/badge.svg")
@counter_blueprint.input(BadgeQuery, location="query")
@shows_picture
@has_version
@may_answer(errors.CounterNotFound)
def get_badge(name: str, query_data: BadgeQuery) -> Response:
    """Draw a counter as a badge.

    It is an SVG picture, for READMEs and pages, which may also be inlined: it has no ids that could
    collide with others. The number is short, like 1.2k. Looking does not count.
    """
    counter = _existing(name)
    layout = badge.layout(query_data.label or name, counter.value, query_data.color)
    response = versioned("badge.svg", "image/svg+xml", **layout)
    # Where it is opened by itself it is a document, which could run scripts.
    response.headers["Content-Security-Policy"] = "default-src 'none'"
    return response


def _existing(name: str) -> CounterRow:
    counter = queries.select_counter(name) if may_exist(name) else None
    if counter is None:
        raise errors.CounterNotFound
    return counter


def _start_of(interval: str, moment: datetime) -> datetime:
    hour = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return hour if interval == "hour" else hour.replace(hour=0)


def _check_name(name: str) -> None:
    if not is_name(name):
        reason = "A name has 1 to 128 letters, digits, or _ . : -, and not only dots."
        raise errors.InvalidPayload({"name": [reason]})


def _check_public(caller: User | None, amounts: Mapping[str, int]) -> None:
    """Raise if the caller may not change public counters by these amounts."""
    if caller is None:
        if set(amounts.values()) != {1}:
            raise errors.TokenRequired
    elif any(is_public(name) and amount < 0 for name, amount in amounts.items()):
        only_admin(caller)
