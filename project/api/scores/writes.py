"""What a write of scores does once it has its turn: attempts in, answers out.

Attempts that come at once share a commit. Those of one kind share a statement as well, as long
as they are of different pairs; of one pair they come one after the other, in rounds.
"""

from collections import Counter as Multiset
from collections.abc import Callable, Sequence

from flask import current_app

from project.api import errors
from project.api.errors import ApiError
from project.api.idempotency.keys import Outcome, Write, write_once
from project.api.responses import Answer
from project.api.scores import queries
from project.api.scores.queries import Attempt, ScoreRow, ScoresByPair
from project.combiner import Combiner
from project.extensions import AWAY, db
from project.metrics import BatchMetrics
from project.statements import Connection

ScoreCombiner = Combiner[Write[Attempt], Outcome]
Statement = Callable[[Connection, Sequence[Attempt]], ScoresByPair]

ADDED = "New score was added!"
UPDATED = "Score was updated!"


def new_combiners() -> dict[str, ScoreCombiner]:
    """Return what writes the attempts of many callers together, one for each kind.

    Kinds do not share a transaction: each locks its scores in the order of their keys, and two
    such orders after each other would be none.
    """
    return {
        "add": _combiner("scores_add", queries.insert_scores, errors.ScoreExists),
        "update": _combiner("scores_update", queries.update_scores, errors.ScoreMismatch),
        "upsert": _combiner("scores_upsert", queries.upsert_scores, errors.Internal),
    }


def add(write: Write[Attempt]) -> Outcome:
    """Have an attempt recorded as a new score; refuse it where the pair has one."""
    return _submit("add", write)


def update(write: Write[Attempt]) -> Outcome:
    """Have an attempt recorded in the score that it names; refuse it where that is another's."""
    return _submit("update", write)


def upsert(write: Write[Attempt]) -> Outcome:
    """Have an attempt recorded, in a new score or in the one that there is."""
    return _submit("upsert", write)


def _submit(kind: str, write: Write[Attempt]) -> Outcome:
    combiners: dict[str, ScoreCombiner] = current_app.extensions["score_writes"]
    return combiners[kind].submit(write)


def _combiner(name: str, statement: Statement, refusal: type[ApiError]) -> ScoreCombiner:
    def record(connection: Connection, batch: Sequence[Attempt]) -> list[Outcome]:
        return _in_rounds(connection, batch, statement, refusal)

    def flush(writes: Sequence[Write[Attempt]]) -> list[Outcome]:
        alike = len({write.command.pair for write in writes}) < len(writes)
        several = alike or any(write.key for write in writes)
        return db.transact(
            lambda connection: write_once(connection, writes, record), one_statement=not several
        )

    return Combiner(flush, undivided=AWAY, observe=BatchMetrics(name).observe)


def _in_rounds(
    connection: Connection,
    batch: Sequence[Attempt],
    statement: Statement,
    refusal: type[ApiError],
) -> list[Outcome]:
    """Record the first attempt of each pair, then the second of each that has two, and so on."""
    seen: Multiset[tuple[int, int]] = Multiset()
    rounds: list[dict[int, Attempt]] = []
    for place, attempt in enumerate(batch):
        turn = seen[attempt.pair]
        seen[attempt.pair] += 1
        if turn == len(rounds):
            rounds.append({})
        rounds[turn][place] = attempt
    outcomes: dict[int, Outcome] = {}
    for attempts in rounds:
        scores = statement(connection, list(attempts.values()))
        for place, attempt in attempts.items():
            score = scores.get(attempt.pair)
            outcomes[place] = _recorded(score) if score else refusal()
    return [outcomes[place] for place in range(len(batch))]


def _recorded(score: ScoreRow) -> Answer:
    if score.attempts == 1:
        return Answer(score, ADDED, 201, {"Location": f"/scores/{score.id}"})
    return Answer(score, UPDATED)
