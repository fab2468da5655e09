"""What a write of scores does once it has its turn: attempts in, answers out.

Attempts of one kind that come at once share a statement and a commit.
"""

from collections.abc import Callable, Sequence

from flask import current_app

from project.api import errors
from project.api.errors import ApiError
from project.api.idempotency.keys import Outcome, Write, alone, write_once
from project.api.responses import Answer
from project.api.scores import queries
from project.api.scores.queries import NewAttempt, Recorded, ScoreRow
from project.combiner import Combiner
from project.extensions import AWAY, db
from project.metrics import BatchMetrics
from project.statements import Connection

ScoreCombiner = Combiner[Write[NewAttempt], Outcome]
Statement = Callable[[Connection, Sequence[NewAttempt]], Recorded]

ADDED = "New score was added!"
UPDATED = "Score was updated!"
NOT_IN_THE_FUTURE = "Send a time that is at most 5 minutes ahead of the service's clock"


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


def add(write: Write[NewAttempt]) -> Outcome:
    """Have an attempt recorded as a new score; refuse it where the pair has one."""
    return _submit("add", write)


def update(write: Write[NewAttempt]) -> Outcome:
    """Have an attempt recorded in the score that it names; refuse it where that is another's."""
    return _submit("update", write)


def upsert(write: Write[NewAttempt]) -> Outcome:
    """Have an attempt recorded, in a new score or in the one that there is."""
    return _submit("upsert", write)


def upsert_all(write: Write[Sequence[NewAttempt]]) -> Outcome:
    """Have many attempts recorded, all of them or none, in a transaction of their own."""
    return alone(_upsert_all)(write)


def _upsert_all(connection: Connection, batches: Sequence[Sequence[NewAttempt]]) -> list[Outcome]:
    [attempts] = batches
    if any(attempt.at for attempt in attempts):
        future = queries.find_future(connection, attempts)
        if future:
            return [errors.InvalidPayload({f"scores[{i}].at": [NOT_IN_THE_FUTURE] for i in future})]
    results = [
        {"id": score.id, "created": score.attempts == 1}
        for score in queries.upsert_scores(connection, attempts)
        if score  # always: an upsert refuses nothing
    ]
    return [Answer({"results": results})]


def _submit(kind: str, write: Write[NewAttempt]) -> Outcome:
    combiners: dict[str, ScoreCombiner] = current_app.extensions["score_writes"]
    return combiners[kind].submit(write)


def _combiner(name: str, statement: Statement, refusal: type[ApiError]) -> ScoreCombiner:
    def record(connection: Connection, batch: Sequence[NewAttempt]) -> list[Outcome]:
        scores = statement(connection, batch)
        return [_recorded(score) if score else refusal() for score in scores]

    def flush(writes: Sequence[Write[NewAttempt]]) -> list[Outcome]:
        keyless = not any(write.key for write in writes)
        return db.transact(
            lambda connection: write_once(connection, writes, record), one_statement=keyless
        )

    return Combiner(flush, undivided=AWAY, observe=BatchMetrics(name).observe)


def _recorded(score: ScoreRow) -> Answer:
    if score.attempts == 1:
        return Answer(score, ADDED, 201, {"Location": f"/scores/{score.id}"})
    return Answer(score, UPDATED)
