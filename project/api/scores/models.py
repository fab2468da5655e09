"""The tables of scores.

`scores` and `attempts` are what happened. The others are sums over them, kept in the
transaction of whatever changes them, so that a rank or a total is read and not counted.
"""

from datetime import datetime

from sqlalchemy import BigInteger, DateTime, Index, Sequence, SmallInteger, func
from sqlalchemy.orm import Mapped, mapped_column

from project.extensions import db

scores_id_seq = Sequence("scores_id_seq", data_type=BigInteger, metadata=db.metadata)


class Score(db.Model):  # type: ignore[name-defined,misc]
    """Whether a user solved an exercise; one row for each pair.

    The pair is the key, and begins with the user, so that a distributed PostgreSQL can keep
    everything of a user in one place; the id is a second name of the row. `correct` is the answer
    that is latest by its time, `solved_at` the time of the earliest correct one, in whichever order
    they were recorded.
    """

    __tablename__ = "scores"
    __table_args__ = (
        Index(None, "id"),
        Index(None, "exercise_id", "id"),
        # Who solved an exercise first.
        Index(
            "scores_exercise_id_solved_at_idx",
            "exercise_id",
            "solved_at",
            "user_id",
            postgresql_where="solved_at IS NOT NULL",
        ),
        # Who solved how many within a window of time.
        Index(
            "scores_solved_at_idx",
            "solved_at",
            "user_id",
            postgresql_where="solved_at IS NOT NULL",
        ),
        # Room for the next version of a row in the same page, where no index need learn of it.
        {"postgresql_with": {"fillfactor": 90}},
    )

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    exercise_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    id: Mapped[int] = mapped_column(
        BigInteger, scores_id_seq, server_default=scores_id_seq.next_value()
    )
    correct: Mapped[bool]
    attempts: Mapped[int] = mapped_column(BigInteger, server_default="1")
    correct_attempts: Mapped[int] = mapped_column(BigInteger, server_default="0")
    solved_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    # The time of the latest answer; NULL if that is `updated_at`, as it is for answers that are
    # recorded when they are given.
    answered_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    # The time of the earliest answer.
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    # When the score was written last; never before the latest answer.
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class Attempt(db.Model):  # type: ignore[name-defined,misc]
    """One answer, kept forever; `seq` numbers the answers of a score in order of arrival."""

    __tablename__ = "attempts"
    __table_args__ = (
        Index(None, "at"),
        Index(None, "recorded_at", postgresql_where="recorded_at IS NOT NULL"),
    )

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    exercise_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    # The user that sent it, itself or a service for it; NULL if it was imported.
    actor: Mapped[int | None] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    # When an answer with a time of its own was recorded; NULL if that is `at`.
    recorded_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    correct: Mapped[bool]


class UserTotal(db.Model):  # type: ignore[name-defined,misc]
    """How many exercises a user solved; the leaderboard is an index of it."""

    __tablename__ = "user_totals"

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    solved: Mapped[int] = mapped_column(BigInteger)
    last_solved_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


# Whoever solved most comes first, and of those who solved as many, who did so first.
Index(
    "user_totals_standing_idx",
    -UserTotal.solved,
    UserTotal.last_solved_at,
    UserTotal.user_id,
    postgresql_where=UserTotal.solved > 0,
)


class SolvedCount(db.Model):  # type: ignore[name-defined,misc]
    """How many users solved exactly that many exercises: a rank is a sum over it.

    The sum over the shards is the count. Every process of PostgreSQL writes a shard of its own,
    so that two transactions do not wait for each other here.
    """

    __tablename__ = "solved_counts"

    solved: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    shard: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    users: Mapped[int] = mapped_column(BigInteger)


class ExerciseTotal(db.Model):  # type: ignore[name-defined,misc]
    """How an exercise went with everybody; in shards, as above."""

    __tablename__ = "exercise_totals"

    exercise_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    shard: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    attempted: Mapped[int] = mapped_column(BigInteger)
    solved: Mapped[int] = mapped_column(BigInteger)
    attempts: Mapped[int] = mapped_column(BigInteger)
