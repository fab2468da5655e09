"""How the service is: /ping, /health, /ready; and the page that shows the API."""

from typing import Literal, cast

import psycopg2
from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app
from psycopg2.errors import UndefinedTable
from pydantic import BaseModel, Field

from project import durability, metrics
from project.api.auth import authenticate
from project.api.documents import has_version, shows_page, shows_text
from project.api.errors import Unavailable
from project.api.responses import Done, success
from project.extensions import db
from project.migration import HEAD
from project.pages import page, versioned
from project.refusals import CONNECTION_FAILED, cause_of
from project.slow_clients import BodySlots
from project.statements import Statement
from project.users import User

eval_blueprint = APIBlueprint("eval", __name__)

# The version of the schema, and those of the tables that do not exist.
SCHEMA = Statement("""
    SELECT version_num,
           ARRAY(SELECT name
                   FROM unnest(CAST(:tables AS text[])) AS name
                  WHERE to_regclass(quote_ident(name)) IS NULL
                  ORDER BY name) AS missing
      FROM alembic_version
""")


class Readiness(BaseModel):
    """What was asked, and how it is."""

    database: Literal["ok"]
    schema_version: str
    durable: bool = Field(description="Whether a commit is on the disk when it is answered.")
    warnings: list[str]


class Ready(BaseModel):
    """The envelope of a service that is ready."""

    status: Literal["success"]
    data: Readiness


@eval_blueprint.get("/ping")
@authenticate
@eval_blueprint.output(Done)
def ping(_caller: User) -> Response:
    """Answer `pong!` to who has a token.

    So a caller finds out whether its token is good.
    """
    return success(message="pong!")


@eval_blueprint.get("/health")
@eval_blueprint.output(Done)
def health() -> Response:
    """Tell that the process lives.

    It asks nobody, so that a lost database restarts nothing.
    """
    return success(message="sanity check!")


@eval_blueprint.get("/ready")
@eval_blueprint.output(Ready)
def ready() -> Response:
    """Tell whether requests can be served.

    The database must answer, its schema must be current, with all tables, and slots for reading
    bodies must become free; otherwise 503 names the cause. `warnings` name settings by which
    PostgreSQL can lose what it has confirmed.
    """
    slots: BodySlots = current_app.extensions["body_slots"]
    if slots.is_stuck():
        raise Unavailable("No slot for reading a request body becomes free. Restart the worker.")
    version, missing = _schema()
    if version != HEAD:
        raise Unavailable(f"The schema is at {version}, and should be at {HEAD}.")
    if missing:
        raise Unavailable(f"The schema is at {version}, but lacks tables: {', '.join(missing)}.")
    warnings = durability.warnings()
    return success(
        {
            "database": "ok",
            "schema_version": version,
            "durable": not warnings,
            "warnings": warnings,
        }
    )


def _schema() -> tuple[str | None, list[str]]:
    """Return the version of the schema and the tables that are missing."""
    try:
        rows = db.read(SCHEMA, tables=list(db.metadata.tables))
    except UndefinedTable:  # of alembic_version: no migration has run
        return None, []
    except psycopg2.Error as error:
        cause = cause_of(error) or CONNECTION_FAILED
        raise Unavailable(f"{cause.description} Try again later.") from None
    return (rows[0].version_num, rows[0].missing) if rows else (None, [])


@eval_blueprint.get("/metrics")
@shows_text
def metrics_of_all_workers() -> Response:
    """Tell every metric in Prometheus' text format.

    They are summed over all worker processes.
    """
    metrics.look_around(db.pools)
    text_format = metrics.exposition(cast(APIFlask, current_app).version)
    return current_app.response_class(text_format, content_type=metrics.CONTENT_TYPE)


@eval_blueprint.get("/docs")
@page
@shows_page
@has_version
def docs() -> Response:
    """Show this API as a page on which it can be tried.

    It needs nothing from elsewhere, and so no internet.
    """
    return versioned("docs.html")
