"""The endpoints of counters: take apart, call, answer."""

from apiflask import APIBlueprint
from flask import Response, make_response, render_template, request

from project.api import errors
from project.api.auth import authenticate_unless
from project.api.counter import queries
from project.api.counter.schemas import (
    NAME,
    CounterFilter,
    Increment,
    ManyCounters,
    OneCounter,
    OneValue,
    is_public,
)
from project.api.documents import may_answer, shows_page
from project.api.fields import NAME_PATTERN
from project.api.pagination import Page
from project.api.requests import page
from project.api.responses import success, unchanged
from project.users import User

counter_blueprint = APIBlueprint("counter", __name__)

HOME = "public:home"


@counter_blueprint.get("/")
@page
@shows_page
def home() -> Response:
    """Count a visit and show how many there were."""
    if _only_looks_ahead():
        counter = queries.select_counter(HOME)
        visits = counter.value if counter else 0
    else:
        visits = increment(HOME, 1)
    response = make_response(render_template("home.html", visits=visits))
    response.headers["Cache-Control"] = "no-store"  # a page from a cache would not be counted
    return response


def _only_looks_ahead() -> bool:
    """Return whether nobody sees the page: HEAD, or a browser that fetches it on suspicion."""
    purposes = (request.headers.get(name, "") for name in ("Sec-Purpose", "Purpose"))
    return request.method == "HEAD" or any("prefetch" in purpose.lower() for purpose in purposes)


@counter_blueprint.post("/counters/<name>/increment")
@authenticate_unless(is_public)
@counter_blueprint.input(Increment)
@counter_blueprint.output(OneValue)
@may_answer(errors.CounterOverflow)
def increment_counter(_caller: User | None, name: str, json_data: Increment) -> Response:
    """Add to a counter; names that begin with `public:` need no token."""
    if not NAME.fullmatch(name):
        raise errors.InvalidPayload({"name": [f"A name should match {NAME_PATTERN}"]})
    return success({"name": name, "value": increment(name, json_data.by)})


@counter_blueprint.get("/counters/<name>")
@counter_blueprint.output(OneCounter)
@may_answer(errors.CounterNotFound)
def get_counter(name: str) -> Response:
    """Get one counter; looking does not count."""
    counter = queries.select_counter(name) if NAME.fullmatch(name) else None
    if counter is None:
        raise errors.CounterNotFound
    # The time of birth tells a counter from one of the same name that was deleted.
    etag = f"{counter.created_at.timestamp():.6f}-{counter.version}"
    shown = {name: value for name, value in counter._mapping.items() if name != "version"}
    return unchanged(etag) or success(shown, headers={"ETag": f'"{etag}"'})


@counter_blueprint.get("/counters")
@counter_blueprint.input(CounterFilter, location="query")
@counter_blueprint.output(ManyCounters)
def list_counters(query_data: CounterFilter) -> Response:
    """List counters in the order of their names."""
    listed = Page(query_data)
    rows = queries.select_page(
        after=listed.after or "", limit=listed.limit, prefix=query_data.prefix
    )
    return listed.answer("counters", rows, place=lambda counter: counter.name)


def increment(name: str, by: int) -> int:
    """Add to one counter and return its value, once that is durable."""
    return queries.add_many({name: by})[name]
