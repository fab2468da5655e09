#!/usr/bin/env python3
"""The command line: python manage.py --help."""

import gc

# What is imported stays: to go through it over and over takes a third of each start and end.
gc.disable()

import math
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click
import psycopg2
from flask import current_app
from flask.cli import AppGroup, ScriptInfo, routes_command, shell_command
from flask_migrate.cli import db as db_commands
from sqlalchemy.exc import DBAPIError

from project import VERSION, config, create_app, db, migration, seeds, server, suite
from project.api.counter import queries as counters
from project.api.idempotency import queries as keys
from project.api.scores import totals, transfer
from project.app import Service
from project.refusals import refusal
from project.users import User

gc.freeze()
gc.enable()


class Commands(AppGroup):
    """Commands that explain an error of PostgreSQL in one sentence."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except (DBAPIError, psycopg2.Error) as error:
            testing = config.chosen().endswith("TestingConfig")
            sentence = refusal(error, "DATABASE_TEST_URL" if testing else "DATABASE_URL")
            if sentence is None:
                raise
            raise sentence from None


cli = Commands(
    help="eval-service: which learner solved which exercise, and how often anything happened.",
    epilog="Settings come from the environment; README.md lists them. Each command has a --help.",
    context_settings={"obj": ScriptInfo(create_app=create_app, set_debug_flag=False)},
)
click.version_option(VERSION, prog_name="eval-service", message="%(prog)s %(version)s")(cli)
for command in (db_commands, routes_command, shell_command):
    cli.add_command(command)


def worker() -> Service:
    """Return the app of one worker process of `serve`."""
    server.hear_signals()
    app = create_app()
    server.accompany(app)
    return app


@cli.command("serve")
def serve() -> None:
    """Migrate, then serve, with WORKERS processes.

    It stops by Ctrl-C or SIGTERM, and answers first what it has accepted.
    """
    server.serve(current_app)


@cli.command("run")
def run() -> None:
    """Serve for developing, and reload when the code changes."""
    server.run(current_app._get_current_object())


@cli.command("test", with_appcontext=False)
@click.argument("places", nargs=-1)
@click.option("-v", "--verbose", is_flag=True, help="Name each test.")
@click.option("-f", "--failfast", is_flag=True, help="Stop at the first failure.")
@click.option(
    "-k", "patterns", multiple=True, metavar="PATTERN", help="Run only tests whose name matches."
)
@click.option(
    "-j",
    "--jobs",
    default=os.cpu_count(),
    type=click.IntRange(min=1),
    help="Number of processes; by default, one for each CPU.",
)
def test(
    places: Sequence[str], verbose: bool, failfast: bool, patterns: Sequence[str], jobs: int
) -> NoReturn:
    """Run the tests, all or those in PLACES.

    A place is a folder, a file, or a dotted name. A PATTERN is a part of a name, or has
    wildcards; several match if one does. The exit code is 1 if a test fails.
    """
    options = suite.Options(verbose=verbose, failfast=failfast, patterns=patterns, jobs=jobs)
    sys.exit(suite.run(places, options))


@cli.command("cov", with_appcontext=False)
def cov() -> NoReturn:
    """Run all tests and report what they cover.

    Line by line that stands in htmlcov/index.html.
    """
    sys.exit(suite.cover())


@cli.command("recreate_db")
@click.option("--force", is_flag=True, help="Also in staging and production.")
def recreate_db(force: bool) -> None:
    """Drop everything in the database; make it anew."""
    if not (current_app.config["SELF_SUFFICIENT"] or force):
        raise click.ClickException(
            "This drops all data, and APP_SETTINGS says that they are staging's or production's. "
            "Add --force if that is what you want."
        )
    migration.recreate()


@cli.command("seed_db")
@click.option(
    "--scores", default=5000, show_default=True, type=click.IntRange(min=1), help="How many scores."
)
@click.option("--force", is_flag=True, help="Also in staging and production.")
def seed_db(scores: int, force: bool) -> None:
    """Add sample scores and counters.

    Scores and counters that exist stay as they are.
    """
    if not (current_app.config["SELF_SUFFICIENT"] or force):
        raise click.ClickException(
            "This would add made-up scores to staging or production data, as APP_SETTINGS says. "
            "Add --force if that is what you want."
        )
    added = seeds.sow(scores)
    click.echo(
        f"Added {_added('scores', added.scores, scores)} and "
        f"{_added('counters', added.counters, len(seeds.COUNTERS))}."
    )


def _added(what: str, count: int, wanted: int) -> str:
    existed = wanted - count
    return f"{count} {what}" + (
        f" ({existed} existed and were left as they are)" if existed else ""
    )


@cli.command("import_scores")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["csv", "jsonl"]),
    help="If the name of FILE does not show it.",
)
@click.option(
    "--skip-invalid", is_flag=True, help="Import the good lines and write the others to a new file."
)
def import_scores(file: str, format_name: str | None, skip_invalid: bool) -> None:
    """Import scores or answers from FILE: all of its lines, or none.

    FILE ends with .csv or .jsonl, or is - for standard input. It may be compressed by gzip.
    docs/transfer.md describes the columns. With --skip-invalid the refused lines are in
    FILE.rejected, or in FILE.rejected.2 and so on if that exists.
    """
    sys.exit(transfer.import_scores(file, format_name, skip_invalid=skip_invalid))


@cli.command("export_scores")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["csv", "jsonl"]),
    help="If the name of FILE does not show it.",
)
def export_scores(file: str, format_name: str | None) -> None:
    """Export all scores to FILE.

    FILE ends with .csv or .jsonl, and then .gz to compress it, or is - for standard output. A FILE
    that exists is replaced once the export is complete.
    """
    transfer.export_scores(file, format_name)


@cli.command("prune_keys")
def prune_keys() -> None:
    """Delete idempotency keys older than 24 hours."""
    deleted = sum(iter(keys.prune, 0))
    click.echo(f"{deleted} keys deleted.")


@cli.command("audit")
@click.option("--repair", is_flag=True, help="Mend what differs; counters keep their values.")
def audit(repair: bool) -> None:
    """Check that counters and totals are right.

    Each counter is held against its ledger, and each total against the scores. Ends with 1 where
    one differs and was not mended.
    """
    with db.unhurried():
        differing = counters.select_inconsistent()
        differences = totals.select_differences()
        for row in differing:
            click.echo(f"{row.name}: value {row.value}, ledger {row.ledger_sum}")
        for difference in differences:
            click.echo(difference)
        click.echo(f"{len(differing)} counters differ from their ledgers.")
        click.echo(f"{len(differences)} totals differ from the scores.")
        if repair:
            for row in differing:
                counters.repair(row.name)
            if differences:
                db.transact(totals.mend)
            click.echo(f"{len(differing)} ledgers and {len(differences)} totals were mended.")
    sys.exit(1 if (differing or differences) and not repair else 0)


def _number(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    """Return the value of an option, or raise if it is not a number."""
    if math.isnan(value):
        raise click.BadParameter("nan is not a number.")
    return value


@cli.command("issue_token")
@click.option(
    "--user-id", required=True, type=click.IntRange(1, 2**63 - 1), help="The user of the token."
)
@click.option("--admin", is_flag=True, help="Grant the role admin: may do everything.")
@click.option("--service", is_flag=True, help="Grant the role service: may write for any user.")
@click.option(
    "--days",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0.001, 3650),
    callback=_number,
    help="How long the token is valid.",
)
def issue_token(user_id: int, admin: bool, service: bool, days: float) -> None:
    """Print a token for the API."""
    user = User(user_id, is_admin=admin, is_service=service)
    click.echo(current_app.extensions["tokens"].issue(user, days))


if __name__ == "__main__":
    # As if by Ctrl-C: what this process started, an embedded database say, is stopped with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    cli()
