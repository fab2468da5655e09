"""The command line of the benchmarks with many scores: fill, measure, check, print, save."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.load import Failed
from benchmarks.scale import report
from benchmarks.scale.candidates import QUESTIONS, Question
from benchmarks.scale.place import FilledPlace, Ran
from benchmarks.scale.report import Run

SCORES = 10_000_000
# What is imported is a tenth of what there is, each time.
IMPORTED = 10
MOST_TRANSFERS = 3
GIBIBYTE = 1024**3


def main(arguments: Sequence[str]) -> int:
    """Run what the command line asks for; return the exit code."""
    options = _options(arguments)
    run = Run(options.command, options.scores, options.rounds, options.seconds)
    with FilledPlace(options.scores, options.keep) as place:
        _describe(place, run)
        _ask(place, [one for one in QUESTIONS if one.key in options.only], run)
        if not options.no_bulk:
            _transfer(place, run)
        place.run("audit")
    print(report.text(run))
    for path in report.save(run, complete=options.complete):
        print(f"Saved {path}", file=sys.stderr)
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(report.COMMAND, description=__doc__)
    keys = [question.key for question in QUESTIONS]
    parser.add_argument("--scores", type=int, default=SCORES, metavar=str(SCORES))
    parser.add_argument("--rounds", type=int, default=5, metavar="5")
    parser.add_argument("--seconds", type=int, default=2, metavar="2", help="of each measurement")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="where the filled database is, or shall be"
    )
    parser.add_argument("--only", type=lambda text: text.split(","), default=keys, metavar="KEYS")
    parser.add_argument("--no-bulk", action="store_true", help="neither import nor export")
    options = parser.parse_args(arguments)
    if unknown := set(options.only) - set(keys):
        parser.error(f"--only takes {','.join(keys)}, not {', '.join(sorted(unknown))}")
    # Where the database is kept is nobody's concern.
    told = [report.COMMAND, *(one.replace(str(options.keep), "FOLDER") for one in arguments)]
    options.command = " ".join(told)
    # What the documentation shows is all of it.
    options.complete = options.scores >= SCORES and options.only == keys and not options.no_bulk
    return options


def _describe(place: FilledPlace, run: Run) -> None:
    run.postgres = place.ask("SHOW server_version")
    run.seeding_seconds = place.seeding_seconds
    run.gibibytes = place.ask("SELECT pg_database_size(current_database())") / GIBIBYTE
    run.scores = place.ask("SELECT count(*) FROM scores")
    run.users = place.ask("SELECT count(*) FROM user_totals")
    run.exercises = place.exercises
    print(
        f"{run.scores} scores of {run.users} users on {run.exercises} exercises, "
        f"{run.gibibytes:.1f} GiB, seeded in {run.seeding_seconds:.0f} seconds",
        file=sys.stderr,
    )


def _ask(place: FilledPlace, questions: Sequence[Question], run: Run) -> None:
    """Ask the questions in turn, so that whatever disturbs the machine disturbs them all."""
    assert place.pages  # before anything is written  # noqa: S101
    assert place.standings  # noqa: S101
    for question in questions:
        question.warm_up(place)
    for round_ in range(run.rounds):
        for question in questions:
            measured = question.measure(place, question.connections, run.seconds)
            run.measured.setdefault(question.key, []).append(measured)
            print(
                f"round {round_ + 1}: {question.title}, {measured.rate:.0f}/s, "
                f"p50 {measured.p50_ms:.2f} ms",
                file=sys.stderr,
            )


def _transfer(place: FilledPlace, run: Run) -> None:
    """Import new scores, then export all, some times over."""
    for _ in range(min(run.rounds, MOST_TRANSFERS)):
        _import(place, run)
        _export(place, run)


def _import(place: FilledPlace, run: Run) -> None:
    count = "SELECT count(*) FROM scores"
    path, before = place.write_new_scores(run.scores // IMPORTED), place.ask(count)
    rows = _lines(path) - 1
    ran = place.run("import_scores", str(path))
    if (stored := place.ask(count) - before) != rows:
        raise Failed(f"Of {rows} new scores {stored} were imported:\n{ran.said}")
    _note(run, "import", rows, ran)


def _export(place: FilledPlace, run: Run) -> None:
    path, rows = place.folder / "export.csv", place.ask("SELECT count(*) FROM scores")
    ran = place.run("export_scores", str(path))
    if (exported := _lines(path) - 1) != rows:
        raise Failed(f"Of {rows} scores {exported} were exported")
    path.unlink()
    _note(run, "export", rows, ran)


def _note(run: Run, command: str, rows: int, ran: Ran) -> None:
    run.ran.setdefault(command, []).append((rows, ran))
    print(
        f"{report.TITLES[command]}: {rows} rows in {ran.seconds:.1f} s, "
        f"{rows / ran.seconds:.0f}/s, {ran.mebibytes:.0f} MiB",
        file=sys.stderr,
    )


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)
