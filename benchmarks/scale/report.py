"""What came of a run with very many scores: goals and medians as Markdown, all of it as JSON."""

import os
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks import plot, report
from benchmarks.load import Measurement
from benchmarks.report import grouped, short, table
from benchmarks.scale.candidates import BATCH, LAST_PAGES, QUESTIONS, TOP
from benchmarks.scale.place import Ran

COMMAND = f"{report.COMMAND} scale"

PLOT = "performance-scale.svg"
MOST_MEBIBYTES = 300
TITLES = {"import": "import of CSV", "export": "export of CSV"}


@dataclass
class Run:
    """What was asked for, and every measurement that was made."""

    command: str
    scores: int
    rounds: int
    seconds: int
    postgres: str = ""
    seeding_seconds: float = 0
    gibibytes: float = 0
    users: int = 0
    exercises: int = 0
    load_before: float = field(default_factory=lambda: round(os.getloadavg()[0], 2))
    measured: dict[str, list[Measurement]] = field(default_factory=dict)
    # By command, how many rows it took or gave, and how that went.
    ran: dict[str, list[tuple[int, Ran]]] = field(default_factory=dict)

    def median(self, key: str, what: str) -> float | None:
        """Return the median over the rounds, or None where it was not measured."""
        measured = self.measured.get(key)
        return statistics.median(getattr(one, what) for one in measured) if measured else None

    def rows_a_second(self, key: str) -> float | None:
        """Return the median of a command, or None where it was not measured."""
        ran = self.ran.get(key)
        return statistics.median(rows / one.seconds for rows, one in ran) if ran else None

    def mebibytes(self, key: str) -> float | None:
        """Return the most that a command needed, or None where it was not measured."""
        ran = self.ran.get(key)
        return max(one.mebibytes for _, one in ran) if ran else None


@dataclass(frozen=True)
class Goal:
    """What the service is to reach: at least that much, or at most."""

    title: str
    bound: float
    reached: Callable[[Run], float | None]
    at_least: bool = False

    def verdict(self, reached: float) -> tuple[str, str]:
        """Return the goal and what was reached."""
        missed = reached < self.bound if self.at_least else reached > self.bound
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {_number(self.bound)}", f"{_number(reached)}{', missed' * missed}"


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else grouped(value)


def _ratio(what: str, over: str, under: str) -> Callable[[Run], float | None]:
    def reached(run: Run) -> float | None:
        above, below = run.median(over, what), run.median(under, what)
        return above / below if above and below else None

    return reached


def _to_one_score(key: str) -> Callable[[Run], float | None]:
    return _ratio("p50_ms", key, "score")


GOALS = [
    Goal(f"p50 of the last {LAST_PAGES} pages, to page 1", 1.3, _ratio("p50_ms", "last", "first")),
    Goal(
        f"{TOP} scores, requests a second to those by ORM and jsonify",
        5,
        _ratio("rate", "page", "orm"),
        at_least=True,
    ),
    Goal(f"p50 of the leaderboard's first {TOP}, to one score", 5, _to_one_score("top")),
    Goal("p50 of `around=me`, to one score", 5, _to_one_score("around")),
    Goal("p50 of a user's progress, to one score", 5, _to_one_score("progress")),
    Goal("p50 of an exercise's statistics, to one score", 5, _to_one_score("stats")),
    Goal("p50 of the leaderboard of the week, ms", 100, lambda run: run.median("week", "p50_ms")),
    Goal(
        f"rows a second in batches of {BATCH}, to PATCH",
        15,
        _ratio("rate", "batch", "write"),
        at_least=True,
    ),
    Goal("rows a second imported", 50_000, lambda run: run.rows_a_second("import"), at_least=True),
    Goal("MiB that the import needs", MOST_MEBIBYTES, lambda run: run.mebibytes("import")),
    Goal("rows a second exported", 300_000, lambda run: run.rows_a_second("export"), at_least=True),
    Goal("MiB that the export needs", MOST_MEBIBYTES, lambda run: run.mebibytes("export")),
]


def text(run: Run) -> str:
    """Return all that is worth reading, as Markdown."""
    return "\n\n".join(_sections(run))


def _sections(run: Run) -> Iterator[str]:
    yield "### Goals with many scores"
    yield _goals(run)
    yield "### Each by itself"
    yield f"![The p50 of what is asked by one connection]({PLOT})"
    yield _questions(run)
    if run.ran:
        yield _commands(run)
    yield "### How these came about with many scores"
    yield _data(run)
    yield report.circumstances(run)


def _goals(run: Run) -> str:
    rows = [
        (goal.title, *goal.verdict(reached))
        for goal in GOALS
        if (reached := goal.reached(run)) is not None
    ]
    return table([["", "goal", "reached"], *rows])


def _questions(run: Run) -> str:
    rows = [
        [
            question.title,
            str(question.connections),
            grouped(run.median(question.key, "rate") or 0),
            short(run.median(question.key, "p50_ms") or 0),
            short(run.median(question.key, "p99_ms") or 0),
        ]
        for question in QUESTIONS
        if question.key in run.measured
    ]
    return table([["", "connections", "a second", "p50 ms", "p99 ms"], *rows])


def _commands(run: Run) -> str:
    rows = [
        [
            TITLES[key],
            grouped(ran[0][0]),
            grouped(run.rows_a_second(key) or 0),
            f"{run.mebibytes(key):.0f}",
        ]
        for key, ran in run.ran.items()
    ]
    return table([["", "rows", "rows a second", "most MiB"], *rows])


def _data(run: Run) -> str:
    return (
        f"- {grouped(run.scores)} scores of {grouped(run.users)} users on "
        f"{grouped(run.exercises)} exercises, {run.gibibytes:.1f} GiB with all indexes, written by "
        f"`manage.py seed_db` in {run.seeding_seconds:.0f} seconds\n"
        f"- every page of the list and of the leaderboard was read once by cursor, and showed "
        "each score and each user once and in order; at the end `manage.py audit` found no sum "
        "that differs from what the scores say"
    )


def save(run: Run, *, complete: bool) -> list[Path]:
    """Keep the run in results/, and where it is complete in the documentation; return where."""
    saved = [report.save_numbers(asdict(run))]
    if complete:
        saved += [_save_plot(run), report.save_text(COMMAND, text(run))]
    return saved


def _save_plot(run: Run) -> Path:
    """Draw what is asked by one connection, which waits for nobody but the service."""
    values = {
        question.title.replace("`", ""): run.median(question.key, "p50_ms") or 0
        for question in QUESTIONS
        if question.key in run.measured and question.connections == 1
    }
    path = report.DOCS / PLOT
    path.write_text(plot.draw_bars(f"{grouped(run.scores)} scores: p50 of an answer", values, "ms"))
    return path
