"""The dashboard: what the queries of scores and counters say, on one page that stays current.

The page is asked for again and again by those who look at it, and answered with 304 where it
says the same: so nobody holds a thread, and all that moves is written here and nowhere else.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

import orjson
from apiflask import APIBlueprint
from flask import Response
from pydantic import Field

from project.api.counter import queries as counters
from project.api.documents import has_version, shows_page
from project.api.fields import Omittable, Strict
from project.api.scores import activity, standings
from project.api.scores.activity import SHAPES, Window
from project.dashboard.sparkline import line
from project.heavy_reads import heavy_reads
from project.pages import page, versioned

dashboard_blueprint = APIBlueprint("dashboard", __name__)

MOST_ROWS = 8
MOST_COUNTERS = 12
LAST: dict[Window, str] = {
    "day": "in the last 24 hours",
    "week": "in the last 7 days",
    "month": "in the last 30 days",
}


class DashboardQuery(Strict):
    """What the dashboard shows. Its form and its links send parameters that are empty."""

    window: Window = Field("day", description="The last 24 hours, 7 days or 30 days.")
    prefix: Annotated[str, Field(pattern="^[A-Za-z0-9_.:-]{0,128}$")] = Field(
        "", description="Only counters whose names begin with this."
    )
    brief: Omittable[Literal[""]] = Field(
        description="Empty, to leave out the activity, the leaderboard and the failures."
    )


class ShownCounter(NamedTuple):
    """A counter, and by how much it grew in each interval of the window."""

    name: str
    value: int
    added: Sequence[int]


@dashboard_blueprint.get("/dashboard")
@page
@dashboard_blueprint.input(DashboardQuery, location="query")
@shows_page
@has_version
def show_dashboard(query_data: DashboardQuery) -> Response:
    """Show how the service is used: today, over time, by whom, and where they fail.

    The page is readable without JavaScript. With it the page stays current: it asks for itself
    with the ETag that it has, and with `brief` in between for what costs little, however long the
    window.
    """
    window, prefix = query_data.window, query_data.prefix
    now = datetime.now(UTC)
    shown, more = _counters(prefix, window, now)
    return versioned(
        "dashboard.html",
        window=window,
        windows=list(SHAPES),
        last=LAST[window],
        prefix=prefix,
        now=now,
        today=heavy_reads().share(activity.select_today),
        counters=shown,
        more=more,
        **({} if query_data.brief is not None else heavy_reads().share(_within, window)),
    )


def _within(window: Window) -> dict[str, Any]:
    """Return what happened in a window; the longer it is, the longer that takes."""
    return {
        "points": activity.select_points(window),
        "leaders": _leaders(window),
        "failures": activity.select_failures(window, MOST_ROWS),
    }


def _leaders(window: Window) -> list[dict[str, Any]]:
    listing = standings.select_leaderboard(
        tie="competition",
        since=datetime.now(UTC) - activity.LENGTHS[window],
        after=None,
        limit=MOST_ROWS,
        known=(),
    )
    return _rows(listing.rows)


def _counters(prefix: str, window: Window, now: datetime) -> tuple[list[ShownCounter], bool]:
    """Return the first counters whose names begin with a prefix, and whether there are more."""
    listing = counters.select_page(after="", limit=MOST_COUNTERS, known=(), prefix=prefix or None)
    rows = _rows(listing.rows)
    first, _ = activity.intervals(window, now)
    count, step = SHAPES[window]
    growth = counters.select_growth(
        [row["name"] for row in rows], since=first, step=step, count=count
    )
    shown = [ShownCounter(row["name"], row["value"], growth[row["name"]]) for row in rows]
    return shown, listing.last is not None


def _rows(json: str | None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = orjson.loads(json or "[]")
    return rows


@dashboard_blueprint.app_template_filter("number")
def _number(value: int) -> str:
    return f"{value:,}"


@dashboard_blueprint.app_template_filter("share")
def _share(part: int, whole: int) -> str:
    """Return a part in percent; a hyphen where there is no whole."""
    return f"{round(100 * part / whole)} %" if whole else "-"


@dashboard_blueprint.app_template_filter("moment")
def _moment(at: datetime) -> str:
    return f"{at.astimezone(UTC):%-d %b, %H:%M}"


dashboard_blueprint.add_app_template_filter(line, "line")
