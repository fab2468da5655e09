"""What came of a run: its medians and ratios as Markdown, all of it as JSON, and the plots."""

import json
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import plot
from benchmarks.candidates import CANDIDATES, Candidate
from benchmarks.load import Measurement
from benchmarks.servers import HERE, THREADS, WORKERS

DISKS = ["plain", "slow"]
DISK_TITLES = {
    "plain": "The machine's own disk",
    "slow": "A disk with a flush of 1 ms",
}

DOCS = HERE.parent / "docs"
RESULTS = HERE / "results"
PAGE = DOCS / "performance.md"
COMMAND = "python -m benchmarks"
# Between which lines of the page a command writes.
BEGIN = "<!-- Written by {}: begin -->"
END = "<!-- Written by {}: end -->"

LIBRARIES = ["flask", "granian", "sqlalchemy", "psycopg2-binary", "apiflask", "pydantic"]
TITLES = {candidate.key: candidate.title for candidate in CANDIDATES}


@dataclass(frozen=True)
class Goal:
    """A ratio that the service is to reach: of requests a second, or of p50."""

    title: str
    disk: str
    over: str
    under: str
    bounds: dict[int, float]
    of_p50: bool = False


GOALS = [
    Goal("one counter to the empty route", "plain", "hot", "empty", {32: 0.55, 64: 0.60}),
    Goal("1000 names to the empty route", "plain", "spread", "empty", {32: 0.45, 64: 0.50}),
    Goal("PATCH of scores to the empty route", "plain", "scores", "empty", {32: 0.35, 64: 0.40}),
    Goal("one counter to pgbench", "plain", "hot", "pgbench", {32: 1.6, 64: 2.2}),
    Goal("the same with a flush of 1 ms", "slow", "hot", "pgbench", {32: 8, 64: 14}),
    Goal("one counter to read, add one, write back", "plain", "hot", "tutorial", {32: 12, 64: 16}),
    Goal(
        "p50 of one counter, to that without the combiner",
        "plain",
        "hot",
        "uncombined",
        {1: 1.25},
        of_p50=True,
    ),
]


@dataclass
class Run:
    """What was asked for, and every measurement that was made."""

    command: str
    rounds: int
    seconds: int
    connections: list[int]
    postgres: str = ""
    load_before: float = field(default_factory=lambda: round(os.getloadavg()[0], 2))
    measured: dict[tuple[str, str, int], list[Measurement]] = field(default_factory=dict)
    # How many answers were looked at one by one, on each disk.
    checked: dict[str, int] = field(default_factory=dict)

    def add(
        self, disk: str, candidate: Candidate, connections: int, measurement: Measurement
    ) -> None:
        """Note a measurement."""
        self.measured.setdefault((disk, candidate.key, connections), []).append(measurement)

    def keys(self, disk: str) -> list[str]:
        """Return the candidates that were measured on a disk."""
        return list(dict.fromkeys(key for where, key, _ in self.measured if where == disk))

    def median(self, disk: str, key: str, connections: int, what: str = "rate") -> float | None:
        """Return the median over the rounds, or None where it was not measured."""
        measured = self.measured.get((disk, key, connections))
        return statistics.median(getattr(one, what) for one in measured) if measured else None

    def reached(self, goal: Goal, connections: int) -> float | None:
        """Return the ratio of a goal, or None where it was not measured."""
        what = "p50_ms" if goal.of_p50 else "rate"
        over = self.median(goal.disk, goal.over, connections, what)
        under = self.median(goal.disk, goal.under, connections, what)
        return over / under if over and under else None

    def lost(self, disk: str, key: str) -> float:
        """Return which part of what was answered is not stored."""
        every = [
            measurement
            for (where, which, _), measured in self.measured.items()
            if (where, which) == (disk, key)
            for measurement in measured
            if measurement.stored is not None
        ]
        answered = sum(measurement.acknowledged for measurement in every)
        missing = sum(max(0, one.acknowledged - (one.stored or 0)) for one in every)
        return missing / answered if answered else 0.0


def text(run: Run) -> str:
    """Return all that is worth reading, as Markdown."""
    return "\n\n".join(_sections(run))


def _sections(run: Run) -> Iterator[str]:
    yield "### Goals"
    yield _goals(run)
    for disk, answers in run.checked.items():
        yield f"### {DISK_TITLES[disk]}"
        yield f"![Requests a second by connections]({_plot_name(disk)})"
        yield _medians(run, disk)
        yield _exactness(run, disk, answers)
    yield "### How these came about"
    yield circumstances(run)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as Markdown, the first of them as the heading."""
    heading, *others = rows
    ruler = ["---", *["---:"] * (len(heading) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, ruler, *others))


def _goals(run: Run) -> str:
    rows = [
        [goal.title, str(connections), *_verdict(goal, connections, reached)]
        for goal in GOALS
        for connections in goal.bounds
        if (reached := run.reached(goal, connections)) is not None
    ]
    return table([["ratio of requests a second", "connections", "goal", "reached"], *rows])


def _verdict(goal: Goal, connections: int, reached: float) -> tuple[str, str]:
    """Return the goal and what was reached."""
    bound = goal.bounds[connections]
    missed = reached > bound if goal.of_p50 else reached < bound
    verdict = f"{reached:.2f}, missed" if missed else f"{reached:.2f}"
    return f"{'≤' if goal.of_p50 else '≥'} {bound:.2f}", verdict


def _medians(run: Run, disk: str) -> str:
    columns = ["requests/s · p50 ms · p99 ms", *(_at(count) for count in run.connections)]
    rows = [
        [TITLES[key], *(_cell(run, disk, key, count) for count in run.connections)]
        for key in run.keys(disk)
    ]
    return table([columns, *rows])


def _at(connections: int) -> str:
    return f"{connections} connection{'s' if connections > 1 else ''}"


def _cell(run: Run, disk: str, key: str, connections: int) -> str:
    rate, p50, p99 = (
        run.median(disk, key, connections, what) or 0 for what in ("rate", "p50_ms", "p99_ms")
    )
    return f"{grouped(rate)} · {short(p50)} · {short(p99)}"


def grouped(number: float) -> str:
    """Return a whole number with its thousands apart."""
    return f"{number:,.0f}".replace(",", " ")


def short(milliseconds: float) -> str:
    """Return a time with as many digits as tell something."""
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:.0f}"


def _exactness(run: Run, disk: str, answers: int) -> str:
    sentences = [
        f"Of {grouped(answers)} increments that {THREADS} threads sent at once each was answered "
        "a value of its own, 1 to N; N is what was stored, and what the ledger sums to. In no "
        "measurement of the service was less stored than was answered."
    ]
    if "tutorial" in run.keys(disk):
        lost = run.lost(disk, "tutorial")
        sentences.append(f"Reading, adding one and writing back lost {lost:.0%} of its increments.")
    return " ".join(sentences)


def circumstances(run: Any) -> str:
    """Return by which command the figures came about, and on what machine."""
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return "\n".join(
        [
            f"- `{run.command}`: medians of {run.rounds} rounds of {run.seconds} seconds, in "
            "each of which the candidates took turns",
            f"- {time.strftime('%Y-%m-%d', time.gmtime())}; {os.cpu_count()} cores, which the load "
            f"generator and PostgreSQL share with the service; load before the run "
            f"{run.load_before:.2f}",
            f"- {WORKERS} worker processes of {THREADS} threads",
            f"- {platform.system()} {platform.release().split('-')[0]}, "
            f"Python {platform.python_version()}, PostgreSQL {run.postgres} with fsync",
            f"- {libraries}",
        ]
    )


def save(run: Run, *, complete: bool) -> list[Path]:
    """Keep the run in results/, and where it is complete in the documentation; return where."""
    RESULTS.mkdir(exist_ok=True)
    folder = DOCS if complete else RESULTS
    numbers = asdict(run) | {
        "measured": [
            {"disk": disk, "candidate": key, "connections": connections, **asdict(measurement)}
            for (disk, key, connections), measured in run.measured.items()
            for measurement in measured
        ]
    }
    saved = [save_numbers(numbers), *(_save_plot(run, disk, folder) for disk in run.checked)]
    if complete:
        saved.append(save_text(COMMAND, text(run)))
    return saved


def save_text(command: str, markdown: str) -> Path:
    """Put what a command has to say where it belongs in the documentation; return where."""
    page, begin, end = PAGE.read_text(), BEGIN.format(command), END.format(command)
    before, after = page[: page.index(begin)], page[page.index(end) :]
    PAGE.write_text(f"{before}{begin}\n\n{markdown}\n\n{after}")
    return PAGE


def save_numbers(numbers: dict[str, Any]) -> Path:
    """Keep all numbers of a run; return where."""
    path = RESULTS / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(numbers, indent=1) + "\n")
    return path


def _plot_name(disk: str) -> str:
    return f"performance-{disk}.svg"


def _save_plot(run: Run, disk: str, folder: Path) -> Path:
    lines = {
        key: [run.median(disk, key, count) or 0 for count in run.connections]
        for key in run.keys(disk)
    }
    path = folder / _plot_name(disk)
    title = f"{DISK_TITLES[disk]}: requests a second"
    path.write_text(plot.draw(title, run.connections, lines, TITLES))
    return path
