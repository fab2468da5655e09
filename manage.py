"""The command line; every command in one screen, its work in the room it belongs to.

python manage.py --help
"""

import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click
from flask import current_app
from flask.cli import AppGroup, ScriptInfo
from flask_migrate.cli import db as db_commands

from project import create_app, db, migration, seeds, server, suite
from project.api.counter import queries as counters
from project.api.idempotency import queries as keys
from project.api.scores import totals, transfer
from project.app import Service
from project.users import User

cli = AppGroup(
    help="eval-service: which learner solved which exercise, and how often anything happened.",
    context_settings={"obj": ScriptInfo(create_app=create_app, set_debug_flag=False)},
)
cli.add_command(db_commands)


def worker() -> Service:
    """Return the app of one worker process of `serve`."""
    app = create_app()
    server.accompany(app)
    return app


@cli.command("serve")
def serve() -> None:
    """Serve with granian: WORKERS processes of THREADS threads each."""
    server.serve(current_app)


@cli.command("run")
def run() -> None:
    """Serve for developing: one process, which reloads when the code changes."""
    server.run(current_app._get_current_object())


@cli.command("test", with_appcontext=False)
@click.argument("places", nargs=-1)
@click.option("-v", "--verbose", is_flag=True, help="Name each test.")
@click.option(
    "-j",
    "--jobs",
    default=os.cpu_count(),
    type=click.IntRange(min=1),
    help="In so many processes; one for each CPU where it is not said.",
)
def test(places: Sequence[str], verbose: bool, jobs: int) -> NoReturn:
    """Run the tests, all or those in PLACES (folders, files, dotted names)."""
    sys.exit(suite.run(places, verbose=verbose, jobs=jobs))


@cli.command("cov", with_appcontext=False)
def cov() -> NoReturn:
    """Run the tests and report which branches they cover, also in htmlcov/."""
    sys.exit(suite.cover())


@cli.command("recreate_db")
@click.option("--force", is_flag=True, help="Also in staging and production.")
def recreate_db(force: bool) -> None:
    """Drop everything in the database and make it anew, empty."""
    if not (current_app.config["SELF_SUFFICIENT"] or force):
        raise click.ClickException(
            "This drops all data, and APP_SETTINGS says that they are staging's or production's. "
            "Add --force if that is what you want."
        )
    migration.recreate()


@cli.command("seed_db")
@click.option("--scores", default=5000, show_default=True, type=click.IntRange(min=1))
def seed_db(scores: int) -> None:
    """Fill the database with believable scores and a few counters."""
    seconds = seeds.sow(scores)
    click.echo(f"{scores} scores in {seconds:.1f} s, {scores / seconds:.0f} each second.")


@cli.command("import_scores")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--format", "format_name", type=click.Choice(["csv", "jsonl"]))
@click.option("--skip-invalid", is_flag=True, help="Leave bad lines in FILE.rejected.")
def import_scores(file: str, format_name: str | None, skip_invalid: bool) -> None:
    """Import scores or answers from FILE (.csv, .jsonl, also .gz; - is stdin), all or none."""
    sys.exit(transfer.import_scores(file, format_name, skip_invalid=skip_invalid))


@cli.command("export_scores")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--format", "format_name", type=click.Choice(["csv", "jsonl"]))
def export_scores(file: str, format_name: str | None) -> None:
    """Export all scores to FILE (.csv, .jsonl, also .gz; - is stdout)."""
    transfer.export_scores(file, format_name)


@cli.command("prune_keys")
def prune_keys() -> None:
    """Delete idempotency keys that were kept for long enough."""
    deleted = sum(iter(keys.prune, 0))
    click.echo(f"{deleted} keys deleted.")


@cli.command("audit")
@click.option("--repair", is_flag=True, help="Mend what differs; counters keep their values.")
def audit(repair: bool) -> None:
    """Hold counters against their ledgers, totals against scores; end with 1 where one differs."""
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


@cli.command("issue_token")
@click.option("--user-id", required=True, type=click.IntRange(1, 2**63 - 1))
@click.option("--admin", is_flag=True, help="May do everything, for everyone.")
@click.option("--service", is_flag=True, help="May write for any user.")
@click.option("--days", default=30.0, show_default=True, type=click.FloatRange(0, 3650))
def issue_token(user_id: int, admin: bool, service: bool, days: float) -> None:
    """Print a token of ours."""
    user = User(user_id, is_admin=admin, is_service=service)
    click.echo(current_app.extensions["tokens"].issue(user, days))


if __name__ == "__main__":
    # As if by Ctrl-C: what this process started, an embedded database say, is stopped with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    cli()
