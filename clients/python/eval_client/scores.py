"""The endpoints of scores."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Literal

from eval_client.errors import InvalidPayload
from eval_client.models import (
    Activity,
    Attempt,
    Entry,
    FailedExercise,
    Neighbours,
    NewScore,
    Progress,
    Score,
    Stats,
    Written,
    read,
)
from eval_client.transport import Transport

Lately = Literal["month", "week", "day"]
Window = Literal["all", "month", "week", "day"]
Tie = Literal["competition", "dense", "ordinal"]


class Scores:
    """Which learner solved which exercise.

    Writes are of the token's own user; services and administrators may name another `user_id`.
    `key` is the Idempotency-Key, for who repeats a write from elsewhere; each has its own if not.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def find(
        self,
        *,
        user_id: int | None = None,
        exercise_id: int | None = None,
        correct: bool | None = None,
        updated_since: datetime | None = None,
        page_size: int | None = None,
    ) -> Iterator[Score]:
        """Give the scores that fit, in the order of their ids."""
        return self._transport.pages(
            Score,
            "scores",
            "/scores",
            user_id=user_id,
            exercise_id=exercise_id,
            correct=correct,
            updated_since=updated_since,
            limit=page_size,
        )

    def find_own(
        self,
        *,
        exercise_id: int | None = None,
        correct: bool | None = None,
        updated_since: datetime | None = None,
        page_size: int | None = None,
    ) -> Iterator[Score]:
        """Give the token's own scores that fit, in the order of their ids."""
        return self._transport.pages(
            Score,
            "scores",
            "/scores/user",
            exercise_id=exercise_id,
            correct=correct,
            updated_since=updated_since,
            limit=page_size,
        )

    def get(self, score_id: int) -> Score:
        """Return one score, or raise ScoreNotFound."""
        return read(Score, self._transport.get(f"/scores/{score_id}"))

    def get_own(self, score_id: int) -> Score:
        """Return one of the token's own scores, or raise ScoreNotFound."""
        return read(Score, self._transport.get(f"/scores/user/{score_id}"))

    def add(
        self,
        exercise_id: int,
        correct: bool,
        *,
        user_id: int | None = None,
        key: str | None = None,
    ) -> Score:
        """Record the first answer to an exercise, or raise ScoreExists."""
        return self._write("POST", "/scores", _body(exercise_id, correct, user_id), key)

    def update(
        self,
        score_id: int,
        exercise_id: int,
        correct: bool,
        *,
        user_id: int | None = None,
        key: str | None = None,
    ) -> Score:
        """Record another answer to an exercise that has a score."""
        path = f"/scores/{score_id}"
        return self._write("PUT", path, _body(exercise_id, correct, user_id), key)

    def upsert(
        self,
        exercise_id: int,
        correct: bool,
        *,
        user_id: int | None = None,
        key: str | None = None,
    ) -> Score:
        """Record an answer to an exercise, whether it is the first one or not."""
        return self._write("PATCH", "/scores", _body(exercise_id, correct, user_id), key)

    def upsert_many(self, scores: Sequence[NewScore], *, key: str | None = None) -> list[Written]:
        """Record answers of any users and return what was written, in order.

        For services and administrators. Up to 1000 are written all or none; more are sent in
        chunks of 1000, one after the other. If a chunk fails, `written` of the EvalError says
        how many of the first scores the chunks before it have written; those stay. Of the chunk
        itself none is written, or, if the error is Unreachable or Unavailable, all of it may
        be. To finish, repeat the call with the same `key` and scores: each is written once.
        """
        written: list[Written] = []
        try:
            for answer in self._transport.write_many("/scores/batch", "scores", scores, key):
                written += [read(Written, result) for result in answer.data["results"]]
        except InvalidPayload as error:
            error.errors = {_moved(path, len(written)): why for path, why in error.errors.items()}
            raise
        return written

    def delete(self, score_id: int) -> None:
        """Delete a score with its attempts; administrators. Sent once, since it has no key."""
        self._transport.call("DELETE", f"/scores/{score_id}")

    def attempts(self, score_id: int, *, page_size: int | None = None) -> Iterator[Attempt]:
        """Give every attempt at a score, in order; its owner, services and administrators."""
        path = f"/scores/{score_id}/history"
        return self._transport.pages(Attempt, "attempts", path, limit=page_size)

    def leaderboard(
        self, *, window: Window = "all", tie: Tie = "competition", page_size: int | None = None
    ) -> Iterator[Entry]:
        """Give the users by how many exercises they solved, ever or lately."""
        path = "/scores/leaderboard"
        return self._transport.pages(
            Entry, "entries", path, window=window, tie=tie, limit=page_size
        )

    def neighbours(
        self,
        user_id: int | Literal["me"] = "me",
        *,
        span: int | None = None,
        window: Window = "all",
        tie: Tie = "competition",
    ) -> Neighbours:
        """Return the entries around a user: up to `span`, or 5, before and behind."""
        told = self._transport.get(
            "/scores/leaderboard", around=user_id, span=span, window=window, tie=tie
        )
        return read(Neighbours, told)

    def progress(self, tz: str | None = None) -> Progress:
        """Return what the token's own user has achieved, by the days of a time zone, or of UTC."""
        return read(Progress, self._transport.get("/scores/user/progress", tz=tz))

    def stats(self, exercise_id: int) -> Stats:
        """Return how an exercise went with everybody."""
        return read(Stats, self._transport.get(f"/scores/exercise/{exercise_id}/stats"))

    def activity(self, window: Lately = "day") -> Activity:
        """Return how many attempts and solves there were, by hour, quarter of a day, or day."""
        return read(Activity, self._transport.get("/scores/activity", window=window))

    def failures(self, window: Lately = "day", *, limit: int | None = None) -> list[FailedExercise]:
        """Return the exercises that got most wrong answers lately, the worst first."""
        told = self._transport.get("/scores/failures", window=window, limit=limit)
        return [read(FailedExercise, exercise) for exercise in told["exercises"]]

    def _write(self, method: str, path: str, body: dict[str, Any], key: str | None) -> Score:
        return read(Score, self._transport.write(method, path, body, key).data)


def _moved(path: str, by: int) -> str:
    """Return the path of a field of a chunk as one of the whole call: scores[400] is [1400]."""
    return re.sub(r"^scores\[(\d+)\]", lambda index: f"scores[{int(index[1]) + by}]", path)


def _body(exercise_id: int, correct: bool, user_id: int | None) -> dict[str, Any]:
    body: dict[str, Any] = {"exercise_id": exercise_id, "correct": correct}
    return body if user_id is None else body | {"user_id": user_id}
