"""The tables of scores."""

from datetime import datetime

from sqlalchemy import BigInteger, DateTime, Index, Sequence, func
from sqlalchemy.orm import Mapped, mapped_column

from project.extensions import db

scores_id_seq = Sequence("scores_id_seq", data_type=BigInteger, metadata=db.metadata)


class Score(db.Model):  # type: ignore[name-defined,misc]
    """Whether a user solved an exercise; one row for each pair.

    The pair is the key, and begins with the user, so that a distributed PostgreSQL can keep
    everything of a user in one place; the id is a second name of the row.
    """

    __tablename__ = "scores"
    __table_args__ = (Index(None, "id"), Index(None, "exercise_id", "id"))

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    exercise_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    id: Mapped[int] = mapped_column(
        BigInteger, scores_id_seq, server_default=scores_id_seq.next_value()
    )
    correct: Mapped[bool]
    attempts: Mapped[int] = mapped_column(BigInteger, server_default="1")
    solved_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
